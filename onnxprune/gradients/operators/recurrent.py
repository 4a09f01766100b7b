"""LSTM, GRU and RNN, step by step, as the standard writes them.

Layout 0 is `[time, batch, input]`; weights are `[directions, gates * hidden, input]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..table import Kernel, Spec, operator
from .elementwise import activation

Call = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]


class Cells:
    """What LSTM, GRU and RNN have in common: directions, activations, lengths, layouts."""

    def __init__(self, node: Spec, gates: int, default: list[str]) -> None:
        self.gates = gates
        way = node.attr("direction", "forward")
        self.backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[way]
        names = node.attr("activations") or default * len(self.backward)
        alphas, betas = node.attr("activation_alpha") or [], node.attr("activation_beta") or []
        calls: list[Call] = []
        takes = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
        both = {"affine", "scaledtanh", "hardsigmoid"}
        for name in names:
            # Each that has a parameter takes the next of the list.
            kind = name.lower()
            alpha = alphas.pop(0) if kind in takes and alphas else None
            beta = betas.pop(0) if kind in both and betas else None
            calls.append(activation(node, name, alpha, beta))
        each = len(default)
        #: Whether it is what torch's own layers, several times as fast, compute.
        self.usual = names == default * len(self.backward) and not alphas and not betas
        self.calls = [calls[i : i + each] for i in range(0, len(calls), each)]
        self.clip = node.attr("clip")
        self.batch_first = bool(node.attr("layout", 0))
        self.usual = self.usual and self.clip is None

    def in_torch(
        self,
        call: Callable[..., Any],
        x: Tensor,
        weights: list[list[Tensor]],
        states: list[Tensor | None],
        hidden: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """The same as `run` by torch's own layer.

        Args:
            call: `torch.lstm`, `torch.gru` or `torch.rnn_tanh`.
            weights: of each direction, in torch's order: input, recurrent, and biases if any.
        """
        if self.batch_first:
            x = x.transpose(0, 1)
            states = [s if s is None else s.transpose(0, 1) for s in states]
        # torch goes forward, or both ways; backward is forward over the sequence turned round.
        flip, ways = self.backward == [True], len(self.backward)
        zero = x.new_zeros(ways, x.shape[1], hidden)
        given = tuple(zero if s is None else s.contiguous() for s in states)
        flat = [each for way in weights for each in way]
        found = call(
            *(x.flip(0) if flip else x, given if len(given) > 1 else given[0], flat),
            *(len(weights[0]) == 4, 1, 0.0, False, ways == 2, False),
        )
        y = found[0].flip(0) if flip else found[0]
        y = y.unflatten(2, (ways, hidden)).transpose(1, 2)
        if self.batch_first:
            return y.permute(2, 0, 1, 3), [each.transpose(0, 1) for each in found[1:]]
        return y, list(found[1:])

    def clipped(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def run(
        self,
        x: Tensor,
        weight: Tensor,
        lengths: Tensor | None,
        states: list[Tensor | None],
        bias: Tensor | None,
        step: Callable[[int, Tensor, State], State],
        hidden: int,
    ) -> tuple[Tensor, list[Tensor]]:
        """All outputs `[time, directions, batch, hidden]`, and the last states.

        `step(direction, share, state)` is one cell; `bias` is what is added to the input's share.
        """
        if self.batch_first:
            x = x.transpose(0, 1)
            states = [s if s is None else s.transpose(0, 1) for s in states]
        time, batch = x.shape[:2]
        rows: list[Tensor] = []
        last: list[State] = []
        for d, back in enumerate(self.backward):
            shares = torch.matmul(x, weight[d].T)
            if bias is not None:
                shares = shares + bias[d]
            zero = x.new_zeros(batch, hidden)
            state: State = tuple(zero if s is None else s[d] for s in states)
            made: list[Tensor] = []
            for t in range(time - 1, -1, -1) if back else range(time):
                new = step(d, shares[t], state)
                if lengths is None:
                    state = new
                    made.append(new[0])
                else:
                    inside = (t < lengths.to(x.device))[:, None]
                    state = tuple(
                        torch.where(inside, a, b) for a, b in zip(new, state, strict=True)
                    )
                    made.append(torch.where(inside, new[0], zero))
            rows.append(torch.stack(made[::-1] if back else made) if made else zero[None][:0])
            last.append(state)
        y = torch.stack(rows, 1)
        ends = [torch.stack(each) for each in zip(*last, strict=True)]
        if self.batch_first:
            return y.permute(2, 0, 1, 3), [each.transpose(0, 1) for each in ends]
        return y, ends


def _usual(
    cells: Cells,
    call: Callable[..., Any],
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    states: list[Tensor | None],
    order: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """By torch's own layer. `order`: which of ONNX's gates each of torch's is."""
    size = r.shape[-1]

    def sorted_gates(x: Tensor) -> Tensor:
        pieces = x.split(size)
        return torch.cat([pieces[i] for i in order])

    weights = []
    for d in range(len(cells.backward)):
        held = [w[d], r[d]]
        if b is not None:
            held += b[d].split(len(order) * size)
        weights.append([sorted_gates(each) for each in held])
    y, ends = cells.in_torch(call, x, weights, states, size)
    return y, *ends


