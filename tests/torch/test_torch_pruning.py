"""Groups and rankings are those of Torch-Pruning, DepGraph's own implementation.

One torch model, read twice: traced by Torch-Pruning, and exported to ONNX and read from there.

What is compared is finer than the groups themselves: for single channels of single layers, every
(parameter, axis, index) that goes with them, so index mappings are compared too. Where the two say
things in different ways:

- Torch-Pruning's group is all that hangs on one *layer*; a dim here is one run of channels. A layer
  whose channels are split, or that is added to a concatenation, has several dims. Channel by
  channel there is no difference.
- A grouped convolution reads its axis as groups x channels in a group. Here that coupling is part
  of the axis; Torch-Pruning treats the width as one run, and its pruner chooses alike for every
  group later on. So it is asked for the same index in every group at once. Whole convolution
  groups (the role `second-factor`) can be removed here and not there, and are left out.
- Torch-Pruning also gives groups that reach the model's output, and leaves it to its user to ignore
  them; here exactly these are pinned.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
tp = pytest.importorskip("torch_pruning")
if importlib.util.find_spec("torchvision") is None:
    pytest.skip("no torchvision", allow_module_level=True)

import torch  # noqa: E402
from torch import nn  # noqa: E402

import onnxprune  # noqa: E402
from onnxprune.groups import Group, find_groups  # noqa: E402
from onnxprune.importance import Importance  # noqa: E402
from onnxprune.infer import infer  # noqa: E402
from onnxprune.loading import load  # noqa: E402
from onnxprune.network import Network  # noqa: E402
from onnxprune.tables import built_in  # noqa: E402
from tests.torch.export import build, export  # noqa: E402

pytestmark = pytest.mark.torch

FAMILIES = [
    *("resnet18", "resnet50", "resnext50_32x4d", "densenet121", "googlenet"),
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0"),
    *("mnasnet1_0", "regnet_x_400mf", "regnet_y_400mf", "squeezenet1_1", "vgg11_bn"),
    *("convnext_tiny", "unet", "mixed", "partial"),
]
#: Channels of each layer whose coupled slices are compared.
SAMPLES = 3
#: Scores nearer to each other than this, relative to the largest, may change places: both sides
#: add in float32, in different orders.
TIE = 2e-6

Slice = tuple[str, int, int]


@dataclass
class Pair:
    """One model, as each of the two reads it."""

    model: nn.Module
    example: torch.Tensor
    graph: tp.DependencyGraph
    network: Network
    groups: list[Group]


def read(name: str) -> Pair:
    """Both readings of a model."""
    model = build(name)
    example = torch.zeros(2, 3, 64, 64)
    graph = traced(model, example)
    network = infer(load(export(model, example)), built_in())
    # Torch-Pruning removes the same positions from all groups of a convolution.
    groups = [g.common() for g in find_groups(network) if g.role != "second-factor"]
    return Pair(model, example, graph, network, groups)


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    return read(request.param)


def traced(model: nn.Module, example: torch.Tensor) -> tp.DependencyGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(model, example, verbose=False)


# -- Torch-Pruning's side --------------------------------------------------------------------------


def layers(pair: Pair) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in pair.model.named_modules():
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            yield name, layer


def group_of(pair: Pair, layer: nn.Module, channels: Iterable[int]) -> tp.Group:
    """What Torch-Pruning would remove with these output channels of a layer."""
    prune = pair.graph.get_pruner_of_module(layer).prune_out_channels
    return pair.graph.get_pruning_group(layer, prune, list(channels))


def reaches_output(pair: Pair, group: tp.Group) -> bool:
    """Whether it cuts the outputs of a layer that nothing reads."""
    return any(
        not dep.target.outputs and pair.graph.is_out_channel_pruning_fn(dep.pruning_fn)
        for dep, _ in group
    )


def grouped(layer: nn.Module) -> bool:
    """A grouped convolution that is not depthwise."""
    return 1 < getattr(layer, "groups", 1) < layer.out_channels


def slices(pair: Pair, group: tp.Group) -> set[Slice]:
    """Every slice of a parameter or statistic that a group of Torch-Pruning's removes."""
    found: set[Slice] = set()
    for dep, indices in group:
        layer, name = dep.target.module, pair.graph._module2name.get(dep.target.module)
        vectors: tuple[str, ...] = ()
        axis: int | None = None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            vectors = ("weight", "bias", "running_mean", "running_var")
        elif isinstance(layer, nn.LayerNorm):
            vectors = ("weight", "bias")
        elif isinstance(layer, nn.Parameter):
            name = pair.graph._param_to_name[layer]
            found.update((name, dep.target.pruning_dim, i) for i in indices)
        elif isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            depthwise = dep.target.type == tp.ops.OPTYPE.DEPTHWISE_CONV
            outwards = pair.graph.is_out_channel_pruning_fn(dep.pruning_fn)
            transposed = getattr(layer, "transposed", False)
            axis = 0 if depthwise or outwards != transposed else 1
            if layer.bias is not None and outwards:
                vectors = ("bias",)
            if grouped(layer) and not outwards:
                indices = [i % layer.weight.shape[1] for i in indices]
        for i in indices:
            found.update((f"{name}.{vector}", 0, i) for vector in vectors)
            if axis is not None:
                found.add((f"{name}.weight", axis, i))
    return found


