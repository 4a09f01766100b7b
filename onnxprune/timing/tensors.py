"""The axes of the tensors that onnxruntime really makes.

Most have the model's own names. Those that fusions and layouts made are led back to them:

1. a node of the blocked layout is called by the tensor that it stands for, `NAME_nchwc`;
2. reordering a layout, and computing element by element, leaves the axes as they are;
3. Transpose, Reshape and Split rearrange them (`_MOVES`);
4. a matrix product takes its last axis from its weights;
5. a node of the model's own that had its outputs renamed still makes what it made.

What can't be led back has no axes here, and its size counts as fixed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from onnxprune.axes import Axis, Concat, Dim, Product, concat, product, resolve
from onnxprune.costs import at_size
from onnxprune.model import attributes
from onnxprune.network import Network

from .executed import Executed, Execution, Operand

Axes = list[Axis]

_BLOCKED = re.compile(r"(.+?)(_bn)?_nchwc(_token_\d+)?")
#: Channels of the blocked layout are padded to a multiple of at most this.
_PADDING = 16
_SAME = {
    *("ReorderInput", "ReorderOutput", "QuickGelu", "Gelu", "FastGelu", "BiasGelu", "Relu"),
    *("Sigmoid", "Tanh", "Clip", "HardSigmoid", "HardSwish", "LeakyRelu", "Cast", "Softmax"),
    *("LayerNormalization", "SkipLayerNormalization", "BiasSoftmax", "Add", "Mul", "Identity"),
    *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization", "BatchNormalization"),
}


def tensor_axes(network: Network, execution: Execution) -> dict[str, Axes]:
    """The axes of executed tensors by name, every size known; those not led back are left out."""
    return _Reader(network, execution).run()


def blocked(execution: Execution) -> set[str]:
    """The tensors in the blocked layout, whose channels are padded to whole blocks."""
    found: set[str] = set()
    for done in execution.nodes:
        if done.node.op_type == "ReorderOutput":
            continue
        made = done.node.domain == "com.microsoft.nchwc"
        if made or any(operand.name in found for operand in done.inputs):
            found.update(operand.name for operand in done.outputs)
    return found


class _Reader:
    def __init__(self, network: Network, execution: Execution) -> None:
        self.network = network
        self.execution = execution
        self.found: dict[str, Axes] = {}

    def run(self) -> dict[str, Axes]:
        for done in self.execution.nodes:
            for operand in (*done.inputs, *done.outputs):
                self._take(operand, self.network.axes.get(operand.name))
            match = _BLOCKED.fullmatch(done.node.name)
            if match and done.outputs:
                self._take(done.outputs[0], self.network.axes.get(match[1]))
            self._own(done)
        for order in (1, -1, 1):
            for done in self.execution.nodes[::order]:
                self._pass_on(done)
        return self.found

    def _take(self, operand: Operand, axes: Sequence[Axis] | None) -> None:
        """Remember the axes of a tensor, if they fit its shape."""
        if operand.name in self.found or axes is None or len(axes) != len(operand.shape):
            return
        if all(_fits(axis, size) for axis, size in zip(axes, operand.shape, strict=True)):
            self.found[operand.name] = [
                axis if axis.size is not None else at_size(axis, size)
                for axis, size in zip(axes, operand.shape, strict=True)
            ]

    def _own(self, done: Executed) -> None:
        original = self.execution.originals.get(done.node.name)
        if original is None or original.op_type != done.node.op_type:
            return
        outputs = [name for name in original.output if name]
        if len(outputs) == len(done.outputs):
            for name, operand in zip(outputs, done.outputs, strict=True):
                self._take(operand, self.network.axes.get(name))

    def _pass_on(self, done: Executed) -> None:
        if not done.inputs or not done.outputs:
            return
        x, y = done.inputs[0], done.outputs[0]
        if done.node.op_type in _SAME:
            for other in done.inputs:
                if not other.constant and other.name in self.found:
                    self._take(y, self.found[other.name])
            self._take(x, self.found.get(y.name))
        elif done.node.op_type in _MATRICES:
            self._matrix(done)
        elif done.node.op_type in _MOVES and x.name in self.found:
            moved = _MOVES[done.node.op_type](done, self.found[x.name])
            for operand, axes in zip(done.outputs, moved, strict=False):
                self._take(operand, axes)
        elif done.node.op_type in _BACK and y.name in self.found:
            self._take(x, _BACK[done.node.op_type](done, self.found[y.name]))

    def _matrix(self, done: Executed) -> None:
        """What is multiplied by a weight `[k, n]` ends in k, and what comes out in n."""
        x, w, y = done.inputs[0], done.inputs[1], done.outputs[0]
        attrs = attributes(done.node)
        weight = self.found.get(w.name)
        if weight is None or len(weight) != 2 or not w.constant or attrs.get("transA"):
            return
        k, n = weight[::-1] if attrs.get("transB") else weight
        self._take(x, [*map(_whole, x.shape[:-1]), k])
        self._take(y, [*map(_whole, y.shape[:-1]), n])


def _whole(size: int) -> Axis:
    """An axis that no width changes."""
    return at_size(Dim(None), size)


# -- what rearranges axes: from those of the input to those of each output -------------------------


def _transpose(done: Executed, axes: Axes) -> list[Axes]:
    return [[axes[i] for i in _perm(done)]]


def _transpose_back(done: Executed, axes: Axes) -> Axes:
    perm = _perm(done)
    return [axes[perm.index(i)] for i in range(len(perm))]


def _perm(done: Executed) -> list[int]:
    return list(attributes(done.node).get("perm") or range(len(done.inputs[0].shape))[::-1])


def _reshape(done: Executed, axes: Axes) -> list[Axes]:
    return [_regrouped(axes, done.outputs[0].shape)]


def _reshape_back(done: Executed, axes: Axes) -> Axes:
    return _regrouped(axes, done.inputs[0].shape)


def _regrouped(axes: Sequence[Axis], shape: Sequence[int]) -> Axes:
    """The factors of `axes`, merged to axes of these sizes; nothing where they don't come out."""
    factors = [
        part
        for axis in map(resolve, axes)
        for part in (axis.parts if isinstance(axis, Product) else (axis,))
        if part.size != 1
    ]
    merged: Axes = []
    for size in shape:
        taken: Axes = []
        while math.prod(part.size or 0 for part in taken) < size and factors:
            taken.append(factors.pop(0))
        merged.append(product(taken) if taken else _whole(1))
    return [] if factors else merged


