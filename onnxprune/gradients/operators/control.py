"""If, Loop and Scan: bodies are blocks, called with their inputs and what they capture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..table import Kernel, Spec, operator


@operator("If", fixed=(0,))
def branch(node: Spec) -> Kernel:
    then = node.compile(node.attr("then_branch"))
    other = node.compile(node.attr("else_branch"))
    # Captures come in the order that bodies were compiled in.
    cut = 1 + len(then.captured)

    def run(condition: Tensor, *captured: Any) -> tuple[Any, ...]:
        if bool(condition.reshape(())):
            return then(*captured[: cut - 1])
        return other(*captured[cut - 1 :])

    return run


@operator("Loop", fixed=(0, 1))
def loop(node: Spec) -> Kernel:
    body = node.compile(node.attr("body"))
    carried = len(node.node.inputs) - 2
    scanned = node.outputs - carried

    def run(most: Tensor | None, condition: Tensor | None, *rest: Any) -> tuple[Any, ...]:
        state, captured = list(rest[:carried]), rest[carried:]
        limit = None if most is None else int(most)
        going = condition is None or bool(condition.reshape(()))
        rows: list[list[Tensor]] = [[] for _ in range(scanned)]
        at = 0
        while going and (limit is None or at < limit):
            results = body(torch.tensor(at), torch.tensor(going), *state, *captured)
            going = bool(results[0].reshape(()))
            state = list(results[1 : 1 + carried])
            for each, value in zip(rows, results[1 + carried :], strict=True):
                each.append(value)
            at += 1
        return (*state, *(torch.stack(each) if each else torch.empty(0) for each in rows))

    return run


@operator("Scan", since=9)
def scan(node: Spec) -> Kernel:
    body = node.compile(node.attr("body"))
    inputs, total = node.attr("num_scan_inputs"), len(node.node.inputs)
    states, outputs = total - inputs, node.outputs - (total - inputs)
    in_axes = node.attr("scan_input_axes") or [0] * inputs
    in_back = node.attr("scan_input_directions") or [0] * inputs
    out_axes = node.attr("scan_output_axes") or [0] * outputs
    out_back = node.attr("scan_output_directions") or [0] * outputs

    def run(*operands: Any) -> tuple[Any, ...]:
        state, captured = list(operands[:states]), operands[total:]
        columns = [
            x.flip(axis).unbind(axis) if back else x.unbind(axis)
            for x, axis, back in zip(operands[states:total], in_axes, in_back, strict=True)
        ]
        rows: list[list[Tensor]] = [[] for _ in range(outputs)]
        for pieces in zip(*columns, strict=True):
            results = body(*state, *pieces, *captured)
            state = list(results[:states])
            for each, value in zip(rows, results[states:], strict=True):
                each.append(value)
        made = [
            torch.stack(each[::-1] if back else each, axis)
            for each, axis, back in zip(rows, out_axes, out_back, strict=True)
        ]
        return (*state, *made)

    return run


@operator("Scan", since=8)
def scan_batched(node: Spec) -> Kernel:
    """Version 8: a batch axis before the sequence, and lengths (operand 0)."""
    body = node.compile(node.attr("body"))
    inputs, total = node.attr("num_scan_inputs"), len(node.node.inputs) - 1
    states, outputs = total - inputs, node.outputs - (total - inputs)
    back = node.attr("directions") or [0] * inputs
    if node.has(0):
        raise node.refuse("it has sequences of unlike lengths")

    def one(operands: list[Any], captured: tuple[Any, ...]) -> list[Any]:
        state = operands[:states]
        columns = [
            x.flip(0).unbind(0) if turned else x.unbind(0)
            for x, turned in zip(operands[states:], back, strict=True)
        ]
        rows: list[list[Tensor]] = [[] for _ in range(outputs)]
        for pieces in zip(*columns, strict=True):
            results = body(*state, *pieces, *captured)
            state = list(results[:states])
            for each, value in zip(rows, results[states:], strict=True):
                each.append(value)
        return [*state, *(torch.stack(each) for each in rows)]

    def run(_: None, *operands: Any) -> tuple[Any, ...]:
        given, captured = operands[:total], operands[total:]
        batch = [one([x[i] for x in given], captured) for i in range(given[0].shape[0])]
        return tuple(torch.stack(each) for each in zip(*batch, strict=True))

    return run