def scores(group: tp.Group) -> np.ndarray:
    """Torch-Pruning's group-L2 importance, reduced by the mean.

    It repeats the score of a grouped convolution's input for every group, that is, counts this one
    operand as often as there are groups. Here it counts once: such groups are scored operand by
    operand and added up.
    """
    importance = tp.importance.GroupMagnitudeImportance(
        p=2, group_reduction="mean", normalizer=None
    )
    repeated = tp.function.prune_conv_in_channels
    if not any(dep.pruning_fn == repeated and grouped(dep.layer) for dep, _ in group):
        return importance(group).double().numpy()
    total = np.zeros(len(group[0].idxs))
    for item in group:
        alone = tp.Group()
        alone._group = [item]
        score = importance(alone)
        if score is not None:
            times = item.dep.layer.groups if item.dep.pruning_fn == repeated else 1
            total += score.double().numpy() / times
    return total


def scored(pair: Pair) -> set[str]:
    """The operands that Torch-Pruning scores: no bias, and no depthwise convolution."""
    names = {
        f"{name}.weight"
        for name, layer in pair.model.named_modules()
        if isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm))
    }
    depthwise = tp.ops.OPTYPE.DEPTHWISE_CONV
    return names | {
        f"{name}.weight" for name, layer in layers(pair) if tp.ops.module2type(layer) != depthwise
    }


# -- this side -------------------------------------------------------------------------------------


def out_axis(layer: nn.Module) -> int:
    return 1 if getattr(layer, "transposed", False) else 0


