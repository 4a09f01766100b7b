"""Attention in one node: heads, and what each head holds.

`h` heads (`g` groups of `r` where several queries share one key), `d` channels for each head of
queries and keys, which are summed over, and `e` for each head of values. The scale of the scores
comes from `d` where no attribute gives it, and is frozen when `d` changes.
"""

from __future__ import annotations

from ..axes import Axis, Dim, concat, product
from ..network import Axes, Unsure
from ..op import Op
from ..tables import function

#: Names that no rule of attention leaves free, and why.
_PINNED = {"b": "batch", "t": "tokens", "s": "sequence", "u": "sequence", "p": "sequence"}


@function("attention")
def attention(op: Op) -> None:
    """Attention of ai.onnx: Q, K, V, (mask), (past key), (past value), (lengths)."""
    env = op.env
    if len(op.axes(0)) == 4:
        env["g"], heads = op.axes(1)[1], op.axes(0)[1]
        env["r"] = _shared(heads.size, env["g"].size)
        inputs, out = "b (g r) s d, b g u d, b g u e", "b (g r) s e"
    else:
        queries, keys = _number(op, "q_num_heads"), _number(op, "kv_num_heads")
        env["g"], env["r"] = Dim(keys), _shared(queries, keys)
        op.patch("kv_num_heads", {None: env["g"]})
        op.patch("q_num_heads", {None: product((env["g"], env["r"]))})
        inputs, out = "b s (g r d), b u (g d), b u (g e)", "b s (g r e)"
    op.match(f"{inputs}, *m?, b g p d?, b g p e?, *l? -> {out}, b g t d, b g t e, b (g r) s t")
    _mask(op, "m", product((env["g"], env["r"])))
    _attend(op)


