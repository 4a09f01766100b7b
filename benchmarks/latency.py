"""Is what is pruned really faster? Ours against uniform, unaligned and Torch-Pruning's widths.

    python benchmarks/latency.py run    [--exported DIR] [--corpus DIR] [--only GLOB ...]
                                        [--threads 1 2] [--parts timing macs latency]
    python benchmarks/latency.py report [--json]

For each network and number of threads:

    timing     seconds of the one-time timing with an empty cache, and of choosing after it
    macs       at 0.7, 0.5 and 0.3 of the MACs, in one run: ours (`--round-to auto`), uniform widths
               in multiples of 8, 16 and 32, ours unaligned (`--round-to 1`), Torch-Pruning's
    latency    targets of 0.9 to 0.2 of the latency, measured again by a separate paired run

Every measurement is a line of `<cache>/latency.jsonl` and is not repeated; `run` can be stopped at
any time. It asks for real-time priority, which needs the right to; without it, close other
programs. The networks are exported by `benchmarks/speed/exporting.py`, which needs torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder of this script would hide the packages beside it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.speed.racing import raise_priority
from benchmarks.speed.report import tables, verdict
from benchmarks.speed.running import run
from benchmarks.speed.sources import files
from benchmarks.zoo.cache import Journal, default_folder

_CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus" / "models"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--exported", type=Path, default=default_folder() / "speed", metavar="DIR")
    parser.add_argument("--corpus", type=Path, default=_CORPUS, metavar="DIR")
    parser.add_argument("--cache", type=Path, default=default_folder(), metavar="DIR")
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="names of models")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--parts", nargs="+", default=["timing", "macs", "latency"])
    parser.add_argument("--seconds", type=float, default=30, help="for one race, about")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)
    journal = Journal(given.cache / "latency.jsonl")
    if given.command == "run":
        print(f"priority: {raise_priority()}", flush=True)
        paths = files(given.exported, given.corpus, given.only)
        for threads in given.threads:
            run(paths, journal, threads, given.seconds, given.parts)
        return 0
    rows = list(journal.rows().values())
    if given.json:
        print(
            json.dumps([row | {"verdict": verdict(row)} if "rows" in row else row for row in rows])
        )
    else:
        print(tables(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