class Channels:
    """The groups by the places that they occur in."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups
        self._at: dict[tuple[str, int, int], list[tuple[int, int]]] = defaultdict(list)
        for i, group in enumerate(groups):
            for member in group.members:
                pairs = zip(member.positions.tolist(), member.channels.tolist(), strict=True)
                for position, channel in pairs:
                    self._at[member.tensor, member.axis, position].append((i, channel))

    def at(self, tensor: str, axis: int, position: int) -> list[tuple[int, int]]:
        """The (group, index in the group) of one position; none where it is pinned."""
        return self._at.get((tensor, axis, position), [])

    def slices(self, group: int, index: int) -> set[Slice]:
        """Every slice that goes with one index of a group."""
        return {
            (member.tensor, member.axis, int(position))
            for member in self.groups[group].members
            for position in member.positions[member.channels == index]
        }


# -- the comparison --------------------------------------------------------------------------------


def test_the_same_slices_are_coupled(pair: Pair) -> None:
    channels = Channels(pair.groups)
    random = np.random.default_rng(0)
    compared = at_output = 0
    for layer_name, layer in layers(pair):
        weight, axis = f"{layer_name}.weight", out_axis(layer)
        width = layer.weight.shape[axis]
        for k in random.choice(width, min(SAMPLES, width), replace=False).tolist():
            here = channels.at(weight, axis, k)
            if reaches_output(pair, group_of(pair, layer, [k])):
                assert not here, f"{weight}[{k}] reaches the output and is not pinned"
                at_output += 1
                continue
            assert len(here) == 1, f"{weight}[{k}] is in the groups {here}"
            ours = channels.slices(*here[0])
            roots = sorted(i for tensor, at, i in ours if (tensor, at) == (weight, axis))
            theirs = group_of(pair, layer, roots)
            if not any(isinstance(d.layer, nn.Conv2d) and grouped(d.layer) for d, _ in theirs):
                assert roots == [k], f"{weight}[{k}] is coupled with {roots}"
            differ = ours ^ slices(pair, theirs)
            assert not differ, f"{weight}[{k}]: only one of the two couples {sorted(differ)[:8]}"
            compared += 1
    assert compared >= 3 * at_output > 0


def test_the_same_channels_matter_least(pair: Pair) -> None:
    operands = scored(pair)
    groups = [
        replace(
            group,
            members=[replace(m, scored=True) for m in group.members if m.tensor in operands],
        )
        for group in pair.groups
    ]
    ours = Importance("group-l2", "mean", "none").scores(pair.network, groups)
    members = {i: {(m.tensor, m.axis): m for m in g.members} for i, g in enumerate(groups)}
    names = {layer: name for name, layer in layers(pair)}
    compared: set[int] = set()
    for theirs in pair.graph.get_all_groups():
        if reaches_output(pair, theirs):
            continue
        layer = theirs[0].dep.target.module
        place = f"{names[layer]}.weight", out_axis(layer)
        if place[0] not in operands:  # a depthwise root: its place is not among the scored ones
            place = next(p for p in slices_in_order(pair, theirs) if p[0] in operands)
        wide = scores(theirs)
        for i, at in members.items():
            if place in at:
                folded = np.bincount(at[place].channels, weights=wide[at[place].positions])
                assert_same_ranking(ours[i], folded, groups[i].name)
                compared.add(i)
    missing = [group.name for i, group in enumerate(groups) if i not in compared]
    assert not missing, f"no group of Torch-Pruning's covers {missing}"


def slices_in_order(pair: Pair, group: tp.Group) -> list[tuple[str, int]]:
    """The (parameter, axis) of a group's operands that have the group's whole width."""
    width = len(group[0].idxs)
    found: dict[tuple[str, int], int] = defaultdict(int)
    for tensor, axis, _ in sorted(slices(pair, group)):
        found[tensor, axis] += 1
    return [place for place, count in found.items() if count == width]


def assert_same_ranking(ours: np.ndarray, theirs: np.ndarray, where: str) -> None:
    """Equal up to a constant factor, and so ordered alike."""
    ours, theirs = ours / ours.max(), theirs / theirs.max()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, err_msg=where)
    steps = np.diff(ours[np.argsort(theirs, kind="stable")])
    assert steps.min(initial=0) >= -TIE, f"{where}: the order differs"


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mobilenet_v2", "resnext50_32x4d", "googlenet", "unet"]
)
def test_as_much_is_left(name: str) -> None:
    pair = read(name)
    proto = pair.network.model.proto
    result = onnxprune.prune(proto, ratio=0.5, round_to=1, common_choice=True, benchmark=False)
    before, after = result.report.before.parameters, result.report.after.parameters
    model = build(name)
    assert before == size(model)
    last = [layer for layer_name, layer in layers(replace(pair, model=model))][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tp.pruner.BasePruner(
            model,
            pair.example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[last],
        ).step()
    assert model(pair.example).shape == pair.model(pair.example).shape
    assert after / before == pytest.approx(size(model) / before, abs=0.03)


def size(model: nn.Module) -> int:
    """Parameters and running statistics."""
    return sum(
        tensor.numel()
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.is_floating_point()
    )


def test_channel_shuffle_is_read_here_only() -> None:
    """Torch-Pruning 1.6 divides by zero in ShuffleNet's five-dimensional views.

    So there is nothing to compare with; that it is read rightly is for the certificates to say.
    """
    model, example = build("shufflenet_v2_x0_5"), torch.zeros(2, 3, 64, 64)
    with pytest.raises(ZeroDivisionError):
        traced(model, example)
    certified(export(model, example))


def test_a_part_that_is_read_twice_is_read_here_only() -> None:
    """Torch-Pruning 1.6 takes a split's readers for its parts, and so loses the third reader."""
    pair = read("halves")
    ours = Channels(pair.groups)
    found = ours.slices(*ours.at("stem.0.weight", 0, 19)[0])
    missed = {("inner.0.0.weight", 1, 3)}  # which reads channels 16 to 31
    assert found - slices(pair, group_of(pair, pair.model.stem[0], [19])) == missed
    certified(pair.network.model.proto)


def certified(proto: onnx.ModelProto) -> None:
    result = onnxprune.prune(proto, ratio=0.5, round_to=1, benchmark=False)
    assert result.report.certificate is not None and result.report.certificate.ok
    assert result.report.after.parameters < 0.6 * result.report.before.parameters
