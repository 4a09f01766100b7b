"""Torch-Pruning's one-shot result on the network of an ONNX file, which torch is given as modules.

Every convolution and every matrix product with a weight becomes a module, with the file's weights;
the other nodes run as `onnxprune.gradients` runs them. Both of Torch-Pruning's ways to spread a
budget are tried: one ratio for every layer, and one ranking over all of them. Nothing is fitted
afterwards. A pruned network that no longer runs gives no result; where its residual streams are to
blame, a second try leaves them alone.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn

from onnxprune.gradients import Differentiable
from onnxprune.model import Model, Node, attributes

#: Halvings of the interval that the ratio lies in.
HALVINGS = 12


class Rebuilt(nn.Module):
    """A model's first output as a module of modules, from its one input."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        function = Differentiable(model)
        graph = function.graph
        self.values = dict(function._fixed)
        for slot, key in function._moving.items():
            self.values[slot] = getattr(function._tables, key)
        names = {slot: name for name, slot in graph.slots.items()}
        held = {slot: model.read(name) for slot, name in names.items() if name in model.constants}
        self.entry = graph.slots[function.inputs[0]]
        self.exit = graph.slots[function.outputs[0]]
        self.plan = graph.plan((self.exit,), (), torch.device("cpu"))
        self.layers = nn.ModuleDict()
        for step in self.plan:
            weights = [held.get(slot) for slot in step.reads[1:]]
            layer = _layer(step.node, weights)
            if layer is not None:
                self.layers[str(step.writes[0])] = layer
                continue
            self.values.update(
                (slot, torch.from_numpy(np.array(held[slot])))
                for slot in step.reads
                if slot in held and slot not in self.values
            )

    def forward(self, x: Tensor) -> Tensor:
        values: dict[int, Any] = {0: None, **self.values, self.entry: x}
        for step in self.plan:
            name = str(step.writes[0])
            operands = [values.get(slot) for slot in step.reads]
            if name in self.layers:
                values[step.writes[0]] = self.layers[name](operands[0])
            elif step.node.kind == "Reshape":  # the sizes in the file are those of before
                values[step.writes[0]] = operands[0].flatten(1)
            else:
                made = step.run(*operands)
                made = made if isinstance(made, tuple) else (made,)
                values.update(zip(step.writes, made, strict=False))
        found: Tensor = values[self.exit]
        return found

    def beside_streams(self) -> list[nn.Module]:
        """The layers whose outputs come to an Add before they come to another layer."""
        found: list[nn.Module] = []
        made: dict[int, set[str]] = {}  # which layers a slot's value is of
        for step in self.plan:
            name = str(step.writes[0])
            of = {each for slot in step.reads for each in made.get(slot, ())}
            if step.node.kind == "Add":
                found += [self.layers[each][1] for each in sorted(of)]
            made[step.writes[0]] = {name} if name in self.layers else of
        return found


def _layer(node: Node, weights: list[Any]) -> nn.Module | None:
    """The module of a node that multiplies by a weight."""
    if node.kind not in ("Conv", "Gemm", "MatMul") or not weights or weights[0] is None:
        return None
    given = attributes(node.proto)
    w = torch.from_numpy(np.array(weights[0]))
    b = weights[1] if len(weights) > 1 else None
    layer: Any
    if node.kind == "Conv":
        before_h, before_w, after_h, after_w = given.get("pads", [0, 0, 0, 0])
        groups = given.get("group", 1)
        layer = nn.Conv2d(
            w.shape[1] * groups,
            w.shape[0],
            tuple(w.shape[2:]),
            tuple(given.get("strides", [1, 1])),
            0,
            tuple(given.get("dilations", [1, 1])),
            groups,
            bias=b is not None,
        )
        padding = nn.ZeroPad2d((before_w, after_w, before_h, after_h))
    else:
        w = w if given.get("transB") else w.T
        layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None)
        padding = nn.Identity()
    layer.weight.data = w.contiguous()
    if b is not None:
        layer.bias.data = torch.from_numpy(np.array(b))
    return nn.Sequential(padding, layer)


def one_shot(model: Model, example: Tensor, kept: float) -> dict[str, tuple[nn.Module, float]]:
    """Torch-Pruning's networks with at most `kept` of the MACs, and what they have, by their ways.

    Args:
        example: an input `[1, c, h, w]`.
    """
    found = {}
    for label, everywhere in (("by layer", False), ("over all layers", True)):
        for spared in (False, True):
            made = _within(model, example, kept, everywhere, spared)
            if made is not None:
                found[label + (", residuals left alone" if spared else "")] = made
                break
    return found


def _within(
    model: Model, example: Tensor, kept: float, everywhere: bool, spared: bool
) -> tuple[nn.Module, float] | None:
    whole = Rebuilt(model).eval()
    try:
        tries = list(
            bisected(whole, example, kept, lambda m, r: _cut(m, example, r, everywhere, spared))
        )
    except (RuntimeError, IndexError, ValueError):  # what it cut no longer fits together
        return None
    return max((each for each in tries if each[1] <= kept), key=lambda each: each[1], default=None)


def bisected(
    whole: nn.Module,
    example: Tensor,
    kept: float,
    cut: Callable[[Any, float], Any],
    halvings: int = HALVINGS,
) -> Iterator[tuple[nn.Module, float]]:
    """Cuts at ratios nearer and nearer to the one that leaves `kept` of the MACs, and their shares.

    Args:
        cut: what cuts a copy of `whole` at one ratio.
    """
    macs, _ = tp.utils.count_ops_and_params(copy.deepcopy(whole), example)
    low, high = 0.0, 0.98
    for _ in range(halvings):
        ratio = (low + high) / 2
        made = cut(copy.deepcopy(whole), ratio)
        left, _ = tp.utils.count_ops_and_params(copy.deepcopy(made), example)
        yield made, left / macs
        low, high = (ratio, high) if left / macs > kept else (low, ratio)


def _cut(whole: Rebuilt, example: Tensor, ratio: float, everywhere: bool, spared: bool) -> Any:
    layers = [layer[1] for layer in whole.layers.values()]
    ignored = [layers[-1], *(whole.beside_streams() if spared else ())]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tp.pruner.MagnitudePruner(
            whole,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=everywhere,
            pruning_ratio=ratio,
            ignored_layers=ignored,
        ).step()
    return whole
