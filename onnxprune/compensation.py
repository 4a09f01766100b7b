"""Compensation without data: what a removed channel was worth on average goes into the bias.

Behind a BatchNormalization a channel has the mean beta and the standard deviation |gamma|, over the
data that the model was trained on. What an activation makes of a normal variable of that mean and
deviation follows by quadrature, and products are linear. So the mean of what a consumer read from a
removed channel is known from the weights alone (the idea of data-free quantisation's bias
correction: Nagel et al., ICCV 2019), and its share is added to the consumer's bias.

Where no BatchNormalization says how channels are distributed, nothing is compensated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto

from .axes import Axis, Choice, Dim, Rows, leaves
from .lossless.contraction import Contraction, contraction
from .lossless.folding import Editor, share
from .lossless.rows import Floats, rows
from .lossless.walk import evaluate_unary, placed
from .network import Network
from .rewrite import changed_positions
from .words import counted

#: Points of Gauss and Hermite's quadrature: exact for polynomials of degree 39.
_POINTS = 20
_SAME = {
    *("Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Concat"),
    *("Split", "Slice", "GlobalAveragePool", "AveragePool", "ReduceMean", "DepthToSpace", "Resize"),
    *("SpaceToDepth", "Upsample", "MaxPool"),
}
_UNARY = {
    *("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu"),
    *("Gelu", "Mish", "Softplus", "Erf"),
}


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of the channels along one dim of a tensor, `[n]`."""

    mean: Floats
    std: Floats


@dataclass
class Compensation:
    """A pruned model whose biases stand in for what was removed."""

    model: ModelProto = field(repr=False)
    #: How many products got another bias, of how many that lost inputs.
    shifted: int = 0
    products: int = 0

    def text(self) -> str:
        """One line for a report."""
        return (
            f"{self.shifted} of {counted(self.products, 'layer')} that lost inputs had the mean"
            " of these added to their biases, as batch normalisation tells it; --calibration DATA"
            " restores more"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"shifted": self.shifted, "products": self.products, "source": "weights"}


def compensate(network: Network, choice: Choice, pruned: ModelProto) -> Compensation:
    """`pruned`, the network's model cut to `choice`, with its biases shifted.

    Channels that are others for each head have no mean that one vector could say: they are left.
    """
    known = _Moments(network).run()
    model = ModelProto()
    model.CopyFrom(pruned)
    editor, result = Editor(model, network.model.base_dir), Compensation(model)
    for record in network.records:
        product = contraction(network, record.node)
        lost = [dim for dim in product.summed if dim in choice] if product else []
        if product is None or not lost:
            continue
        result.products += 1
        added = _lost(network, product, lost, choice, known)
        if added is not None:
            axis = (network.axes.get(product.node.output[0]) or [])[product.out_axis]
            kept = changed_positions(axis, choice)
            editor.shift(product, added if kept is None else added[kept])
            result.shifted += 1
    return result


def _lost(
    network: Network,
    product: Contraction,
    dims: Sequence[Dim],
    choice: Choice,
    known: Mapping[tuple[str, Dim], Moments],
) -> Floats | None:
    """The mean of what a product lost, `[out]`; None where it is not known of all that it lost."""
    total: Floats | None = None
    for dim in dims:
        moments, chosen = known.get((product.data, dim)), choice[dim]
        if moments is None or isinstance(chosen, Rows):
            return None
        gone = np.setdiff1d(np.arange(dim.size or 0), chosen)
        found = share(network, product, dim, {int(k): float(moments.mean[k]) for k in gone})
        total = found if total is None else total + found
    return total


class _Moments:
    """Moments of every tensor of a network whose distribution the weights tell."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.known: dict[tuple[str, Dim], Moments] = {}

    def run(self) -> dict[tuple[str, Dim], Moments]:
        for record in self.network.records:
            node = record.node
            if node.op_type == "BatchNormalization":
                self._normalised(node)
            elif node.op_type in _SAME:
                self._same(node)
            elif node.op_type in _UNARY:
                self._unary(node)
            elif node.op_type in ("Add", "Sum"):
                self._sum(node)
        return self.known

    def _normalised(self, node: NodeProto) -> None:
        constants = self.network.model.constants
        if not all(name in constants for name in node.input[1:3]):
            return
        axes = [placed(axis) for axis in self.network.axes.get(node.input[1]) or []]
        scale, bias = (self.network.model.read(name) for name in node.input[1:3])
        for axis in self.network.axes.get(node.output[0]) or []:
            for dim in _dims(axis):
                gamma, beta = rows(scale, axes, dim), rows(bias, axes, dim)
                if gamma is not None and beta is not None and gamma.width == 1:
                    moments = Moments(beta.all()[:, 0], np.abs(gamma.all()[:, 0]))
                    self.known[node.output[0], dim] = moments

    def _same(self, node: NodeProto) -> None:
        for output in filter(None, node.output):
            for (name, dim), moments in self._of(node.input).items():
                if name in node.input and dim in self._all(output):
                    self.known[output, dim] = moments

    def _unary(self, node: NodeProto) -> None:
        points, weights = np.polynomial.hermite_e.hermegauss(_POINTS)
        weights = weights / weights.sum()
        for (_, dim), moments in self._of(node.input[:1]).items():
            values = moments.mean + points[:, None] * moments.std
            try:
                mapped = evaluate_unary(self.network, node, values)
            except Exception:  # an operator that ONNX's evaluator lacks: not known from here on
                continue
            mean = weights @ mapped
            spread = np.sqrt(np.maximum(weights @ mapped**2 - mean**2, 0))
            self.known[node.output[0], dim] = Moments(mean, spread)

    def _sum(self, node: NodeProto) -> None:
        for dim in self._all(node.output[0]):
            parts = [self.known.get((name, dim)) for name in node.input]
            if all(part is not None for part in parts):
                mean = np.sum([part.mean for part in parts if part], axis=0)
                std = np.sqrt(np.sum([part.std**2 for part in parts if part], axis=0))
                self.known[node.output[0], dim] = Moments(mean, std)

    def _of(self, names: Sequence[str]) -> dict[tuple[str, Dim], Moments]:
        return {
            (name, dim): self.known[name, dim]
            for name in names
            for dim in self._all(name)
            if (name, dim) in self.known
        }

    def _all(self, name: str) -> list[Dim]:
        return [dim for axis in self.network.axes.get(name) or [] for dim in _dims(axis)]


def _dims(axis: Axis) -> list[Dim]:
    return [dim for dim in dict.fromkeys(leaves(axis)) if dim.size]