@operator("LSTM", fixed=(4,))
def lstm(node: Spec) -> Kernel:
    """Gates in the order i, o, f, c; peepholes i, o, f."""
    cells = Cells(node, 4, ["Sigmoid", "Tanh", "Tanh"])
    coupled = bool(node.attr("input_forget", 0))

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
        c0: Tensor | None = None,
        p: Tensor | None = None,
    ) -> tuple[Any, ...]:
        size = r.shape[-1]
        if cells.usual and not coupled and lengths is None and p is None:
            return _usual(cells, torch.lstm, x, w, r, b, [h0, c0], (0, 2, 3, 1))
        turned = [each.T for each in r]

        def step(d: int, share: Tensor, state: State) -> State:
            f, g, h = cells.calls[d]
            last, cell = state
            i, o, forget, c = (share + last @ turned[d]).chunk(4, -1)
            if p is not None:
                pi, po, pf = p[d].chunk(3)
                i, forget = i + pi * cell, forget + pf * cell
            i = f(cells.clipped(i))
            forget = 1 - i if coupled else f(cells.clipped(forget))
            new = forget * cell + i * g(cells.clipped(c))
            if p is not None:
                o = o + po * new
            return f(cells.clipped(o)) * h(new), new

        both = None if b is None else b[:, : 4 * size] + b[:, 4 * size :]
        y, (h, c) = cells.run(x, w, lengths, [h0, c0], both, step, size)
        return y, h, c

    return run


@operator("GRU", fixed=(4,))
def gru(node: Spec) -> Kernel:
    """Gates in the order z, r, h."""
    cells = Cells(node, 3, ["Sigmoid", "Tanh"])
    # The default is 0, where the reset comes before the product; torch's own GRU is 1.
    after = bool(node.attr("linear_before_reset", 0))

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
    ) -> tuple[Any, ...]:
        size = r.shape[-1]
        if cells.usual and after and lengths is None:
            return _usual(cells, torch.gru, x, w, r, b, [h0], (1, 0, 2))
        first = [each[: 2 * size].T for each in r]
        second = [each[2 * size :].T for each in r]
        given = None if b is None else b[:, : 3 * size]
        more = None if b is None else b[:, 3 * size :]

        def step(d: int, share: Tensor, state: State) -> State:
            f, g = cells.calls[d]
            (last,) = state
            gates = share[:, : 2 * size] + last @ first[d]
            if more is not None:
                gates = gates + more[d, : 2 * size]
            z, reset = f(cells.clipped(gates)).chunk(2, -1)
            rest = None if more is None else more[d, 2 * size :]
            if after:
                own = last @ second[d]
                new = reset * (own if rest is None else own + rest)
            else:
                new = (reset * last) @ second[d]
                new = new if rest is None else new + rest
            new = g(cells.clipped(share[:, 2 * size :] + new))
            return ((1 - z) * new + z * last,)

        y, (h,) = cells.run(x, w, lengths, [h0], given, step, size)
        return y, h

    return run


@operator("RNN", fixed=(4,))
def rnn(node: Spec) -> Kernel:
    cells = Cells(node, 1, ["Tanh"])

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h0: Tensor | None = None,
    ) -> tuple[Any, ...]:
        size = r.shape[-1]
        if cells.usual and lengths is None:
            return _usual(cells, torch.rnn_tanh, x, w, r, b, [h0], (0,))
        turned = [each.T for each in r]

        def step(d: int, share: Tensor, state: State) -> State:
            return (cells.calls[d][0](cells.clipped(share + state[0] @ turned[d])),)

        both = None if b is None else b[:, :size] + b[:, size:]
        y, (h,) = cells.run(x, w, lengths, [h0], both, step, size)
        return y, h

    return run
