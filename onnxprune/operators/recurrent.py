"""LSTM, GRU and RNN, in both layouts."""

from __future__ import annotations

from ..op import Op
from ..tables import function

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@function("recurrent")
def recurrent(op: Op) -> None:
    """All gates share the hidden axis, the directions too; peepholes and states are cut with it."""
    gates = _GATES[op.node.op_type]
    first = "b t i" if op.attr("layout", 0) else "t b i"
    state = "b d h" if op.attr("layout", 0) else "d b h"
    y = "b t d h" if op.attr("layout", 0) else "t d b h"
    inputs = f"{first}, d ({gates} h) i, d ({gates} h) h, d ({2 * gates} h)?, b?, {state}?"
    outputs = f"{y}, {state}"
    if op.node.op_type == "LSTM":
        inputs += f", {state}?, d (3 h)?"
        outputs += f", {state}"
    op.match(f"{inputs} -> {outputs}")
    op.contract(op.env["h"])
    if op.attr("activations") is not None or op.has(7):
        op.loses_zero()  # other functions than sigmoid and tanh, or peepholes
    for name, reason in (("t", "sequence"), ("d", "directions")):
        op.pin(op.env[name], reason)
    op.role(op.env["h"], "hidden")
    op.patch("hidden_size", {None: op.env["h"]} if op.attr("hidden_size") is not None else {})
