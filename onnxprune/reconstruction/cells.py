"""LSTM and GRU step by step in numpy: what goes on between the gates, which no tensor shows.

Per direction: x `[t, b, i]`, w `[gates * h, i]`, r `[gates * h, h]`, bias `[2, gates * h]` (of the
input and of the recurrence). Standard activations only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model import Array


@dataclass
class Trace:
    """What one run came to, `[t, b, ...]`: gates before their activation, states before and after.

    `reset` is a GRU's reset gate (None for an LSTM).
    """

    gates: Array
    before: Array
    after: Array
    reset: Array | None = None


def sigmoid(x: Array) -> Array:
    """The logistic function, without overflow."""
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1))


def lstm(x: Array, w: Array, r: Array, bias: Array, h: Array, c: Array) -> Trace:
    """An LSTM (gates i, o, f, c), from states h and c `[b, h]`."""
    size = r.shape[1]
    given = x @ w.T + (bias[0] + bias[1])
    gates, before, after = np.empty_like(given), [], []
    for t in range(len(x)):
        before.append(h)
        gates[t] = given[t] + h @ r.T
        i, o, f = (sigmoid(gates[t, :, k * size : (k + 1) * size]) for k in range(3))
        c = f * c + i * np.tanh(gates[t, :, 3 * size :])
        h = o * np.tanh(c)
        after.append(h)
    return Trace(gates, np.stack(before), np.stack(after))


def gru(x: Array, w: Array, r: Array, bias: Array, h: Array, linear_before_reset: bool) -> Trace:
    """A GRU (gates z, r, h), from state h `[b, h]`."""
    size = r.shape[1]
    given = x @ w.T + bias[0]
    gates, before, after, resets = np.empty_like(given), [], [], []
    for t in range(len(x)):
        before.append(h)
        some = given[t, :, : 2 * size] + h @ r[: 2 * size].T + bias[1, : 2 * size]
        z, reset = sigmoid(some[:, :size]), sigmoid(some[:, size:])
        if linear_before_reset:
            inner = reset * (h @ r[2 * size :].T + bias[1, 2 * size :])
        else:
            inner = (reset * h) @ r[2 * size :].T + bias[1, 2 * size :]
        last = given[t, :, 2 * size :] + inner
        gates[t] = np.concatenate([some, last], axis=1)
        h = (1 - z) * np.tanh(last) + z * h
        after.append(h)
        resets.append(reset)
    return Trace(gates, np.stack(before), np.stack(after), np.stack(resets))
