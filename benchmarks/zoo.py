"""Export a zoo of architectures, prune each by half, and report what became of it.

    python benchmarks/zoo.py export|prune|report|list [--only GLOB ...] [--shard i/n] [--cache DIR]

*export* writes each architecture, with random weights and random normalisation statistics, through
both PyTorch exporters, with static and with dynamic shapes (large ones in fewer ways); *prune*
prunes what was exported, at ratio 0.5 and without benchmarking; *report* prints a table. Everything
is cached and journalled in the cache folder: each command skips what is done, can be stopped at any
time, and can run in shards beside itself. Exporting needs the packages of tox's environment `zoo`;
pruning and reporting need none of them. The catalogue is `zoo/catalogue.py`, a line for each model;
what has another line there than it was exported from is exported anew.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":  # the folder of this script would hide the packages beside it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.zoo.cache import VARIANTS, Cache, Shard, default_folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "export", "prune", "report"])
    parser.add_argument("--only", nargs="+", default=[], metavar="GLOB", help="names of models")
    parser.add_argument("--shard", type=Shard.parse, default=Shard(), metavar="i/n")
    parser.add_argument("--cache", type=Path, default=default_folder(), metavar="DIR")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--seconds", type=float, default=300, help="the limit for one model")
    parser.add_argument("--gigabytes", type=float, default=12, help="the limit for one process")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument(
        "--again",
        choices=["none", "failed", "stale", "all"],
        default="none",
        help="rows to make anew: those that failed, those that other code made, all",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document, and nothing else")
    parser.add_argument("--markdown", action="store_true", help="the report in Markdown")
    options = parser.parse_args()
    cache = Cache(options.cache)
    limits = {"seconds": options.seconds, "gigabytes": options.gigabytes}
    if options.command in ("list", "export"):
        from benchmarks.zoo import exporting

        if options.command == "list":
            exporting.show(options.only, options.shard)
            return 0
        exporting.export_all(
            cache, options.only, options.shard, options.variants, **limits, again=options.again
        )
    elif options.command == "prune":
        from benchmarks.zoo import pruning

        pruning.prune_all(
            cache, options.only, options.shard, ratio=options.ratio, again=options.again, **limits
        )
    else:
        from benchmarks.zoo import report

        form = "json" if options.json else "markdown" if options.markdown else "text"
        report.show(cache, options.only, options.shard, form)
    return 0


if __name__ == "__main__":
    sys.exit(main())