def _split(done: Executed, axes: Axes) -> list[Axes]:
    axis = attributes(done.node).get("axis", 0) % len(axes)
    cut = resolve(axes[axis])
    parts = list(cut.parts) if isinstance(cut, Concat) else []
    outputs = []
    for operand in done.outputs:
        size, taken = operand.shape[axis], Concat([])
        while parts and (taken.size or 0) < size:
            taken = Concat([*taken.parts, parts.pop(0)])
        run = concat(taken.parts) if taken.parts and taken.size == size else _whole(size)
        outputs.append([*axes[:axis], run, *axes[axis + 1 :]])
    return outputs


_RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_MOVES = {"Transpose": _transpose, "Split": _split, **dict.fromkeys(_RESHAPES, _reshape)}
_BACK = {"Transpose": _transpose_back, **dict.fromkeys(_RESHAPES, _reshape_back)}
_MATRICES = ("Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def _fits(axis: Axis, size: int) -> bool:
    return (
        axis.size is None or axis.size == size or axis.size == size - (size - axis.size) % _PADDING
    )


def sizes_of(axes: Mapping[str, Axes], operand: Operand) -> list[Axis | int]:
    """The axes of an operand; where they are not known, the sizes that it had."""
    return list(axes.get(operand.name) or operand.shape)
