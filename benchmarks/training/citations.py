"""A graph attention network on Cora: which of seven fields a paper is of, by its words and links.

The network of Veličković et al., "Graph Attention Networks" (2018), on the split of Yang et al.,
"Revisiting Semi-Supervised Learning with Graph Embeddings" (2016): of 2,708 papers 140 have labels
to learn from, 500 choose the weights, 1,000 judge. All are in one graph, which is one sample.
"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .family import NONE, Arrays, Family, Labels, exported

HEADS, CHANNELS, CLASSES = 8, 8, 7
PAPERS, WORDS, TRAIN, VALIDATION = 2708, 1433, 140, 500
EPOCHS = 300
#: Of features and of attention, as in the paper.
DROPPED = 0.6


class Attention(nn.Module):
    """[n, width] -> [n, heads, channels]: each node the mean of those that it links to."""

    def __init__(self, width: int, heads: int, channels: int) -> None:
        super().__init__()
        self.heads, self.channels = heads, channels
        self.project = nn.Linear(width, heads * channels, bias=False)
        self.source, self.target = (nn.Parameter(torch.empty(heads, channels)) for _ in range(2))
        self.bias = nn.Parameter(torch.zeros(heads, channels))
        for weight in (self.project.weight, self.source, self.target):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        h = functional.dropout(self.project(x), DROPPED, self.training)
        h = h.view(-1, self.heads, self.channels)
        scores = (h * self.source).sum(-1)[source] + (h * self.target).sum(-1)[target]
        # The softmax over a node's links is a sum over edges; one maximum for all will do.
        scores = functional.leaky_relu(scores, 0.2)
        scores = torch.exp(scores - scores.max())
        total = scores.new_zeros(x.shape[0], self.heads)
        total = total.scatter_add(0, target[:, None].expand_as(scores), scores)
        weights = functional.dropout(scores / total[target], DROPPED, self.training)
        messages = h[source] * weights[:, :, None]
        index = target[:, None, None].expand_as(messages)
        return torch.zeros_like(h).scatter_add(0, index, messages) + self.bias


class Gat(nn.Module):
    """Eight heads side by side, then one of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Attention(WORDS, HEADS, CHANNELS)
        self.second = Attention(HEADS * CHANNELS, 1, CLASSES)

    def forward(self, words: Tensor, edges: Tensor) -> Tensor:
        x = functional.dropout(words, DROPPED, self.training)
        x = functional.elu(self.first(x, edges).flatten(1))
        x = functional.dropout(x, DROPPED, self.training)
        return self.second(x, edges).flatten(1)


def build(corpus: Path) -> Family:
    """Trained and exported; no more than its 140 labels are in `labels`."""
    feeds, fields = read(corpus / "data" / "cora")
    words, edges = (torch.from_numpy(x) for x in feeds.values())
    net = trained(words, edges, torch.from_numpy(fields[: TRAIN + VALIDATION]))
    model = exported(
        net,
        {"words": words, "edges": edges},
        "fields",
        {"words": {0: "papers"}, "edges": {1: "links"}, "fields": {0: "papers"}},
    )
    papers = np.arange(PAPERS)
    return Family(
        model,
        feeds,
        np.where(papers < TRAIN, fields, NONE),
        feeds,
        np.where(papers >= PAPERS - 1000, fields, NONE),
        {name: x.shape for name, x in feeds.items()},
        300,
        2e-2,
        1,
        False,
        "GAT: the field of a paper in Cora, 140 labels",
        None,
    )


def trained(words: Tensor, edges: Tensor, fields: Tensor) -> Gat:
    """The weights that did best on the papers behind those that were learned from."""
    torch.manual_seed(0)
    net, best = Gat(), (-1.0, 0.0)
    kept = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3, weight_decay=5e-4)
    for _ in range(EPOCHS):
        net.train()
        optimizer.zero_grad()
        functional.cross_entropy(net(words, edges)[:TRAIN], fields[:TRAIN]).backward()
        optimizer.step()
        net.eval()
        with torch.no_grad():
            scores, wanted = net(words, edges)[TRAIN : len(fields)], fields[TRAIN:]
        right = float((scores.argmax(1) == wanted).float().mean())
        score = (right, -float(functional.cross_entropy(scores, wanted)))
        if score > best:
            best, kept = score, copy.deepcopy(net)
    return kept


def read(folder: Path) -> tuple[Arrays, Labels]:
    """Words `[papers, words]`, of each paper 1 in all; links `[2, n]` both ways and to itself."""
    part = {
        name: _unpickled(folder / f"ind.cora.{name}")
        for name in ("allx", "ally", "tx", "ty", "graph")
    }
    tested = np.loadtxt(folder / "ind.cora.test.index", dtype=np.int64)
    words = np.zeros((PAPERS, WORDS), np.float32)
    fields = np.zeros((PAPERS, CLASSES))
    first = PAPERS - len(tested)
    words[:first], words[tested] = part["allx"].toarray(), part["tx"].toarray()
    fields[:first], fields[tested] = part["ally"], part["ty"]
    words /= np.maximum(words.sum(1, keepdims=True), 1)
    links = {(a, b) for a, others in part["graph"].items() for b in others}
    links |= {(b, a) for a, b in links} | {(a, a) for a in range(PAPERS)}
    edges = np.array(sorted(links), np.int64).T
    return {"words": words, "edges": np.ascontiguousarray(edges)}, fields.argmax(1)


class _Unpickler(pickle.Unpickler):
    """Planetoid's files are pickles: of these types, and nothing else is made."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("scipy.sparse.csr", "csr_matrix"),
            ("collections", "defaultdict"),
            ("__builtin__", "list"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in a graph")
        renamed = {"numpy.core.multiarray": "numpy._core.multiarray"}
        renamed["scipy.sparse.csr"] = "scipy.sparse"
        return super().find_class(renamed.get(module, module), name)


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        return _Unpickler(file, encoding="latin1").load()
