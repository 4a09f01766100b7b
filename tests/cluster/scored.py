"""A function for `--eval`, as a user writes it, that takes its time and notes every call.

A note is `start PID - WHEN` or `end PID WHAT WHEN`, in seconds since the epoch; WHAT tells models
apart by what they say of the same inputs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np


def score(session: Any) -> float:
    samples = np.load(os.environ["ONNXPRUNE_TEST_SAMPLES"])
    name = session.get_inputs()[0].name
    inputs = next(samples[key] for key in samples.files if key != "labels")
    _note("start")
    time.sleep(float(os.environ.get("ONNXPRUNE_TEST_SECONDS", "0")))
    (scores,) = session.run(None, {name: inputs})
    _note(f"end {float(np.abs(scores).sum()):.6g}")
    return float((scores.argmax(1) == samples["labels"]).mean())


def _note(what: str) -> None:
    word, _, rest = what.partition(" ")
    line = f"{word} {os.getpid()} {rest or '-'} {time.time()}\n"
    with open(Path(os.environ["ONNXPRUNE_TEST_TRACE"]), "a", encoding="utf-8") as file:
        file.write(line)  # one write of a line: it is whole, whoever writes beside
