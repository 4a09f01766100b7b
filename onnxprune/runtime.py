"""Running models in onnxruntime: sessions, and random inputs that a model accepts.

Nothing here knows of pruning. A model is a ``ModelProto`` or the path of a file; one whose
weights are external, or that is larger than 2 GB, goes by path (or with ``base_dir``).
"""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from onnxprune import external, ort
from onnxprune.errors import BrokenModel, OnnxPruneError, UnsupportedModel, UsageError
from onnxprune.inputs import (
    SCALARS,
    Array,
    Feeds,
    InputSpec,
    Model,
    batch_dims,
    bound,
    bounds,
    fill,
    free_dims,
    input_specs,
    is_scalar,
    make_inputs,
    proto,
    shape_of,
)
from onnxprune.model import replace_value, tensor_array
from onnxprune.trust import trust

__all__ = [
    "Array",
    "Feeds",
    "FoundInputs",
    "InputSpec",
    "Model",
    "find_inputs",
    "input_specs",
    "make_inputs",
    "proto",
    "run",
    "runner",
    "session",
]

#: protobuf's limit, less what the runtime's own copy of the graph may add
_MAX_INLINE = 2**31 - 2**20
#: tried in this order for dynamic dims other than the batch: large enough to be no special case
#: (attention over one token is the identity, a 1 × 1 image is all padding), then audio lengths,
#: then whatever is left
_LADDER = (64, 224, 16, 512, 1024, 4096, 8, 2, 1)
#: elements: no dynamic input is tried above this size
_MAX_TRIED = 1 << 22


def cores() -> int:
    """How many threads work may take that is not timed: the cores that this process may run on.

    `OMP_NUM_THREADS` says fewer, as joblib does to the workers of a sweep.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(int(said), allowed) if said.isdecimal() and int(said) else allowed


def session(
    model: Model,
    *,
    optimize: bool,
    threads: int = 1,
    base_dir: str | os.PathLike[str] | None = None,
    profile: str | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU, which is unloaded when it is dropped.

    Args:
        optimize: graph optimisations: on to measure latency, off for a check that must be tight.
        threads: for the work inside one operator; operators run one after the other.
        base_dir: the folder of the external weights, where ``model`` is a proto.
        profile: how the file begins in which onnxruntime notes what each operator took.

    Raises:
        UnsupportedModel: onnxruntime can't run it; the message is onnxruntime's, on one line.
        BrokenModel: not a model at all, or its external weights are missing.
        UsageError: a proto above 2 GB: it has to be saved and named by path.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    # To plan which tensor takes whose place takes time quadratic in the nodes (2.7 s of 2.9 for
    # 8,000 of them), and is worth it where the model then runs often.
    options.enable_mem_reuse = optimize
    # A spinning pool steals the cores from every other session of the process.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in trust().custom_ops:
        try:
            options.register_custom_ops_library(os.fspath(library))
        except Exception as error:
            raise UsageError(
                f"{library}: onnxruntime can't load this library of operators: {_one_line(error)}"
            ) from error
    if base_dir is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", os.fspath(base_dir)
        )
    held: dict[str, Any] = {}
    try:
        if isinstance(model, ModelProto):
            model, held = _carried_out(model, Path(base_dir or "."))
            options.add_external_initializers(list(held), list(held.values()))
        source = _serialized(model) if isinstance(model, ModelProto) else os.fspath(model)
        live = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        live.held = held  # onnxruntime reads them where they are
        return live
    except OnnxPruneError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base class
        kind = type(error).__name__
        text = _one_line(error)
        missing = re.search("External data path|No such file|cannot get file size", text)
        if missing or kind in ("InvalidProtobuf", "NoSuchFile"):
            raise BrokenModel(f"onnxruntime can't read the model: {text}") from error
        raise UnsupportedModel(f"onnxruntime can't run the model: {text}") from error


def run(session: Any, feeds: Mapping[str, Array]) -> Feeds:
    """The outputs by name, `[...]` each, in the order of the model's outputs.

    Sequences come out as ``name[0]``, ``name[1]``, …, and maps (ai.onnx.ml's ZipMap) as one
    array per key, ``name[key]``. bfloat16 and float8 are ml_dtypes arrays.

    Raises:
        UnsupportedModel: the run failed; the message is onnxruntime's, on one line.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4
    try:
        if _has_small_floats(session):
            opaque = session.run_with_ort_values(None, _ort_values(feeds), options)
            values: Sequence[Any] = [_from_ort_value(value) for value in opaque]
        else:
            values = session.run(None, dict(feeds), options)
    except Exception as error:
        raise UnsupportedModel(f"onnxruntime can't run the model: {_one_line(error)}") from error
    outputs: Feeds = {}
    for put, value in zip(session.get_outputs(), values, strict=True):
        _flatten(put.name, value, outputs)
    return outputs


def runner(session: Any, feeds: Mapping[str, Array]) -> Callable[[], object]:
    """A function that does one run and nothing else, to be timed; the first run is done here.

    Raises:
        UnsupportedModel: the run failed.
    """
    run(session, feeds)
    if _has_small_floats(session):
        values = _ort_values(feeds)
        return lambda: session.run_with_ort_values(None, values)
    plain = dict(feeds)
    return lambda: session.run(None, plain)


def _carried_out(model: ModelProto, base_dir: Path) -> tuple[ModelProto, dict[str, Any]]:
    """A model for onnxruntime, which knows no cut tensors, and the values of those by name.

    What it does not take as a value goes into a copy of the model.
    """
    cuts = [tensor for tensor in model.graph.initializer if external.is_cut(tensor)]
    packed = {tensor.name for tensor in cuts if external.is_packed(tensor)}
    values = {
        tensor.name: _ort_value(tensor_array(tensor, base_dir))
        for tensor in cuts
        if tensor.name not in packed
    }
    if packed:
        copy = ModelProto()
        copy.CopyFrom(model)
        for tensor in copy.graph.initializer:
            if tensor.name in packed:
                replace_value(tensor, tensor_array(tensor, base_dir))
        model = copy
    return model, values


def _serialized(model: ModelProto) -> bytes:
    # Protobuf itself answers an oversized message with an error that names nothing.
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    if size < _MAX_INLINE:
        try:
            data: bytes = model.SerializeToString()
            return data
        except Exception as error:
            raise UsageError(
                f"the model can't be held in one message ({error}): save it with external data "
                "and give its path"
            ) from error
    raise UsageError(
        f"the model holds {size / 1e9:.1f} GB of weights, above protobuf's limit of 2 GB: "
        "save it with external data and give its path"
    )


def _one_line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"^Load model from .*? failed:\s*(Fatal error: )?", "", text)
    return " ".join(text.split())[:400]


