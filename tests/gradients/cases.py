"""Cases of single operators: the onnx package's own in every version, and those made by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from onnx import TensorProto

from onnxprune.errors import OnnxPruneError
from onnxprune.inputs import Feeds
from onnxprune.runtime import run, session
from tests import rule_cases
from tests.equivariance import Case, onnx_cases, versions

_SMALL = tuple(
    code
    for name, code in TensorProto.DataType.items()
    if name.startswith(("FLOAT8", "FLOAT4", "FLOAT6", "STRING", "COMPLEX"))
)
#: Unsigned integers are held in larger signed ones: these operators look at the bits themselves.
_BITS = ("bitcast", "bitwise_not")
#: Dropout and BatchNormalization are those of inference always.
_TRAINING = ("training_dropout", "training_mode", "Dropout-13")
#: onnxruntime and the standard disagree on `keepdims` where sizes are given.
_DISPUTED = ("SplitToSequence(0)",)


@cache
def cases() -> Mapping[str, list[Case]]:
    """By operator, those whose numbers torch can be asked for."""
    found: dict[str, list[Case]] = {}
    for operator, each in onnx_cases().items():
        found[operator] = [v for case in each for v in versions(case) if _asked(v)]
    for operator in rule_cases.HAND_MADE:
        found.setdefault(operator, []).extend(filter(_asked, rule_cases.made(operator)))
    return {operator: each for operator, each in sorted(found.items()) if each}


def expected(case: Case) -> Feeds | None:
    """What onnxruntime makes of a case; None where it has no kernel for it."""
    try:
        return run(session(case.model, optimize=False), case.feeds)
    except OnnxPruneError:
        return None


def _asked(case: Case) -> bool:
    if any(part in case.name for part in (*_BITS, *_TRAINING, *_DISPUTED)):
        return False
    return not any(code in _SMALL for code in types(case))


def types(case: Case) -> Iterator[int]:
    """The element types that a case names."""
    graph = case.model.graph
    for value in (*graph.input, *graph.output):
        yield value.type.tensor_type.elem_type
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype", "saturate"):
                yield attribute.i
            elif attribute.type == attribute.TENSOR:
                yield attribute.t.data_type
