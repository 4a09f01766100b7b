"""A DGCNN on point clouds: of which of ten surfaces or curves 64 points are. The data is synthetic.

Points are drawn from a shape, stretched, turned at random, and moved by noise. The network is that
of Wang et al., "Dynamic Graph CNN for Learning on Point Clouds" (2019), smaller: in each layer, a
point's neighbours are those nearest in the features that it has by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .family import Family, Labels, exported, fit

POINTS, NEIGHBOURS = 64, 8
WIDTHS, EMBEDDED, HEAD = (32, 32, 64), 128, 64
TRAIN, TEST = 4000, 1000
NOISE = 0.03

Points = NDArray[np.float64]
Rng = np.random.Generator


def _circle(rng: Rng, n: int) -> Points:
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _around(circle: Points, radius: Points | float, height: Points | float) -> Points:
    height = np.broadcast_to(height, len(circle))
    return np.concatenate([circle * np.reshape(radius, (-1, 1)), height[:, None]], 1)


def _sphere(rng: Rng, n: int) -> Points:
    x = rng.standard_normal((n, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _cube(rng: Rng, n: int) -> Points:
    x = rng.uniform(-1, 1, (n, 3))
    x[np.arange(n), rng.integers(3, size=n)] = rng.choice([-1, 1], n)
    return x


def _cylinder(rng: Rng, n: int) -> Points:
    return _around(_circle(rng, n), 1.0, rng.uniform(-1, 1, n))


def _cone(rng: Rng, n: int) -> Points:
    radius = np.sqrt(rng.uniform(0, 1, n))
    return _around(_circle(rng, n), radius, 1 - 2 * radius)


def _torus(rng: Rng, n: int) -> Points:
    tube = 0.4 * _circle(rng, n)
    return _around(_circle(rng, n), 1 + tube[:, 0], tube[:, 1])


def _disc(rng: Rng, n: int) -> Points:
    return _around(_circle(rng, n), np.sqrt(rng.uniform(0, 1, n)), 0.0)


def _tetrahedron(rng: Rng, n: int) -> Points:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    faces = corners[[[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]]
    return np.einsum("nk,nkd->nd", rng.dirichlet([1, 1, 1], n), faces[rng.integers(4, size=n)])


def _helix(rng: Rng, n: int) -> Points:
    turn = rng.uniform(0, 4 * np.pi, n)
    return np.stack([np.cos(turn), np.sin(turn), turn / (2 * np.pi) - 1], 1)


def _hyperboloid(rng: Rng, n: int) -> Points:
    height = rng.uniform(-1, 1, n)
    return _around(_circle(rng, n), np.sqrt(0.1 + height**2), height)


def _saddle(rng: Rng, n: int) -> Points:
    x, y = rng.uniform(-1, 1, (2, n))
    return np.stack([x, y, x**2 - y**2], 1)


SHAPES: Sequence[Callable[[Rng, int], Points]] = (
    _sphere, _cube, _cylinder, _cone, _torus, _disc, _tetrahedron, _helix, _hyperboloid, _saddle,
)  # fmt: skip


def clouds(count: int, rng: Rng) -> tuple[NDArray[np.float32], Labels]:
    """Clouds `[count, 3, points]`, and which shape each is of."""
    labels = rng.integers(len(SHAPES), size=count)
    found = np.empty((count, 3, POINTS), np.float32)
    for i, label in enumerate(labels):
        x = SHAPES[label](rng, POINTS) * rng.uniform(0.7, 1.3, 3)
        x = x @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
        x += NOISE * rng.standard_normal(x.shape)
        x -= x.mean(0)
        found[i] = (x / np.abs(x).max()).T
    return found, labels


class EdgeConv(nn.Module):
    """[n, c, points] -> [n, out, points]: of each edge both ends, and the maximum over edges."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(2 * width, out, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)
        )

    def forward(self, x: Tensor) -> Tensor:
        points = x.transpose(1, 2)
        squared = (x * x).sum(1, keepdim=True)
        closeness = 2 * points @ x - squared - squared.transpose(1, 2)
        nearest = closeness.topk(NEIGHBOURS, -1)[1]
        cloud = torch.arange(x.shape[0])[:, None, None]
        own = points[:, :, None].expand(-1, -1, NEIGHBOURS, -1)
        edges = torch.cat([points[cloud, nearest] - own, own], 3)
        found: Tensor = self.layer(edges.permute(0, 3, 1, 2)).amax(-1)
        return found


class Dgcnn(nn.Module):
    """Points `[n, 3, points]` -> scores of shapes `[n, shapes]`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EdgeConv(a, b) for a, b in zip((3, *WIDTHS), WIDTHS, strict=False)
        )
        self.embed = nn.Sequential(
            nn.Conv1d(sum(WIDTHS), EMBEDDED, 1, bias=False),
            nn.BatchNorm1d(EMBEDDED),
            nn.LeakyReLU(0.2),
        )
        self.head = nn.Sequential(
            nn.Linear(EMBEDDED, HEAD), nn.ReLU(), nn.Dropout(0.3), nn.Linear(HEAD, len(SHAPES))
        )

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        scores: Tensor = self.head(self.embed(torch.cat(found, 1)).amax(-1))
        return scores


def build(_: Path) -> Family:
    """Trained on 4,000 clouds, and exported."""
    rng = np.random.default_rng(0)
    data, labels = clouds(TRAIN, rng)
    test, test_labels = clouds(TEST, rng)
    torch.manual_seed(0)
    net, points = Dgcnn(), torch.from_numpy(data)
    fit(net, points, torch.from_numpy(labels), 15, 3e-3, 0)
    model = exported(
        net, {"points": points[:2]}, "shapes", {"points": {0: "n"}, "shapes": {0: "n"}}
    )
    return Family(
        model,
        {"points": data},
        labels,
        {"points": test},
        test_labels,
        {"points": (1, 3, POINTS)},
        15,
        1e-2,
        64,
        False,
        "DGCNN: the shape that 64 points are of (synthetic)",
    )
