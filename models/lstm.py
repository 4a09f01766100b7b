"""A stacked bidirectional LSTM over a sequence (Hochreiter & Schmidhuber 1997; Schuster & Paliwal
1997), its last step classified.

Learned initial states are expanded to the batch through a computed shape that holds the hidden
size. Free: each layer's hidden size, in the four gates of both directions, the recurrent weights,
the states and the next layer's columns. Pinned: input features, time, directions, classes.
"""

from __future__ import annotations

import onnx

from models.graph import Graph


def build(
    seed: int = 0,
    *,
    features: int = 24,
    hidden: int = 48,
    layers: int = 2,
    steps: int = 12,
    classes: int = 10,
) -> onnx.ModelProto:
    """[N, steps, features] -> [N, classes]."""
    g = Graph("lstm", seed)
    sequence = g.input("sequence", "N", steps, features)
    batch = g.size(sequence, 0)
    x = g.transpose(sequence, 1, 0, 2)
    inputs = features
    for layer in range(layers):
        with g.scope(f"lstm.l{layer}"):
            x = _bidirectional(g, x, batch, inputs, hidden)
        inputs = 2 * hidden
    x = g.node("Gather", g.transpose(x, 1, 0, 2), g.scalar(-1), axis=1)
    g.output(g.linear("fc", x, inputs, classes), "logits", "N", classes)
    return g.model()


def _bidirectional(g: Graph, x: str, batch: str, inputs: int, hidden: int) -> str:
    """[t, n, inputs] -> [t, n, 2 * hidden]."""
    gates = 4 * hidden  # input, output, forget, cell: ONNX's order
    weights = (
        g.random("W", 2, gates, inputs, scale=inputs**-0.5),
        g.random("R", 2, gates, hidden, scale=hidden**-0.5),
        g.random("B", 2, 2 * gates, scale=0.1),
    )
    shape = g.shape(2, batch, hidden)
    h, c = (g.node("Expand", g.random(n, 2, 1, hidden, scale=0.5), shape) for n in ("h0", "c0"))
    # The empty name stands for sequence_lens: all sequences run their full length.
    y = g.node("LSTM", x, *weights, "", h, c, hidden_size=hidden, direction="bidirectional")
    # [t, directions, n, hidden]: lay the directions end to end.
    return g.node("Reshape", g.transpose(y, 0, 2, 1, 3), g.ints(0, 0, -1))
