"""Elementwise operators for which the values of some operands matter."""

from __future__ import annotations

from ..network import Unsure
from ..op import Op
from ..sizes import is_number
from ..tables import function


def _scalar(op: Op, i: int, attribute: str, default: float) -> float | None:
    """A number from operand `i`, or from the attribute that older opsets have; None: unknown."""
    if op.has(i):
        value = op.value(i)
        if value is None or value.size != 1 or not is_number(value.ravel().tolist()[0]):
            return None
        return float(value.ravel()[0])
    return float(op.attr(attribute, default))


@function("clip")
def clip(op: Op) -> None:
    low = _scalar(op, 1, "min", -1.0)
    high = _scalar(op, 2, "max", 1.0)
    if low is None or high is None or low > 0 or high < 0:
        op.loses_zero()
    op.out(op.axes(0))


@function("cast")
def cast(op: Op) -> None:
    """Quantised zeros are zero points; read as plain numbers they are not zero."""
    producer = op.network.model.producers.get(op.inputs[0])
    if producer is not None and producer.op_type == "QuantizeLinear" and producer.input[2:]:
        point = op.network.value_of(producer.input[2])
        if point is None or point.any():
            op.loses_zero()
    op.out(op.axes(0))


@function("dropout")
def dropout(op: Op) -> None:
    """The identity, but in training."""
    training = op.value(2)
    if op.has(2) and (training is None or not is_number(training.item()) or training.item()):
        raise Unsure("it drops positions at random")
    op.out(op.axes(0))
    op.out(op.axes(0), 1)
    if any(op.outputs[1:]):
        op.loses_zero()  # a mask of what is not dropped: of all


@function("pow")
def power(op: Op) -> None:
    exponent = op.network.value_of(op.inputs[1])
    elements = [] if exponent is None else exponent.ravel().tolist()
    least = min(elements) if elements and all(map(is_number, elements)) else -1
    if least <= 0:
        op.loses_zero()
    if least < 0:
        for axis in op.axes(0):
            op.statistical(axis)  # zero to a negative power is no number to mask with
    op.out(op.broadcast([op.axes(0), op.axes(1)]))
