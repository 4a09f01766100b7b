"""Normalisation, softmax, and reductions."""

from __future__ import annotations

from ..axes import Axis, Dim, product
from ..network import Unsure
from ..op import Op
from ..tables import function


@function("layer_norm")
def layer_norm(op: Op) -> None:
    """LayerNormalization and RMSNormalization: statistics over the axes from `axis` on."""
    axes = op.axes(0)
    at = op.axis(-1, len(axes))
    _normalised(op, at)
    out = [*axes[:at], *(Dim(1) for _ in axes[at:])]
    op.out(axes)
    op.out(out, 1)
    op.out(out, 2)


@function("skip_layer_norm")
def skip_layer_norm(op: Op) -> None:
    """SkipLayerNormalization: input, skip, gamma, (beta), (bias); its fourth output is the sum."""
    axes = op.axes(0)
    for a, b in zip(reversed(axes), reversed(op.axes(1)), strict=False):
        if b.size != 1 or a.size == 1:
            op.unify(a, b)
    for i in range(2, len(op.inputs)):
        if op.has(i):
            op.unify(op.axes(i)[-1], axes[-1])
    op.statistical(axes[-1])
    op.role(axes[-1], "hidden")
    op.out(axes)
    for i in (1, 2):
        op.out([*axes[:-1], Dim(1)], i)
    op.out(axes, 3)


def _normalised(op: Op, at: int) -> None:
    axes = op.axes(0)
    for i in (1, 2):
        if op.has(i):
            for axis, own in zip(reversed(op.axes(i)), reversed(axes), strict=False):
                if axis.size != 1:
                    op.unify(axis, own)
    for axis in axes[at:]:
        op.statistical(axis)
        op.role(axis, "hidden")


@function("batch_norm")
def batch_norm(op: Op) -> None:
    """`n c *s, c, c, c, c -> n c *s`; later outputs hold statistics of a training step."""
    axes = op.axes(0)
    if len(axes) < 2:
        raise Unsure("its input has no channel axis")
    for i in range(1, 5):
        (vector,) = op.axes(i)
        op.unify(vector, axes[1])
    if op.attr("training_mode", 0) or (op.network.model.opset < 14 and len(op.outputs) > 1):
        for axis in (axes[0], *axes[2:]):
            op.statistical(axis)
    op.out(axes)
    for i in range(1, len(op.outputs)):
        op.out([axes[1]], i)
    if any(op.outputs[1:]):
        op.loses_zero()  # statistics are of what comes in, whatever the weights


@function("group_norm")
def group_norm(op: Op) -> None:
    """Before opset 21 there is one scale for each group, since then one for each channel."""
    scale = "(g c)" if op.network.model.opset >= 21 else "g"
    op.match(f"n (g [c]) [*s], {scale}, {scale} -> n (g c) *s")


