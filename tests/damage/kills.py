"""kill -9 at random moments of `prune --force` with external data.

    python -m tests.damage.kills --kills 500

A model that was pruned before is in the place of the output. After every kill the output has to be
the old model or the new one, whole; and a run that is left alone leaves nothing but its files.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import onnx
from onnx import numpy_helper

import onnxprune
from tests.graphs import two_convs

OUTPUT = "out.onnx"
#: What a run that was left alone leaves beside the model that it read.
WHOLE = {OUTPUT, f"{OUTPUT}.data"}


def prepare(folder: Path, channels: int) -> dict[str, str]:
    """A model with external data, and an output that was pruned less: what each is, by name."""
    onnx.save_model(
        two_convs(channels),
        folder / "model.onnx",
        **{"save_as_external_data": True, "location": "w.bin", "size_threshold": 0},
    )
    states = {}
    for name, ratio in (("new", 0.5), ("old", 0.25)):
        result = onnxprune.prune(folder / "model.onnx", ratio=ratio, verify=False, benchmark=False)
        result.save(folder / OUTPUT, force=True)
        states[state(folder)] = name
    return states


def state(folder: Path) -> str:
    """The hash of every weight of the output; what is wrong where it can't be read."""
    found = sha256()
    if not (folder / OUTPUT).exists():
        return "nothing"
    try:
        onnx.checker.check_model(folder / OUTPUT)
        for tensor in onnx.load(folder / OUTPUT).graph.initializer:
            found.update(numpy_helper.to_array(tensor).tobytes())
    except Exception as error:  # of onnx, protobuf or numpy
        return f"unreadable: {error}"
    return found.hexdigest()


def left_over(folder: Path) -> set[str]:
    """What is in the folder that no finished run leaves there."""
    return {each.name for each in folder.iterdir()} - WHOLE - {"model.onnx", "w.bin"}


def _command(folder: Path) -> list[str]:
    arguments = ["prune", "model.onnx", "-o", OUTPUT, "--force", "--no-benchmark", "--no-verify"]
    return [sys.executable, "-m", "onnxprune", *arguments]


def _killed(folder: Path, rng: random.Random, longest: float) -> bool:
    """Start the command and kill it; whether it was still running.

    Half of the kills come while it writes, which is a small part of its time.
    """
    process = subprocess.Popen(
        _command(folder), cwd=folder, start_new_session=True, stderr=subprocess.PIPE
    )
    if rng.random() < 0.5:
        while process.poll() is None and not any(
            each.name.startswith(".onnxprune-") for each in os.scandir(folder)
        ):
            time.sleep(0.0002)
        time.sleep(rng.uniform(0, 0.08))
    else:
        time.sleep(rng.uniform(0, longest))
    running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        if rng.random() < 0.5:
            os.kill(process.pid, signal.SIGKILL)  # what it forked ends with it
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    for _ in range(30_000):
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return running
        time.sleep(0.001)
    raise RuntimeError("a killed run has left a process")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.damage.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--channels", type=int, default=65536)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    found: Counter[str] = Counter()
    troubles = 0
    with tempfile.TemporaryDirectory() as name:
        folder, pristine = Path(name) / "work", Path(name) / "pristine"
        pristine.mkdir()
        states = prepare(pristine, options.channels)
        shutil.copytree(pristine, folder)
        start = time.monotonic()
        subprocess.run(_command(folder), cwd=folder, check=True, capture_output=True)
        longest = time.monotonic() - start
        for number in range(options.kills):
            if number % 3 == 0:  # or else go on from what the last kill left
                shutil.rmtree(folder)
                shutil.copytree(pristine, folder)
            running = _killed(folder, rng, longest)
            name = states.get(state(folder), "NEITHER")
            left = "with leftovers" if left_over(folder) else "clean"
            found[f"{name}, {left}" if running else "had ended before"] += 1
            if name == "NEITHER":
                troubles += 1
                print(f"kill {number}: neither the old model nor the new", file=sys.stderr)
            if number % 10 == 9:
                subprocess.run(_command(folder), cwd=folder, check=True, capture_output=True)
                if states[state(folder)] != "new" or left_over(folder):
                    troubles += 1
                    print(f"after kill {number}: {left_over(folder)} is left", file=sys.stderr)
    print(f"{options.kills} kills in {time.monotonic() - start:.0f} s: {dict(found)}")
    print(f"neither old nor new, or not cleaned: {troubles}")
    return 1 if troubles else 0


if __name__ == "__main__":
    raise SystemExit(main())
