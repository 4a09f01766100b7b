"""Two models side by side: the same random inputs through both, output by output."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TypeProto, helper

from onnxprune.errors import UsageError
from onnxprune.runtime import (
    Array,
    Feeds,
    Model,
    find_inputs,
    input_specs,
    make_inputs,
    proto,
    run,
    session,
)

__all__ = ["Comparison", "Deviation", "compare", "deviation", "interface_differences", "tolerance"]


@dataclass(frozen=True)
class Deviation:
    """How far one output of B is from the same output of A, over all inputs tried."""

    name: str
    #: largest |a - b| over the finite values
    max_abs: float
    #: ``max_abs`` over the largest |a| of this output
    max_rel: float
    #: relative tolerance it was held to
    rtol: float
    #: same shape, and NaN, +Inf and -Inf at the same places
    same_nonfinite: bool
    #: the output depends on the input; where it does not, agreement proves nothing
    varies: bool
    #: the output differs from run to run of A alone: it can't be compared
    random: bool
    passes: bool


@dataclass(frozen=True)
class Comparison:
    """The result of :func:`compare`."""

    #: what differs in the two interfaces, one line each; nothing is run where something does
    interface: list[str]
    outputs: list[Deviation] = field(default_factory=list)
    #: shapes of the inputs, one mapping for each set of sizes
    shapes: list[dict[str, list[int]]] = field(default_factory=list)
    runs: int = 0

    @property
    def ok(self) -> bool:
        """Same interface, and every output that can be compared (there is one) passes."""
        compared = [output for output in self.outputs if not output.random]
        return not self.interface and bool(compared) and all(o.passes for o in compared)

    @property
    def proves(self) -> bool:
        """Whether the comparison could have failed: an output that is not random varies."""
        return any(output.varies and not output.random for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"ok": self.ok, "proves": self.proves, **asdict(self)}


def compare(
    a: Model,
    b: Model,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    samples: int = 2,
    threads: int = 1,
    base_dir: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Compare two models on random inputs, in onnxruntime with graph optimisations off.

    An output passes where ``max|a - b| <= atol + rtol * max|a|``: relative to the output's
    largest value, since single values near zero have no meaningful relative error.

    Args:
        rtol: None for one by the output's type (:func:`tolerance`).
        input_shapes: `{input: [d, ...]}` for dynamic dims; else sizes that A runs with are found.
        samples: inputs drawn at the first sizes (at least two, to see whether outputs vary); one
            more is drawn at every other set of sizes that A runs with.
        base_dir: the folder of external weights, for models given as protos.

    Raises:
        UsageError: ``input_shapes`` contradicts the models, or a tolerance is negative.
        UnsupportedModel: a model does not run.
    """
    if atol < 0 or (rtol is not None and rtol < 0):
        raise UsageError(f"tolerances can't be negative: rtol {rtol}, atol {atol}")
    differences = interface_differences(a, b)
    if differences:
        return Comparison(differences)
    found = find_inputs(a, input_shapes, seed=seed, threads=threads, base_dir=base_dir)
    feeds = [found.feeds[0]]
    loaded = proto(a)
    for i in range(1, max(2, samples)):
        drawn = make_inputs(loaded, found.shapes, seed=seed + i)
        # Integer scalars choose a mode (a sampling rate): keep the one that was seen to run.
        modes = {n for n, x in drawn.items() if x.ndim == 0 and x.dtype.kind in "iu"}
        feeds.append({n: found.feeds[0][n] if n in modes else x for n, x in drawn.items()})
    same_sizes = len(feeds)
    feeds += found.feeds[1:]

    # One session after the other: two would need twice the memory.
    results_a, again = _results(a, feeds, threads, base_dir, repeat=True)
    results_b, _ = _results(b, feeds, threads, base_dir)
    outputs = []
    for name in results_a[0]:
        pairs = [(x[name], y.get(name)) for x, y in zip(results_a, results_b, strict=True)]
        first = results_a[0][name]
        outputs.append(
            deviation(
                name,
                pairs,
                rtol=tolerance(first.dtype) if rtol is None else rtol,
                atol=atol,
                varies=any(not _same(first, x) for x, _ in pairs[1:same_sizes]),
                random=not _same(first, again[name]),
            )
        )
    shapes = [{name: list(x.shape) for name, x in feed.items()} for feed in found.feeds]
    return Comparison([], outputs, shapes, len(feeds))


def tolerance(dtype: np.dtype[Any]) -> float:
    """The relative tolerance of an output's type: what reordered sums may change.

    1e-4 for float32 and float64, 1e-2 for 16 bits, one step of 8-bit quantised values, else 0.
    """
    if dtype.name in ("float16", "bfloat16"):
        return 1e-2
    if dtype.name.startswith("float8"):
        return 0.15
    if dtype.kind == "f":
        return 1e-4
    return 1 / np.iinfo(dtype).max if dtype.kind in "iu" and dtype.itemsize == 1 else 0.0