@function("contrib_group_norm")
def contrib_group_norm(op: Op) -> None:
    """GroupNorm and SkipGroupNorm, which first adds a second input and a bias.

    Channels of a group come in pairs: its kernels give each thread two.
    """
    axes = op.axes(0)
    at = -1 if op.attr("channels_last", 1) else 1
    groups = int(op.attr("groups"))
    channels = axes[at].size
    if channels is None or channels % groups:
        raise Unsure(f"{channels} channels are not made of {groups} groups")
    inner, two = channels // groups, op.fixed(2, "its kernels take them in pairs")
    op.env["g"] = Dim(groups)
    op.env["c"] = Dim(inner) if inner % 2 else product((Dim(inner // 2), two))
    op.patch("groups", {None: op.env["g"]})
    x = "n *s (g [c])" if at == -1 else "n (g [c]) *s"
    out = x.replace("[c]", "c")
    if op.node.op_type == "GroupNorm":
        op.match(f"{x.replace('*s', '[*s]')}, (g c), (g c) -> {out}")
        return
    op.match(f"{x.replace('*s', '[*s]')}, (g c), (g c), *k, (g c)? -> {out}, {out}")
    if any(op.outputs[1:]):
        op.loses_zero()  # the sum, whatever the weights
    skip = op.env["k"]  # as large as x, or the same at all places: [n, c]
    alike = (axes[0], axes[at]) if len(skip) == 2 else axes
    for a, b in zip(skip, alike, strict=True):
        if a.size != 1 or b is axes[at]:
            op.unify(a, b)


@function("gated_norm")
def gated_norm(op: Op) -> None:
    """GatedRMSNorm: over runs that are as long as the scale."""
    (op.env["c"],) = op.axes(1)
    op.match()
    op.role(op.env["c"], "hidden")


@function("branchwise_norm")
def branchwise_norm(op: Op) -> None:
    """BranchwiseRMSNorm: each branch on its own; X, and a scale for all of them or one for each."""
    axes = op.axes(0)
    branches = int(op.attr("num_branches", 0))
    if branches:
        size = axes[-1].size
        if size is None or size % branches:
            raise Unsure(f"a width of {size} is not made of {branches} branches")
        c: Axis
        b, c = Dim(branches), Dim(size // branches)
        op.unify(axes[-1], product((b, c)))
        op.patch("num_branches", {None: b})
        both: list[Axis] = [b, c]
    else:
        both = list(axes[-2:])
    if op.has(1):
        scale = op.axes(1)
        if len(scale) == 2:
            op.unify(scale[0], both[0])
            op.unify(scale[1], both[1])
        else:
            whole = product(both)
            if whole.size is None:
                raise Unsure("the width of its branches is only known at run time")
            op.unify(scale[0], whole if scale[0].size == whole.size else both[1])
    op.statistical(both[1])
    op.role(both[1], "hidden")
    op.out(axes)


@function("bias_softmax")
def bias_softmax(op: Op) -> None:
    """BiasSoftmax: over all axes from `axis` on; the bias is broadcast in a way of its own."""
    axes = op.axes(0)
    at = op.axis(1, len(axes))
    op.pin_all((*axes[at:], *op.axes(1)), "Softmax over it")
    for axis, bias in zip(reversed(axes), reversed(op.axes(1)), strict=False):
        if bias.size != 1:
            op.pin(axis, "a bias along it")
    op.out(axes)


@function("mean_variance")
def mean_variance(op: Op) -> None:
    """MeanVarianceNormalization: over all but the channels, if it is not told otherwise.

    It has no epsilon: of a masked channel, which is the same everywhere, it makes no number.
    """
    axes = op.axes(0)
    for axis in axes:
        op.statistical(axis)
    op.out(axes)


@function("softmax")
def softmax(op: Op) -> None:
    """Softmax, LogSoftmax, Hardmax. Before opset 13 all axes from `axis` on are one."""
    axes = op.axes(0)
    old = op.network.model.opset < 13
    at = op.axis(1 if old else -1, len(axes))
    op.pin_all(axes[at:] if old else axes[at : at + 1], f"{op.node.op_type} over it")
    op.out(axes)


def _reduced(op: Op) -> tuple[list[int], bool]:
    rank = len(op.axes(0))
    where = op.ints(1, "axes")
    if not where:
        where = [] if op.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [i % rank for i in where], bool(op.attr("keepdims", 1))


@function("reduce_sum")
def reduce_sum(op: Op) -> None:
    """ReduceSum, ReduceSumSquare, ReduceL1, ReduceL2: exact where what is removed is zero."""
    axes = op.axes(0)
    where, kept = _reduced(op)
    op.contract(*(axes[i] for i in where))
    _reduce_out(op, where, kept)


@function("reduce_statistic")
def reduce_statistic(op: Op) -> None:
    """ReduceMean, ReduceMax, ReduceMin, ReduceLogSumExp...: a statistic over the axis."""
    axes = op.axes(0)
    where, kept = _reduced(op)
    for i in where:
        op.statistical(axes[i])
        if axes[i].size == 0:
            op.loses_zero()  # the largest of nothing is minus infinity
    if op.node.op_type == "ReduceMean":
        for i in where:
            op.role(axes[i], "normalised")
    _reduce_out(op, where, kept)


@function("reduce_pinned")
def reduce_pinned(op: Op) -> None:
    """ReduceProd, ReduceLogSum: a factor that is missing has no neutral stand-in."""
    axes = op.axes(0)
    where, kept = _reduced(op)
    op.pin_all((axes[i] for i in where), f"{op.node.op_type} over it")
    _reduce_out(op, where, kept)


def _reduce_out(op: Op, where: list[int], kept: bool) -> None:
    axes = op.axes(0)
    op.out(
        [Dim(1) if i in where else axis for i, axis in enumerate(axes) if kept or i not in where]
    )


@function("arg_reduce")
def arg_reduce(op: Op) -> None:
    """ArgMax, ArgMin: the result is a position."""
    axes = op.axes(0)
    at = op.axis(0, len(axes))
    op.pin(axes[at], f"{op.node.op_type} gives a position in it")
    _reduce_out(op, [at], bool(op.attr("keepdims", 1)))


@function("along_pinned")
def along_pinned(op: Op) -> None:
    """Operators of one input whose positions matter along `axis` only."""
    axes = op.axes(0)
    at = op.axis(-1, len(axes))
    op.pin(axes[at], f"{op.node.op_type} along it")
    op.out(axes)


@function("cum_sum")
def cum_sum(op: Op) -> None:
    """CumSum, CumProd: position by position along one axis."""
    axes = op.axes(0)
    where = op.ints(1) or [0]
    op.pin(axes[where[0] % len(axes)], "summed position by position")
    op.out(axes)


@function("lp_normalisation")
def lp_normalisation(op: Op) -> None:
    axes = op.axes(0)
    op.statistical(axes[op.axis(-1, len(axes))])
    op.out(axes)


@function("top_k")
def top_k(op: Op) -> None:
    axes = list(op.axes(0))
    at = op.axis(-1, len(axes))
    op.pin(axes[at], "the largest are picked from it")
    k = op.ints(1, "k") if not op.has(1) or op.value(1) is not None else None
    hint = op.out_shape()
    axes[at] = op.network.symbol(k[0] if k else hint[at] if hint else None)
    op.pin(axes[at], "in order of size")
    op.out(axes)
    op.out(axes, 1)
