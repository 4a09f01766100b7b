"""What pruning a large file costs, against reading and writing it: time and peak memory.

    python -m benchmarks.prune_file [--rounds 5] [--ratio 0.5] [--model FILE] [--json]

Makes a model of ViT-B/16's size (86 million float32 parameters, 350 MB) in a temporary folder, and
runs, in turns and each time in a fresh process,

    copy    onnx.load and onnx.save
    prune   onnxprune: load, plan, rewrite and save, without checks and timing

Time (s) runs from the call until the file is written, imports excluded; memory (MB) is the largest
resident size of the whole process. The ratios are medians over the rounds. Exits with 1 where a
ratio is above its bound: 1.5 for time, 1.2 for memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BOUNDS = {"seconds": 1.5, "megabytes": 1.2}

_MAKE = """
import onnx
from models import vit
onnx.save(vit.build(width=768, heads=12, head_dim=64, inner=3072, depth=12, image=224, patch=16,
                    classes=1000), {source!r})
"""

_MEASURED = """
import json, re, time
{imports}
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps(dict(seconds=seconds, megabytes=int(peak[1]) / 1e3{details})))
"""

_COPY = dict(
    imports="import onnx",
    work="onnx.save(onnx.load({source!r}), {target!r})",
    details="",
)

_PRUNE = dict(
    imports="import onnxprune",
    work="result = onnxprune.prune({source!r}, ratio={ratio}, round_to=1, verify=False,"
    " benchmark=False)\n"
    "result.save({target!r}, force=True)",
    details=", left=result.report.after.parameters / result.report.before.parameters,"
    " timings=result.report.timings",
)


def _run(program: str) -> str:
    """The output of a Python program, run in a process of its own."""
    found = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    return found.stdout.decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--model", help="a file to take instead of the one that is made")
    parser.add_argument("--json", action="store_true", help="one JSON document, and nothing else")
    options = parser.parse_args()

    def show(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    runs: dict[str, list[dict[str, float]]] = {"copy": [], "prune": []}
    with tempfile.TemporaryDirectory(prefix="onnxprune-benchmark-") as folder:
        source = options.model or str(Path(folder) / "vit_b.onnx")
        if not options.model:
            _run(_MAKE.format(source=source))
        size = Path(source).stat().st_size / 1e6
        show(f"{Path(source).name}: {size:.0f} MB")
        for number in range(options.rounds + 1):
            for name, parts in (("copy", _COPY), ("prune", _PRUNE)):
                target = str(Path(folder) / f"{name}.onnx")
                names = dict(source=source, target=target, ratio=options.ratio)
                filled = {key: text.format(**names) for key, text in parts.items()}
                found = json.loads(_run(_MEASURED.format(**filled)))
                if number:  # the first round only warms the caches of the disk
                    runs[name].append(found)
                    show(f"{name:6} {found['seconds']:6.2f} s {found['megabytes']:8.0f} MB")
    document = {"model_megabytes": size, "rounds": options.rounds, "runs": runs}
    worst = 0
    for unit, bound in BOUNDS.items():
        before, after = (statistics.median(run[unit] for run in runs[name]) for name in runs)
        ratio = after / before
        document[unit] = {"copy": before, "prune": after, "ratio": ratio, "bound": bound}
        show(f"{unit:10} {after:.2f} / {before:.2f} = {ratio:.2f} x (at most {bound})")
        worst = max(worst, ratio > bound)
    show(f"last run: {json.dumps(runs['prune'][-1])}")
    if options.json:
        print(json.dumps(document, indent=1))
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
