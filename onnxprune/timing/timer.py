"""Timing operators: many of them, at many widths, in one session's profile.

What runs beside them in one session is timed in the same rounds, so that what slows the machine
down slows all of them; and the weights of the others push each one's out of the nearest cache, as
the other layers of a model do. Only kernels are timed: the reordering of layouts around a
convolution that stands alone is none of the model's.
"""

from __future__ import annotations

import math
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from .. import ort
from .executed import kernel_events, profiling_options, typical
from .templates import Piece, Template

#: An operator and widths to time it at.
Task = tuple[Template, tuple[int, ...]]
#: Times in ms; None for an operator that does not run alone.
Timer = Callable[[Sequence[Task]], list[float | None]]

#: Bounds for one session: elements of its weights and inputs, and tasks.
_ELEMENTS, _TASKS = 24_000_000, 160
#: Rounds of one session: as many as fit into this time (s), within these bounds.
_SECONDS, _FEWEST, _MOST = 0.5, 5, 15
#: Every session is made so often, with all others in between: a neighbour's load comes and goes.
_PASSES = 2
_TAG = re.compile(r"@(\d+)@")
#: Kernels that are not the operator's own.
_AROUND = ("ReorderInput", "ReorderOutput")


def onnxruntime_timer(threads: int) -> Timer:
    """A timer on this machine, with so many threads inside an operator."""

    def timed(tasks: Sequence[Task]) -> list[float | None]:
        best: list[float | None] = [None] * len(tasks)
        for _ in range(_PASSES):
            done = 0
            for batch in _batches(tasks):
                times = _time(batch, threads)
                if times is None:  # one of them does not run: which?
                    alone = [_time([task], threads) for task in batch]
                    times = [None if each is None else each[0] for each in alone]
                for i, ms in enumerate(times, start=done):
                    before = best[i]
                    best[i] = ms if before is None or ms is None else min(ms, before)
                done += len(batch)
        return best

    return timed


def _batches(tasks: Sequence[Task]) -> list[list[Task]]:
    batches: list[list[Task]] = []
    room = 0
    for template, at in tasks:
        piece = template.build(at, "")
        size = sum(math.prod(shape) for _, shape, _ in (*piece.inputs, *piece.weights))
        last = batches[-1] if batches else None
        if last is None or size > room or len(last) >= _TASKS or last[0][0].opset != template.opset:
            last, room = [], _ELEMENTS
            batches.append(last)
        last.append((template, at))
        room -= size
    return batches


def _time(batch: Sequence[Task], threads: int) -> list[float | None] | None:
    """ms of each task; None where the session can't be made or run."""
    pieces = [template.build(at, f"@{i}@") for i, (template, at) in enumerate(batch)]
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        options = profiling_options(threads, str(Path(folder) / "profile"))
        try:
            model = _model(pieces, batch[0][0].opset)
            live = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            del model
            _run(live, {name: _filled(s, t) for p in pieces for name, s, t in p.inputs})
            profile = live.end_profiling()
        except Exception:  # onnxruntime's exceptions share no base class
            return None
        rounds: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for name, event in kernel_events(profile):
            tag = _TAG.search(name)
            if tag and event["args"].get("op_name") not in _AROUND:
                rounds[int(tag[1])][name].append(event["dur"] / 1e3)
    # A kernel under the profile's resolution of 1 µs still takes some time.
    return [
        max(sum(typical(times) for times in rounds[i].values()), 2e-4) if i in rounds else None
        for i in range(len(batch))
    ]


def _run(live: Any, feeds: dict[str, Any]) -> None:
    started, done = time.perf_counter(), 0
    outputs = [live.get_outputs()[0].name]
    while done < _FEWEST or (done < _MOST and time.perf_counter() - started < _SECONDS):
        live.run(outputs, feeds)
        done += 1


def _model(pieces: Sequence[Piece], opset: int) -> ModelProto:
    """All pieces beside each other. Their results are one scalar each, in one output."""
    nodes = [node for piece in pieces for node in piece.nodes]
    inputs = [
        helper.make_tensor_value_info(name, dtype, shape)
        for piece in pieces
        for name, shape, dtype in piece.inputs
    ]
    weights = [
        numpy_helper.from_array(_filled(shape, dtype) / 64, name)
        if dtype == TensorProto.FLOAT
        else numpy_helper.from_array(_filled(shape, dtype), name)
        for piece in pieces
        for name, shape, dtype in piece.weights
    ]
    values = [value for piece in pieces for value in piece.values]
    outputs = [helper.make_empty_tensor_value_info(piece.result) for piece in pieces]
    graph = helper.make_graph(nodes, "timed", inputs, outputs, [*weights, *values])
    domains = {node.domain for node in nodes} - {"", "ai.onnx"}
    return helper.make_model(
        graph,
        opset_imports=[
            helper.make_opsetid("", opset),
            *(helper.make_opsetid(domain, 1) for domain in sorted(domains)),
        ],
        ir_version=10,
    )


def _filled(shape: Sequence[int], dtype: int) -> Any:
    """Ordinary numbers: neither zero nor so small that arithmetic on them is slow."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    return np.full(shape, 0.5 if kind.kind == "f" else 1, kind)