def deviation(
    name: str,
    pairs: Sequence[tuple[Array, Array | None]],
    *,
    rtol: float,
    atol: float = 0.0,
    varies: bool = True,
    random: bool = False,
) -> Deviation:
    """The worst deviation over pairs of arrays, each relative to its own largest |a|."""
    max_abs = max_rel = 0.0
    same = passes = True
    for a, b in pairs:
        if b is None or a.shape != b.shape:
            same = passes = False
            max_abs = max_rel = float("inf")
            continue
        if not _numeric(a):
            equal = bool(np.array_equal(a, b))
            worst, scale = (0.0 if equal else float("inf")), 1.0
        else:
            x, y = a.astype(np.float64), b.astype(np.float64)
            finite = np.isfinite(x)
            same &= bool(np.array_equal(x[~finite], y[~finite], equal_nan=True))
            finite &= np.isfinite(y)
            same &= int(finite.sum()) == int(np.isfinite(x).sum())
            worst = float(np.abs(x[finite] - y[finite]).max(initial=0.0))
            scale = float(np.abs(x[finite]).max(initial=0.0))
        max_abs = max(max_abs, worst)
        if worst:
            max_rel = max(max_rel, worst / scale if scale else float("inf"))
        passes &= worst <= atol + _limit(a, rtol, scale)
    return Deviation(name, max_abs, max_rel, rtol, same, varies, random, passes and same)


def interface_differences(a: Model, b: Model) -> list[str]:
    """What differs in names, types and shapes of inputs and outputs, one sentence each.

    A symbol may have another name, but a dynamic dim has to stay dynamic and a size the same.
    """
    first, second = proto(a), proto(b)
    inputs_a, inputs_b = ([spec.name for spec in input_specs(m)] for m in (first, second))
    lines = _differences("input", _types(first, inputs_a), _types(second, inputs_b))
    outputs_a, outputs_b = ([v.name for v in m.graph.output] for m in (first, second))
    return lines + _differences("output", _types(first, outputs_a), _types(second, outputs_b))


def _types(model: ModelProto, names: Sequence[str]) -> dict[str, TypeProto]:
    values = {v.name: v.type for v in [*model.graph.input, *model.graph.output]}
    return {name: values[name] for name in names}


def _differences(role: str, a: Mapping[str, TypeProto], b: Mapping[str, TypeProto]) -> list[str]:
    lines = [f"{role} {name!r} is missing from the second model" for name in a if name not in b]
    lines += [f"{role} {name!r} is in the second model only" for name in b if name not in a]
    if not lines and list(a) != list(b):
        lines.append(f"the {role}s stand in another order: {', '.join(a)} and {', '.join(b)}")
    for name in a:
        if name in b and (x := _describe(a[name])) != (y := _describe(b[name])):
            lines.append(f"{role} {name!r} is {x} in the first model and {y} in the second")
    return lines


def _describe(kind: TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which != "tensor_type":
        return f"{which} {kind.ByteSize()}" if which else "of no type"
    tensor = kind.tensor_type
    text = helper.tensor_dtype_to_string(tensor.elem_type).removeprefix("TensorProto.").lower()
    if not tensor.HasField("shape"):
        return text
    dims = [str(d.dim_value) if d.dim_value > 0 else "?" for d in tensor.shape.dim]
    return f"{text}[{', '.join(dims)}]"


def _results(
    model: Model,
    feeds: Sequence[Feeds],
    threads: int,
    base_dir: str | os.PathLike[str] | None,
    repeat: bool = False,
) -> tuple[list[Feeds], Feeds]:
    """The outputs for every feed, and those of the first feed once more."""
    folder = base_dir if isinstance(model, ModelProto) else Path(model).parent
    live = session(model, optimize=False, threads=threads, base_dir=folder)
    results = [run(live, feed) for feed in feeds]
    return results, run(live, feeds[0]) if repeat else {}


def _numeric(array: Array) -> bool:
    return array.dtype.kind in "fiub" or array.dtype.name.startswith(("bfloat16", "float8"))


def _same(a: Array, b: Array) -> bool:
    if not _numeric(a):
        return bool(np.array_equal(a, b))
    return bool(np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True))


def _limit(a: Array, rtol: float, scale: float) -> float:
    # One step of a quantised output is one step, however small its values.
    quantised = a.dtype.kind in "iu" and a.dtype.itemsize == 1
    return rtol * (float(np.iinfo(a.dtype).max) if quantised else scale)
