"""`zoo.py prune`: every exported file in a process of its own, and one row of the journal each."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .cache import Cache, Row, Shard, chosen, split_name

ROOT = Path(__file__).resolve().parents[2]


def prune_all(
    cache: Cache,
    only: list[str],
    shard: Shard,
    *,
    ratio: float,
    seconds: float,
    gigabytes: float,
    again: str,
) -> None:
    """Prune what was exported and has no row yet.

    `again` says which of the rows that are there are made anew as well: `none`, the `failed`, the
    `stale` (made by other code than today's) or `all`.
    """
    journal = cache.journal("prunes")
    done = journal.rows()
    exports = cache.journal("exports").rows()
    code = digest(ROOT / "onnxprune", ROOT / "rules")
    for path in cache.exported():
        model, variant = split_name(path)
        if not list(chosen([model], only, shard)) or not path.exists():
            continue
        stat = path.stat()
        identity = {"size": stat.st_size, "ratio": ratio}
        row = done.get(path.name)
        if row and all(row.get(key) == value for key, value in identity.items()):
            failed = row["status"] not in ("ok", "NotPrunable")
            stale = row.get("code") != code
            if not (
                again == "all" or (again == "failed" and failed) or (again == "stale" and stale)
            ):
                continue
        start = time.monotonic()
        shapes = exports.get(path.name, {}).get("shapes")
        row = in_a_process(path, ratio, seconds, gigabytes, shapes)
        row = {"key": path.name, "model": model, "variant": variant, **identity, "code": code} | row
        row["wall_seconds"] = round(time.monotonic() - start, 2)
        journal.append(row)
        print(one_line(row), flush=True)


def in_a_process(
    path: Path,
    ratio: float,
    seconds: float,
    gigabytes: float,
    shapes: dict[str, list[int]] | None = None,
) -> Row:
    """What the worker says of one file, or what became of the worker."""
    given = [str(path), str(ratio), str(gigabytes), json.dumps(shapes)]
    command = [sys.executable, "-m", "benchmarks.zoo.worker", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        found = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "message": f"more than {seconds:.0f} s"}
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        name = signal.Signals(-found.returncode).name if found.returncode < 0 else "exit"
        return {"status": "killed", "message": f"{name} {found.returncode}: {last[:300]}"}
    row: Row = json.loads(found.stdout.strip().splitlines()[-1])
    return row


def digest(*folders: Path) -> str:
    """A short checksum of the program's files, to know which rows another state of it made."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".toml"):
                found.update(path.read_bytes())
    return found.hexdigest()[:12]


def one_line(row: Row) -> str:
    """A row as the terminal shows it while the run goes on."""
    name = f"{row['model']:44} {row['variant']:15}"
    if row["status"] != "ok":
        return f"{name} {row['status']}: {row.get('message', '')[:160]}"
    certificate = row["certificate"]
    worst = max(certificate[each] or 0 for each in ("permutation", "masking", "cut"))
    return (
        f"{name} {100 * row['left']:5.1f} % left, {100 * row['left_without_embeddings']:5.1f} %"
        f" without embeddings, deviation {worst:.0e}{'' if row['proves'] else ' (weak)'},"
        f" axes {1e3 * row['axes_seconds']:.0f} ms, {row['seconds']:.1f} s"
    )
