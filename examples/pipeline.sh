#!/usr/bin/env bash
# Export, prune, gate, benchmark: what a CI job does with a model, in plain shell.
#
#   examples/pipeline.sh [FOLDER]      results go there (default: build)
#
#   EXPORT       a command that is given the path of the .onnx file to write
#   TEST         inputs and labels that hold the accuracy (.npz)
#   TARGET       what the pruned model may cost
#   MAX_DROP     points of accuracy that may be lost
#   MIN_SPEEDUP  what the pruned model must be faster by, surely
#
# Exit codes are onnxprune's: 1 where a gate is shut, 3 where nothing can be pruned.
set -euo pipefail

folder="${1:-build}"
EXPORT="${EXPORT:-cp models/digits_cnn.onnx}"
TEST="${TEST:-models/digits_test.npz}"
TARGET="${TARGET:-macs=0.25}"
MAX_DROP="${MAX_DROP:-1.0}"
MIN_SPEEDUP="${MIN_SPEEDUP:-1.0}"
mkdir -p "$folder"

echo "== export" >&2
$EXPORT "$folder/model.onnx"

# The first gate: where more than MAX_DROP is lost, nothing is written, and this is the last line run.
echo "== prune" >&2
onnxprune prune "$folder/model.onnx" -o "$folder/smaller.onnx" --force \
    --target "$TARGET" --eval "$TEST" --max-drop "$MAX_DROP" --no-benchmark \
    --plan-out "$folder/plan.json" --json > "$folder/prune.json"

echo "== benchmark" >&2
onnxprune bench "$folder/model.onnx" "$folder/smaller.onnx" --json > "$folder/bench.json"

# The second gate: the lower end of the interval, so that luck does not open it.
echo "== gate" >&2
python - "$folder/bench.json" "$MIN_SPEEDUP" << 'END'
import json
import sys

low, high = json.load(open(sys.argv[1]))["interval"]
print(f"{low:.2f} to {high:.2f} times faster; {sys.argv[2]} is wanted")
sys.exit(low < float(sys.argv[2]))
END