@function("fused_attention")
def fused_attention(op: Op) -> None:
    """Attention of com.microsoft, packed or not: the projection is part of it."""
    packed = op.node.op_type == "PackedAttention"
    quantised = op.node.op_type == "QAttention"
    width = op.axes(1)[1].size
    given = op.attr("qkv_hidden_sizes")
    heads = _number(op, "num_heads")
    if width is None:
        raise Unsure("the width of its projection is only known at run time")
    sizes = list(given or [width // 3] * 3)
    if sum(sizes) != width or sizes[0] != sizes[1] or any(size % heads for size in sizes):
        raise Unsure(f"a projection of {width} is not made of {sizes}, of {heads} heads each")
    env = op.env
    h, d, e = Dim(heads), Dim(sizes[0] // heads), Dim(sizes[2] // heads)
    past = 8 if quantised else 4
    if quantised or (not packed and (op.has(past) or any(op.outputs[1:]))):
        op.unify(d, e)
    else:
        op.patch("qkv_hidden_sizes", dict(enumerate(product((h, x)) for x in (d, d, e))))
    env.update(h=h, d=d, e=e)
    op.patch("num_heads", {None: h})
    qkv = "((h d) + (h d) + (h e))"
    if packed:
        op.match(f"t i, i {qkv}, {qkv}?, *l, *c, *m? -> t (h e)")
    elif quantised:
        op.match(
            f"b s i, i {qkv}, {qkv}?, *x, *y, *l?, *z, *w?, 2 b h p d? -> b s (h e), 2 b h u d"
        )
        for i in (4, 7):
            if op.has(i) and op.axes(i) and op.axes(i)[-1].size != 1:
                op.unify(op.axes(i)[-1], op.axes(1)[1])
    else:
        op.match(f"b s i, i {qkv}, {qkv}?, *l?, 2 b h p d?, *m?, *c? -> b s (h e), 2 b h u d")
    if op.attr("do_rotary", 0):
        op.pin(d, "its rotary tables are of some widths only")
    _mask(op, "m", h)
    op.contract(env["i"])
    _attend(op)


@function("multi_head_attention")
def multi_head_attention(op: Op) -> None:
    """MultiHeadAttention, packed or not: query, (key), (value), (bias), masks, (past)."""
    packed = op.node.op_type == "PackedMultiHeadAttention"
    rank = len(op.axes(0))
    first = "t" if packed else "b s"
    bias = "((h d) + (h d) + (h e))?"
    op.env["h"] = Dim(_number(op, "num_heads"))
    op.patch("num_heads", {None: op.env["h"]})
    together = True
    if rank == (4 if packed else 5):
        operands = f"{first} h 3 d, .?, .?"
    elif op.has(1) and len(op.axes(1)) == 5:
        operands = f"{first} (h d), b u h 2 d, .?"
    elif op.has(1) and op.has(2):
        together = False
        if packed:
            operands = "t (h d), t (h d), t (h e)"
        elif len(op.axes(1)) == 4:
            operands = "b s (h d), b h u d, b h u e"
        else:
            operands = "b s (h d), b u (h d), b u (h e)"
        if not packed and (len(op.axes(1)) == 4 or op.has(6)):
            op.env["d"] = op.env["e"] = Dim(_head_size(op, rank))  # as its kernels have it
    else:
        raise Unsure("it has no key")
    if together:
        op.env["d"] = op.env["e"] = Dim(_head_size(op, rank))
    if packed:
        op.match(f"{operands}, {bias}, *l, *c, *m? -> t (h e)")
    else:
        op.match(
            f"{operands}, {bias}, *l?, *m?, b h p d?, b h p e?, *c?, *i?"
            " -> b s (h e), b h t d, b h t e, b h s t"
        )
    _mask(op, "m", op.env["h"])
    _attend(op, together=together)


def _head_size(op: Op, rank: int) -> int | None:
    if rank > 3:
        return op.axes(0)[-1].size
    width = op.axes(0)[-1].size
    return None if width is None else width // int(op.attr("num_heads"))


#: Head sizes that onnxruntime's kernels of GroupQueryAttention take are multiples of this.
_BLOCK = 8


@function("group_query_attention")
def group_query_attention(op: Op) -> None:
    """GroupQueryAttention: query (or all three in one), (key), (value), cache, rotary tables.

    Channels of a head come in blocks, which are kept whole: its kernels take no other head sizes.
    """
    queries, keys = _number(op, "num_heads"), _number(op, "kv_num_heads")
    packed = not op.has(1)
    width = op.axes(0)[2].size
    heads = queries + 2 * keys if packed else queries
    if width is None or width % heads:
        raise Unsure(f"a width of {width} is not made of {heads} heads")
    env = op.env
    env["g"], env["r"] = Dim(keys), _shared(queries, keys)
    op.patch("kv_num_heads", {None: env["g"]})
    op.patch("num_heads", {None: product((env["g"], env["r"]))})
    size = width // heads
    half = op.axes(7)[1].size if op.has(7) else 0
    if half is None:
        raise Unsure("the size of its rotary tables is only known at run time")
    env["d"], env["c"] = _rotary(op, size, half, bool(op.attr("rotary_interleaved", 0)), _BLOCK)
    qkv = "((g r d) + (g d) + (g d)), .?, .?" if packed else "(g r d), b u (g d), b u (g d)"
    op.match(
        f"b s {qkv}, b g p d?, b g p d?, *l, *n, m c?, m c?, *i?, *a?, (g r)?, *x?, *y?, d?, d?"
        " -> b s (g r d), b g t d, b g t d, b (g r) s t"
    )
    for name in ("x", "y"):
        if any(axis.size != 1 for axis in env.get(name, ())):
            op.pin_all((env["g"], env["d"], *env[name]), "its cache is quantised")
    op.pin_all([env["m"]] if "m" in env else [], "positions")
    _mask(op, "a", product((env["g"], env["r"])))
    _attend(op, together=packed)


@function("linear_attention")
def linear_attention(op: Op) -> None:
    """LinearAttention: query, key, value, (past state), (decay), (beta).

    Either several queries share one key, or several keys one query.
    """
    queries, keys = _number(op, "q_num_heads"), _number(op, "kv_num_heads")
    env = op.env
    env["g"] = Dim(min(queries, keys))
    env["r"] = _shared(max(queries, keys), min(queries, keys))
    op.patch("q_num_heads", {None: product(_heads(op, queries >= keys))})
    op.patch("kv_num_heads", {None: product(_heads(op, keys > queries))})
    q = "g r" if queries >= keys else "g"
    k = "g r" if keys > queries else "g"
    slots = "w " if op.attr("state_window", 0) else ""
    width = op.axes(1)[2].size
    decay = f"b t ({k})"
    if op.has(4) and op.axes(4)[2].size == width and width != keys:
        decay = f"b t ({k} d)"
    beta = f"b t ({k})" if op.has(5) and op.axes(5)[2].size != 1 else "b t 1"
    op.match(
        f"b t ({q} d), b t ({k} d), b t ({k} e), {slots}b ({k}) d e?, {decay}?, {beta}?"
        f" -> b t (g r e), {slots}b ({k}) d e"
    )
    op.pin_all([env["w"]] if "w" in env else [], "steps of the state")
    _attend(op, several=True)


def _heads(op: Op, shared: bool) -> list[Axis]:
    return [op.env["g"], op.env["r"]] if shared else [op.env["g"]]


@function("rotary_embedding")
def rotary_embedding(op: Op) -> None:
    """RotaryEmbedding: the channels of a head turn in pairs, by tables with one column a pair.

    com.microsoft: x, positions, cos, sin. ai.onnx: x, cos, sin, (positions).
    """
    standard = op.node.domain in ("", "ai.onnx")
    cos, sin, places = (1, 2, 3) if standard else (2, 3, 1)
    half = op.axes(cos)[-1].size
    heads, turned = int(op.attr("num_heads", 0)), int(op.attr("rotary_embedding_dim", 0))
    x = op.axes(0)
    if half is None:
        raise Unsure("the size of its tables is only known at run time")
    if len(x) == 4:
        size = x[3].size
    elif x[-1].size is None:
        size = None
    elif standard or turned:
        if not heads:
            raise Unsure("the number of heads is not given")
        size = x[2].size // heads if x[2].size is not None else None
    else:
        size = 2 * half
    if size is None or size < 2 * half or (turned and turned != 2 * half):
        raise Unsure(f"heads of {size} channels do not fit tables of {half}")
    d, column = _rotary(op, size, half, bool(op.attr("interleaved", 0)), 1)
    if len(x) == 4:
        op.unify(x[3], d)
        h: Axis = x[1]
    else:
        h = Dim((x[2].size or 0) // size)
        op.unify(x[2], product((h, d)))
    if heads:
        op.patch("num_heads", {None: h})
    if turned:
        two = op.fixed(2, "the two channels of a rotary pair")
        op.patch("rotary_embedding_dim", {None: product((two, column))})
    for i in (cos, sin):
        table = op.axes(i)
        op.unify(table[-1], column)
        op.pin_all(table[:-1], "positions")
    op.pin_all((x[0], x[2] if len(x) == 4 else x[1]), "positions")
    if op.has(places):
        op.pin_all(op.axes(places), "positions")
    if op.node.op_type == "MRotaryEmbedding":
        _sections(op, column)
    op.role(h, "heads")
    op.role(d, "head-dim")
    op.out(x)


def _rotary(op: Op, size: int, half: int, interleaved: bool, block: int) -> tuple[Axis, Axis]:
    """A head of `size` channels of which `2 * half` turn in pairs; and the pairs.

    Pairs are neighbours, or a channel of the first half with one of the second. Where `block` is
    not 1, channels are kept in whole blocks of so many.
    """

    def blocks(count: int, of: int) -> Axis:
        if of == 1:
            return Dim(count)
        if count % of:
            return op.fixed(count, f"its kernels take multiples of {of} only")
        whole = op.fixed(of, f"its kernels take multiples of {of} only")
        return product((Dim(count // of), whole))

    pairs = blocks(half, block)
    if not half:
        return blocks(size, block), pairs
    two = op.fixed(2, "the two channels of a rotary pair")
    turned = product((pairs, two) if interleaved else (two, pairs))
    if size == 2 * half:
        return turned, pairs
    rest = size - 2 * half
    return concat((turned, blocks(rest, 1 if block == 1 else 2 * block))), pairs


def _sections(op: Op, pairs: Axis) -> None:
    """MRotaryEmbedding: three runs of pairs, by time, height and width."""
    sizes = [int(size) for size in op.attr("mrope_section")]
    if int(op.attr("mrope_layout", 0)) or sum(sizes) != pairs.size:
        op.pin(pairs, "its sections are interleaved")
        return
    runs = [Dim(size) for size in sizes]
    op.unify(concat(runs), pairs)
    op.patch("mrope_section", dict(enumerate(runs)))


@function("mixture_of_experts")
def mixture_of_experts(op: Op) -> None:
    """MoE: input, router's scores, and for each expert two or three layers with biases.

    With SwiGLU in one layer, gate and value are neighbours, or the two halves.
    """
    inner = ("i", "(i 2)", "(2 i)")[int(op.attr("swiglu_fusion", 0))]
    op.match(f"*n c, t x, x {inner} c, x {inner}?, x c i, x c?, x i c?, x i? -> *n c")
    op.pin(op.env["x"], "experts are picked by score")
    op.pin_all((op.env["t"], *op.env["n"]), "tokens")
    op.contract(op.env["c"], op.env["i"])
    op.role(op.env["i"], "ffn")


# -- what they share -----------------------------------------------------------------------------


def _number(op: Op, attribute: str) -> int:
    found = int(op.attr(attribute, 0))
    if found < 1:
        raise Unsure(f"{attribute} is not given")
    return found


def _shared(queries: int | None, keys: int | None) -> Dim:
    """How many heads of queries share one of keys."""
    if queries is None or not keys or queries % keys:
        raise Unsure(f"{queries} heads of queries do not share {keys} of keys")
    return Dim(queries // keys)


def _mask(op: Op, name: str, heads: Axis) -> None:
    """A bias or mask that is broadcast to `[batch, heads, queries, keys]`."""
    axes: Axes = op.env.get(name, [])
    for i, axis in enumerate(reversed(axes)):
        if i == 2 and axis.size != 1:
            op.unify(axis, heads)
        elif i != 2:
            op.pin(axis, "positions of scores")


def _attend(op: Op, together: bool = False, several: bool = False) -> None:
    """Pins, roles, the sum over `d`, and the scale.

    `together`: queries, keys and values are one operand, which zeros can't be told apart in.
    """
    env = op.env
    for name, reason in _PINNED.items():
        if name in env:
            op.pin(env[name], reason)
    for name in ("l", "c", "n", "i", "x", "y", "z", "w"):
        if isinstance(env.get(name), list):
            op.pin_all(env[name], "its values say where to look")
    if together:
        op.statistical(env["d"])
        op.loses_zero()
    else:
        op.contract(env["d"])
    if ("p" in env or any(op.outputs[1:])) and not several:
        op.loses_zero()  # what holds of values need not hold of keys, nor of those of the past
    for name in ("h", "g", "r"):
        if name in env:
            op.role(env[name], "heads")
    for name in ("d", "e"):
        if name in env:
            op.role(env[name], "head-dim")
    size = env["d"].size
    if size and not op.attr("scale", 0.0):
        op.freeze("scale", size**-0.5, env["d"])