# Types that numpy lacks pass onnxruntime's Python interface only as opaque values.


def _has_small_floats(session: Any) -> bool:
    puts = [*session.get_inputs(), *session.get_outputs()]
    return any("float8" in put.type or "bfloat16" in put.type for put in puts)


def _ort_values(feeds: Mapping[str, Array]) -> dict[str, Any]:
    return {name: _ort_value(array) for name, array in feeds.items()}


def _ort_value(array: Array) -> Any:
    if array.dtype.name.startswith(("bfloat16", "float8")):
        bits = array.view(f"u{array.dtype.itemsize}")
        code = helper.np_dtype_to_tensor_dtype(array.dtype)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, code)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_ort_value(value: Any) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(value.element_type())
    shape = value.shape()
    size = dtype.itemsize * math.prod(shape)
    held = ctypes.string_at(value.data_ptr(), size) if size else b""
    array: Array = np.frombuffer(held, dtype).reshape(shape)
    return array


def _flatten(name: str, value: Any, into: Feeds) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}[{key}]", item, into)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for key in value[0]:
            into[f"{name}[{key}]"] = np.asarray([row[key] for row in value])
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _flatten(f"{name}[{i}]", item, into)
    elif value is not None:
        into[name] = np.asarray(value)


@dataclass(frozen=True)
class FoundInputs:
    """Inputs that a model was seen to run with.

    ``feeds[0]`` has the first sizes that worked, the others differ from it in their dynamic dims.
    """

    feeds: list[Feeds]
    #: size of every dynamic dim, one mapping per feed
    sizes: list[dict[str, int]]
    #: the value given to integer scalars, where there are any
    scalar: int | None
    #: dynamic dims that ran at one size only
    fixed: list[str]

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Shapes of ``feeds[0]``, to be passed on as ``shapes`` or ``input_shapes``."""
        return {name: list(array.shape) for name, array in self.feeds[0].items()}

    def describe(self) -> str:
        """One line for a report: ``batch = 1 (also 3), sequence = 64 (also 32)``."""
        parts = []
        for key, size in self.sizes[0].items():
            others = sorted({sizes[key] for sizes in self.sizes[1:]} - {size})
            parts.append(
                f"{key} = {size}" + (f" (also {', '.join(map(str, others))})" * bool(others))
            )
        if self.scalar is not None:
            parts.append(f"integer scalars = {self.scalar}")
        return ", ".join(parts)


def find_inputs(
    model: Model,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    seed: int = 0,
    threads: int = 1,
    base_dir: str | os.PathLike[str] | None = None,
) -> FoundInputs:
    """Random inputs that the model runs with, at two sizes of each dynamic dim where it can.

    Dynamic dims at axis 0 start at 1 and the others at 64; where the run fails, a short ladder of
    sizes and of values for integer scalars is tried (audio networks need hundreds of samples).

    Raises:
        UnsupportedModel: no size on the ladder runs; the message is that of the first failure.
        UsageError: ``shapes`` contradicts the model.
    """
    loaded = proto(model)
    specs = input_specs(loaded)
    rows = bounds(loaded, specs)
    folder = base_dir if isinstance(model, ModelProto) else Path(model).parent
    live = session(model, optimize=False, threads=threads, base_dir=folder)
    given = bound(specs, shapes)

    def attempt(sizes: dict[str, int], scalar: int) -> Feeds | OnnxPruneError:
        elements = max((math.prod(shape_of(spec, sizes)) for spec in specs), default=0)
        if elements > _MAX_TRIED and not sizes.keys() <= given.keys():
            return UnsupportedModel(
                f"the model's inputs are too large to be tried: {elements:,} elements"
            )
        feeds = fill(specs, rows, sizes, scalar, seed)
        try:
            run(live, feeds)
        except OnnxPruneError as error:
            return error
        return feeds

    open_dims = [key for key in free_dims(specs) if key not in given]
    failure: OnnxPruneError | None = None
    for sizes, scalar in _tries(specs, open_dims):
        result = attempt(sizes | given, scalar)
        if isinstance(result, OnnxPruneError):
            failure = failure or result
            continue
        first = {key: (sizes | given)[key] for key in free_dims(specs)}
        others = _other_sizes(specs, first, scalar, attempt)
        moved = {key for sizes, _ in others for key in first if sizes[key] != first[key]}
        return FoundInputs(
            feeds=[result, *(feeds for _, feeds in others)],
            sizes=[first, *(sizes for sizes, _ in others)],
            scalar=scalar if any(is_scalar(spec) for spec in specs) else None,
            fixed=[key for key in first if key not in moved],
        )
    assert failure is not None  # _tries is never empty
    hint = " (no size tried for its dynamic dims runs: give --input-shapes)" if open_dims else ""
    raise UnsupportedModel(f"{failure}{hint}") from failure


def _tries(
    specs: Sequence[InputSpec], open_dims: Sequence[str]
) -> Iterator[tuple[dict[str, int], int]]:
    scalars = SCALARS if any(is_scalar(spec) for spec in specs) else SCALARS[:1]
    if any(is_scalar(s) and re.search(r"(^|_)sr$|sampl", s.name.lower()) for s in specs):
        scalars = SCALARS[::-1]
    batch = batch_dims(specs)
    ladder = _LADDER if set(open_dims) - batch else _LADDER[-1:]
    for size, scalar in itertools.product(ladder, scalars):
        yield {key: 1 if key in batch else size for key in open_dims}, scalar
    if batch & set(open_dims):
        for size, scalar in itertools.product(_LADDER[:-1], scalars):
            yield dict.fromkeys(open_dims, size), scalar


def _other_sizes(
    specs: Sequence[InputSpec],
    first: dict[str, int],
    scalar: int,
    attempt: Callable[[dict[str, int], int], Feeds | OnnxPruneError],
) -> list[tuple[dict[str, int], Feeds]]:
    """Feeds in which every dynamic dim that can differs from ``first``: one feed if one will do."""
    batch = batch_dims(specs)

    def candidates(keys: Sequence[str]) -> Iterator[dict[str, int]]:
        for size in ("half", "double", 16, 64, 512, 1024, "next"):
            changed = dict(first)
            for key in keys:
                if key in batch:
                    changed[key] = first[key] + 2
                elif isinstance(size, int):
                    changed[key] = size
                else:
                    n = first[key]
                    changed[key] = {"half": n // 2 or 2, "double": 2 * n, "next": n + 1}[size]
            if all(changed[key] != first[key] for key in keys):
                yield changed
            if batch.issuperset(keys):
                return

    def search(keys: Sequence[str]) -> tuple[dict[str, int], Feeds] | None:
        for sizes in candidates(keys):
            feeds = attempt(sizes, scalar)
            if isinstance(feeds, dict):
                return sizes, feeds
        return None

    if not first:
        return []
    together = search(list(first))
    if together is not None:
        return [together]
    return [found for key in first if (found := search([key])) is not None]
