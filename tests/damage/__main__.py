"""The long version: `tox -e fuzz`, or `python -m tests.damage --inputs 100000`.

Every input is made by a number, its seed; what goes wrong is printed with that, and kept in a
folder. Prints how the runs ended, and ends with 1 where one of them was not as documented.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import onnxprune
from tests.damage.cases import Corpus, execute
from tests.damage.forkserver import Outcome
from tests.graphs import two_convs


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--command", action="store_true", help="the whole command, with checks")
    parser.add_argument("--keep", type=Path, help="a folder for what goes wrong")
    options = parser.parse_args()
    corpus = Corpus.gathered()
    codes: Counter[str] = Counter()
    troubles: list[str] = []
    start, slowest, largest, done = time.monotonic(), 0.0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        _warm(Path(folder) / "warm.onnx")
        for seed in range(options.first, options.first + options.inputs):
            if time.monotonic() - start > options.seconds:
                break
            outcome = execute(corpus, seed, Path(folder), command=options.command)
            done += 1
            codes[_ending(outcome)] += 1
            slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.memory)
            if outcome.trouble:
                last = (outcome.text.strip().splitlines() or [""])[-1]
                troubles.append(f"seed {seed}: {outcome.trouble}: {last[:200]}")
                print(troubles[-1], file=sys.stderr, flush=True)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    kept = corpus.damaged(random.Random(seed))
                    (options.keep / f"{seed}.onnx").write_bytes(kept)
                    (options.keep / f"{seed}.txt").write_text(outcome.text)
    endings = ", ".join(f"{name}: {count}" for name, count in sorted(codes.items()))
    print(f"{done} inputs from {len(corpus.files)} files in {time.monotonic() - start:.0f} s")
    print(f"endings: {endings}; slowest {slowest:.1f} s, largest {largest / 2**20:.0f} MiB")
    print(f"not as documented: {len(troubles)}")
    return 1 if troubles else 0


def _warm(output: Path) -> None:
    """Read the rules and import everything now: each fork then has it, at no cost."""
    model = two_convs()
    onnxprune.apply(model, onnxprune.plan(model), verify=False, benchmark=False).save(output)
    gc.freeze()  # what is there is not written to by the children's collectors


def _ending(outcome: Outcome) -> str:
    return outcome.trouble or f"exit {outcome.code}"


if __name__ == "__main__":
    raise SystemExit(main())
