"""Rules: the tables fit the operators' schemas, and what each rule claims holds in onnxruntime.

`ONNXPRUNE_LONG=1` proves the rules on every node test of the onnx package instead of a sample.
"""

from __future__ import annotations

import itertools
import os
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, ValueInfoProto, helper

from onnxprune.axes import leaves
from onnxprune.errors import RuleError
from onnxprune.exactness import maskable
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import (
    REST,
    Rule,
    built_in,
    operator_name,
    read_tables,
    with_user_rules,
)
from tests.equivariance import (
    Case,
    Zeros,
    candidates,
    dynamic,
    graph_case,
    one,
    prove,
    variants,
    with_constants,
    zeros,
)
from tests.operator_schemas import schemas_of
from tests.rule_cases import HAND_MADE, I64, draw, made, scalar

LONG = os.environ.get("ONNXPRUNE_LONG", "") not in ("", "0")
#: Cases of the onnx package that are tried of each operator, without ONNXPRUNE_LONG.
SAMPLE = 6

# -- (a) tables and schemas ----------------------------------------------------------------------


#: Outputs that a pattern leaves out on purpose: a node that has them is pinned.
LEFT_OUT = {"MaxPool": 1}


@pytest.mark.parametrize("name", built_in())
def test_a_rule_fits_every_version_of_its_operator(name: str) -> None:
    rule = built_in()[name]
    schemas = schemas_of(name)
    assert schemas, f"there is no operator {name}"
    if rule.pattern:
        operands = rule.pattern.inputs
        needed = sum(not (each.optional or each.repeated) for each in operands)
        repeated = bool(operands) and operands[-1].repeated
        outputs = len(rule.pattern.outputs) + LEFT_OUT.get(name, 0)
        for schema in schemas:
            assert needed <= schema.min_input, f"needs operands that {schema} need not have"
            assert repeated or schema.max_input <= len(operands), f"too few operands for {schema}"
            assert schema.min_output <= len(rule.pattern.outputs)
            assert schema.max_output <= outputs, f"says nothing of an output of {schema}"
        most = max(schema.max_input for schema in schemas)
        assert repeated or len(operands) <= most, "more operands than any version has"
        assert len(rule.pattern.outputs) <= max(schema.max_output for schema in schemas)
    for attribute in rule.bind.values():
        assert all(attribute in schema.attributes for schema in schemas)
    numbers = {*rule.score, *(i for term in rule.zero or () for i in term)}
    assert all(i == REST or i < max(s.max_input for s in schemas) for i in numbers)


#: What schemas call weights; what is added to a product or a norm, behind its weights; and
#: operands that may be weights: factors of attention, and what codes of weights are scaled by.
_WEIGHTS = re.compile(
    r"W|R|w|weights?|\w+_weights?|gamma|[sS]cale|\w*norm_scale|\w+_embedding|slope|\w+_quant"
    r"|Q|K|V|query|key|value|(\w+_)?scales|bias_table"
)
_BIASES = re.compile(r"B|beta|bias|query_bias|\w+_experts_bias")
_PRODUCTS = (
    *("Gemm", "MatMul", "Mul", "com.microsoft.CDist", "com.microsoft.FusedGemm"),
    *("com.microsoft.FusedMatMul", "com.microsoft.FusedMatMulActivation"),
    "com.microsoft.TransposeMatMul",
)
#: Operands that schemas call otherwise, or by a name that says nothing.
ALSO_SCORED = {
    **{key: {"A", "B"} for key in _PRODUCTS},
    "Gemm": {"A", "B", "C"},
    "com.microsoft.FusedGemm": {"A", "B", "C"},
    "com.microsoft.GemmFastGelu": {"X"},
    "com.microsoft.QLinearMul": {"A", "B"},
    "com.microsoft.QGemm": {"B"},
    "com.microsoft.DynamicQuantizeLSTM": {"B"},
    "com.microsoft.BiasGelu": {"B"},
    "com.microsoft.DynamicQuantizeMatMul": {"B"},
    "com.microsoft.MatMulIntegerToFloat": {"B"},
    "com.microsoft.MatMulInteger16": {"B"},
    "MatMulInteger": {"B"},
    "QLinearMatMul": {"b"},
    "Einsum": {"Inputs"},
    "Gather": {"data"},
    "GatherND": {"data"},
    "com.microsoft.GatherND": {"data"},
}
#: Operands that are called like weights and say nothing of channels.
NOT_SCORED = {
    ("LinearAttention", "beta"): "computed of the data, like queries",
    ("com.microsoft.LinearAttention", "beta"): "computed of the data, like queries",
    ("com.microsoft.BiasSoftmax", "bias"): "a mask",
    ("com.microsoft.GatedRelativePositionBias", "bias"): "its one axis is pinned",
    ("com.microsoft.MulInteger", "B"): "as the other operand: elementwise, of integers",
    ("com.microsoft.ScaledSiLU", "scale"): "one number",
    ("Resize", "scales"): "of an image",
    ("Upsample", "scales"): "of an image",
    ("TopK", "K"): "a number",
    ("com.microsoft.Pad", "value"): "one number",
    ("com.microsoft.EngramGate", "query"): "computed of the data; its norms are what is learned",
    ("com.microsoft.EngramGate", "key"): "computed of the data; its norms are what is learned",
    ("com.microsoft.EngramGate", "value"): "computed of the data; its norms are what is learned",
}


@pytest.mark.parametrize("name", [each for each, rule in built_in().items() if not rule.pinned])
def test_what_a_schema_calls_a_weight_is_scored_and_nothing_else(name: str) -> None:
    """But biases beside codes, whose unit is another one."""
    rule = built_in()[name]
    coded = rule.source.startswith("quantised.toml")

    def a_weight(i: int, operand: str) -> bool:
        if _BIASES.fullmatch(operand) and not coded and (i > 1 or operand != "B"):
            return True
        return bool(_WEIGHTS.fullmatch(operand)) or operand in ALSO_SCORED.get(name, ())

    operands = {
        (i, operand.name) for schema in schemas_of(name) for i, operand in enumerate(schema.inputs)
    }
    if name == "Einsum":
        operands.add((1, "Inputs"))
    wrong = {
        (name, operand) for i, operand in operands if a_weight(i, operand) != (i in rule.score)
    }
    assert wrong == {each for each in NOT_SCORED if each[0] == name}
    assert ALSO_SCORED.get(name, set()) <= {operand for _, operand in operands}


def test_every_rule_has_one_of_pattern_function_and_reason() -> None:
    for rule in built_in().values():
        assert bool(rule.pinned) != bool(rule.pattern or rule.function)


# -- (b) equivariance ----------------------------------------------------------------------------


#: Operators that move nothing, though their rules are not just a reason.
NEVER_FREE = {
    "RandomNormalLike": "every position has its own number",
    "RandomUniformLike": "every position has its own number",
    "Bernoulli": "every position has its own number",
    "Size": "counts all elements",
    "Range": "positions are its values",
    "com.microsoft.Range": "positions are its values",
    "EyeLike": "fills a diagonal",
    "OneHot": "indices are values",
}


def sampled(cases: Sequence[Case]) -> Sequence[Case]:
    """A sample that is the same every time."""
    if len(cases) <= SAMPLE:
        return cases
    return random.Random(0).sample(cases, SAMPLE)


def first(cases: Iterator[Case]) -> Iterator[Case]:
    return itertools.islice(cases, 1)


@pytest.mark.parametrize("name", built_in())
def test_what_a_rule_claims_holds_in_onnxruntime(name: str) -> None:
    rule = built_in()[name]
    if name == "Constant":
        return  # read with the model; its rule is for what is not a tensor of numbers
    cases = [each for case in made(name) for each in variants(case)]
    proofs = [prove(case) for case in cases]
    refused = [proof.skipped for proof in proofs if proof.skipped]
    assert not refused, (
        "a case made by hand proves nothing if onnxruntime refuses it: " + refused[0]
    )
    for case in cases:
        proofs += map(prove, dynamic(case) if LONG else first(dynamic(case)))
    more = [case for case in candidates(name) if not rule.pinned or has_operator(case, name)]
    more = [*more, *(each for case in more for each in dynamic(case))] if LONG else sampled(more)
    proofs += [prove(case) for case in more]
    moved = sum(proof.moved > 0 for proof in proofs)
    if rule.pinned or name in NEVER_FREE:
        assert moved == 0
    else:
        told = "\n".join(proof.skipped for proof in proofs)
        assert moved, f"no case moved anything\n{told}"


def has_operator(case: Case, name: str) -> bool:
    """True unless the case has other operators in its place."""
    return any(operator_name(n.domain, n.op_type) == name for n in case.model.graph.node)


#: Operators of which a case made by hand is not covered, and what is said of it.
REFUSED = {
    "Dropout": "it drops positions at random",
    "MaxPool": "its rule says nothing of output 1, 'y1'",
}


@pytest.mark.parametrize("name", [each for each in HAND_MADE if not built_in()[each].pinned])
def test_a_rule_covers_every_case_made_by_hand(name: str) -> None:
    """What shapes depend on may have to be constant."""
    told = []
    for case in made(name):
        found = [uncovered(variant) for variant in variants(case)]
        if [] not in found:
            told.append(found[0][0])
    assert told == ([REFUSED[name]] if name in REFUSED else [])


def uncovered(case: Case) -> list[str]:
    """What the rules refuse of a case, and where they give one name to axes of different sizes."""
    network = infer(load(case.model), built_in(), pin_interface=False)
    axes = itertools.chain.from_iterable(filter(None, network.axes.values()))
    pins = {pin for axis in axes for dim in leaves(axis) for pin in dim.pins}
    return [
        *(reason for _, reason in network.refused),
        *sorted(str(pin) for pin in pins if "were to be one axis" in pin.reason),
    ]


#: Sets of operands that make zero (or a sum exact), of which rules say nothing, and why.
UNSAID = {
    "Einsum": (
        "sums: 0; zero: 0",
        "a single operand is a sum or a diagonal",
    ),
    "BatchNormalization": ("zero: 0 2 3", "a running mean is no weight"),
    "InstanceNormalization": ("zero: 0 2", "with an epsilon of 0, it is no number"),
    "RMSNormalization": ("zero: 0", "with an epsilon of 0, it is no number"),
    "SimplifiedLayerNormalization": ("zero: 0", "with an epsilon of 0, it is no number"),
    "com.microsoft.BranchwiseRMSNorm": ("zero: 1", "it may be left out, and then its term would"),
    "com.microsoft.SkipLayerNormalization": ("zero: 2", "the sum that it also gives is not"),
    "com.microsoft.SkipSimplifiedLayerNormalization": (
        "zero: 0 1, 2",
        "the sum that it also gives is not",
    ),
    "LSTM": (
        "sums: 0, 2; zero: 0, 1 2 3 6",
        "weights that are zero make zero of states that are not",
    ),
    "GRU": ("sums: 0, 2; zero: 0", "weights that are zero make zero of states that are not"),
    "RNN": ("sums: 0, 2; zero: 0, 1 2 3", "it forgets the state that it begins with"),
    "DequantizeLinear": ("zero: 1", "scales are not what is removed"),
    "com.microsoft.DequantizeLinear": ("zero: 1", "scales are not what is removed"),
    "QLinearConv": ("zero: 4", "scales are not what is removed"),
    "com.microsoft.QLinearConv": ("zero: 4", "scales are not what is removed"),
    "QLinearMatMul": ("zero: 4", "scales are not what is removed"),
    "com.microsoft.QGemm": ("zero: 4", "scales are not what is removed"),
    "com.microsoft.MatMulNBitsMlp": (
        "zero: 0 1 2, 0 1 3, 0 1 4, 0 1 6, 0 1 7, 4 5, 7 8",
        "the sum that it also gives is not; nor is each activation of zero",
    ),
    "com.microsoft.MatMulNBitsQkv": (
        "zero: 0 1 2, 0 1 3, 0 1 4, 0 1 6, 0 1 7, 0 1 9, 0 1 10, 4 5, 6 7 8 10 11, 7 8 9 10 11",
        "its outputs are of different weights",
    ),
    "ArgMax": ("zero: 0", "of all that are alike, the first"),
    "ArgMin": ("zero: 0", "of all that are alike, the first"),
    "com.microsoft.LinearAttentionGate": ("zero: 2", "its second output, the update rate, is not"),
    "com.microsoft.EmbedLayerNormalization": ("zero: 5 6", "the sum that it also gives is not"),
    "com.microsoft.DynamicQuantizeLSTM": (
        "zero: 1 2 3, 1 3 5 6 8 10, 2 3 5 6 8 10",
        "it quantises what comes in by its range",
    ),
    "BitwiseAnd": ("zero: 0, 1", "of bits, no weights"),
    "BitwiseOr": ("zero: 0 1", "of bits, no weights"),
    "BitwiseXor": ("zero: 0 1", "of bits, no weights"),
    "com.microsoft.QLinearSigmoid": ("zero: 0", "its least code, of a number far below zero"),
    "com.microsoft.MatMulNBits": ("sums: 1 3; zero: 1 3", "codes and their zero points"),
    "Shrink": ("zero: 0", "it depends on its threshold"),
    "ai.onnx.ml.Binarizer": ("zero: 0", "it depends on its threshold"),
    "com.microsoft.MatMulIntegerToFloat": ("zero: 3", "scales are not what is removed"),
    "com.microsoft.DynamicQuantizeMatMul": ("zero: 2", "scales are not what is removed"),
    "com.microsoft.Attention": (
        "sums: 1",
        "of a bias of queries, softmax sees a constant",
    ),
    "com.microsoft.QAttention": (
        "sums: 1",
        "of a bias of queries, softmax sees a constant",
    ),
    "com.microsoft.MultiHeadAttention": (
        "sums: 1",
        "of a bias of queries, it sees a constant",
    ),
    "com.microsoft.PackedAttention": (
        "sums: 1",
        "of a bias of queries, it sees a constant",
    ),
    "com.microsoft.PackedMultiHeadAttention": ("sums: 1", "as above"),
    "com.microsoft.GatedRelativePositionBias": ("sums: 0 1", "a sum of two, of which one is given"),
    "com.microsoft.GemmaRotaryEmbedding": ("zero: 0 1 3, 1 2 3 4", "the sine of no angle"),
    "LinearAttention": ("sums: 0; zero: 1 3", "its state is summed over, and given, too"),
    "com.microsoft.LinearAttention": (
        "sums: 0; zero: 1, 5",
        "its state is summed over, and given, too",
    ),
    "RotaryEmbedding": ("zero: 1 2", "tables of angles are no weights"),
    "com.microsoft.RotaryEmbedding": ("zero: 2 3", "tables of angles are no weights"),
    "com.microsoft.MRotaryEmbedding": ("zero: 2 3", "tables of angles are no weights"),
    "com.microsoft.MoE": (
        "sums: 0, 2 3, 2 5, 3 4, 4 7, 6 7",
        "the width that comes in is the one that goes out",
    ),
}


#: Operators that give nothing finite where an operand is zero, which no case shows, and why.
UNSEEN_POLES = {
    "QuantizeLinear": "codes are finite, whatever they stand for",
    "com.microsoft.QuantizeLinear": "codes are finite, whatever they stand for",
    "Pow": "it depends on the exponent, which its function looks at",
}


@pytest.mark.parametrize("name", [each for each, rule in built_in().items() if not rule.pinned])
def test_zeros_do_what_a_rule_says_of_them_and_nothing_else(name: str) -> None:
    """Of each set of operands: whether zeros in them make zero, or removing along a sum exact."""
    found: dict[tuple[str, tuple[int, ...], int], list[Zeros]] = {}
    for case in [*made(name)] or sampled(candidates(name)):
        # Where an operator is not understood without the values of its operands, with them.
        for each in next(filter(None, map(zeros, (case, *variants(case)))), ()):
            found.setdefault((each.about, each.operands, each.given), []).append(each)
    poles = {
        operands[0]
        for (about, operands, _), those in found.items()
        if about == "pole" and any(z.seen for z in those)
    }
    assert name in UNSEEN_POLES or poles == set(built_in()[name].nonzero)
    found = {key: those for key, those in found.items() if key[0] != "pole"}
    assert [key for key, those in found.items() if any(z.said and not z.seen for z in those)] == []
    unsaid = [
        key
        for key, those in found.items()
        if all(z.seen for z in those) and not all(z.said for z in those)
    ]
    parts = []
    for about in ("sums", "zero"):
        sets = {operands for a, operands, _ in unsaid if a == about}
        least = {each for each in sets if not any(set(other) < set(each) for other in sets)}
        text = ", ".join(" ".join(map(str, each)) for each in sorted(least))
        parts += [f"{about}: {text}"] if sets else []
    assert "; ".join(parts) == UNSAID.get(name, ("",))[0]


@pytest.mark.parametrize("name", [each for each, rule in built_in().items() if rule.passes])
def test_what_moves_constants_asks_what_reads_them(name: str) -> None:
    """Zeros may be written into a constant where, behind the operator, they stay zero."""
    seen = []
    for case in [*made(name)] or sampled(candidates(name)):
        for constant in variants(with_constants(case, {next(iter(case.feeds))})):
            for consumer, operands in (("Neg", 1), ("Exp", 1), ("Div", 2)):
                model = ModelProto()
                model.CopyFrom(constant.model)
                (first, *_), made_of = model.graph.output, model.graph.node[0].input[0]
                node = helper.make_node(consumer, [first.name] * operands, ["read"])
                model.graph.node.append(node)
                del model.graph.output[:]
                model.graph.output.append(ValueInfoProto(name="read"))
                network = infer(load(model), built_in(), pin_interface=False)
                if not network.refused:
                    seen.append((consumer, made_of in maskable(network)))
    assert {("Neg", True), ("Exp", False), ("Div", False)} <= set(seen)


#: What users call the dims of an operator.
ROLES = {
    **dict.fromkeys(
        (
            *("Conv", "ConvTranspose", "DeformConv", "com.microsoft.FusedConv"),
            *("com.microsoft.NhwcConv", "com.microsoft.NhwcFusedConv"),
            "com.microsoft.ConvTransposeWithDynamicPads",
        ),
        ("channels", "conv-groups"),
    ),
    "com.microsoft.LinearAttentionGate": ("heads",),
    "com.microsoft.RelativePositionBias": ("heads",),
    "com.microsoft.GatedRelativePositionBias": ("head-dim", "heads"),
    "com.microsoft.GemmaRotaryEmbedding": ("head-dim", "heads"),
    "com.microsoft.EmbedLayerNormalization": ("hidden",),
    "com.microsoft.QEmbedLayerNormalization": ("hidden",),
}


@pytest.mark.parametrize("name", [each for each, rule in built_in().items() if rule.roles])
def test_what_users_call_the_dims_of_an_operator(name: str) -> None:
    case = next(made(name))
    found = infer(load(case.model), built_in(), pin_interface=False).roles
    assert tuple(sorted({role for _, role in found})) == ROLES[name]


#: The sizes of what is free in the first case of operators along which more could be cut.
FREE = {
    "GridSample": [2, 6],
    "com.microsoft.GridSample": [2, 6],
    "com.microsoft.RelativePositionBias": [6],
    "com.microsoft.GatedRelativePositionBias": [2, 3, 8],
    "com.microsoft.EmbedLayerNormalization": [8],
    "com.microsoft.QEmbedLayerNormalization": [8],
    "com.microsoft.RemovePadding": [8],
    "com.microsoft.RestorePadding": [8],
    "com.microsoft.NhwcConv": [2, 2, 3, 4],
    "com.microsoft.NhwcFusedConv": [2, 2, 3, 4],
    "com.microsoft.ConvTransposeWithDynamicPads": [2, 2, 3, 4],
    "com.microsoft.NhwcMaxPool": [2, 6],
    "com.microsoft.CropAndResize": [6],
}


@pytest.mark.parametrize("name", FREE)
def test_positions_are_not_free_though_they_could_be_cut(name: str) -> None:
    """Of images, sequences, and batches."""
    for number, case in enumerate(made(name)):
        network = infer(load(case.model), built_in(), pin_interface=False)
        names = [*case.feeds, *(value.name for value in case.model.graph.output)]
        axes = [axis for each in names for axis in network.axes_of(each) or ()]
        dims = dict.fromkeys(dim for axis in axes for dim in leaves(axis))
        free = sorted(d.size for d in dims if not d.pinned and (d.size or 0) > 1)
        assert len(free) <= len(FREE[name])
        assert number or free == FREE[name]


def wrong(text: str) -> dict[str, Rule]:
    return {**built_in(), **read_tables(text, "wrong.toml")}


@pytest.mark.parametrize(
    ("claim", "case", "words"),
    [
        ("[Softmax]\naxes = '*x -> *x'", one("Softmax", draw(4, 6)), "cut"),
        ("[CumSum]\naxes = '*x, . -> *x'", one("CumSum", draw(6), scalar(0, I64)), "permuted"),
        ("[Relu]\naxes = 'a b -> b a'", one("Relu", draw(4, 4)), "permuted"),
        ("[Sigmoid]\naxes = '*x -> *x'\nzero = '0'", one("Sigmoid", draw(6)), "zero"),
        (
            "[LayerNormalization]\naxes = '*x c, c -> *x c'",
            one("LayerNormalization", draw(4, 6), draw(6)),
            "cut",
        ),
        (
            "[ReduceMean]\naxes = 'a b -> a'\nzero = '0'",
            one("ReduceMean", draw(4, 6), axes=[1], keepdims=0),
            "cut",
        ),
        (
            "[Conv]\naxes = 'n i *s, o j *k -> n o *t'\npin = ['s', 'k', 't']",
            one("Conv", draw(2, 4, 5, 5), draw(6, 4, 3, 3)),
            "differs",
        ),
        (
            "[Conv]\naxes = 'n i s z, o i k l -> n o t u'\npin = ['k', 'l', 't', 'u']",
            one("Conv", draw(2, 4, 5, 5), draw(6, 4, 3, 3)),
            "differs",
        ),
        (
            "[LSTM]\naxes = 't b i, d (h 4) i, d (h 4) h -> t d b h'\npin = ['t', 'd']",
            one("LSTM", draw(5, 3, 6), draw(1, 16, 6), draw(1, 16, 4), hidden_size=4),
            "differs",
        ),
    ],
)
def test_a_wrong_claim_is_found(claim: str, case: Case, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        prove(case, wrong(claim))


# -- (c) tables that are wrong, and tables of users ----------------------------------------------


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("axes = 'a -> a'\nbinds = { a = 'n' }", "unknown key 'binds'; known are axes, bind"),
        ("axes = 'a -> a'\nroles = { a = 'chanels' }", "unknown role 'chanels'; known are heads"),
        ("axes = 'a -> a'\nzero = '0 + x'", "zero = '0 + x'; write operand numbers"),
        ("axes = 'a -> a'\nzero = '-1'", "zero = '-1'; write operand numbers"),
        ("axes = 'a -> a'\nzero = '0*1'", "zero names operand 1; the pattern has 1"),
        ("axes = 'a -> a'\nscore = [2]", "score names operand 2; the pattern has 1"),
        ("axes = 'a -> (b'", "never closed\n    a -> (b\n         ^"),
        ("axes = 'a -> a'\npin = ['b']", "pin names 'b', which is not in the pattern"),
        ("axes = 'a -> a'\nbind = { g = 'group' }", "bind names 'g'"),
        ("axes = 'a -> a'\nroles = { o = 'channels' }", "roles names 'o'"),
        ("score = [1]", "give one of `axes`, `function` and `pinned`, not 0"),
        ("axes = 'a -> a'\npinned = 'no'", "give one of `axes`, `function` and `pinned`, not 2"),
        ("function = 'nothing'", "no function 'nothing' is registered"),
        ("axes = 3", "axes = 3; write a pattern in quotes"),
        ("axes = 'a -> a'\nscore = 0", "score = 0; write a list of operand numbers"),
        ("axes = 'a -> a'\nscore = ['x']", "score = ['x']; write a list of operand numbers"),
        ("axes = 'a -> a'\nbind = ['group']", "bind = ['group']; write names of the pattern"),
        ("axes = 'a -> a'\npasses = 'yes'", "passes = 'yes'; write true or false"),
        ("axes = 'a -> a'\nops = 'Relu'", "ops = 'Relu'; write a list of operators"),
    ],
)
def test_a_wrong_table_is_told_with_its_file_and_title(table: str, words: str) -> None:
    with pytest.raises(RuleError) as caught:
        read_tables(f"[MyOp]\n{table}\n", "my_ops.toml")
    assert str(caught.value).startswith("my_ops.toml: [MyOp]: ")
    assert words in str(caught.value)


def test_what_is_not_a_table_is_told() -> None:
    with pytest.raises(RuleError, match=r"my_ops\.toml: not valid TOML: Expected"):
        read_tables("[MyOp", "my_ops.toml")
    with pytest.raises(RuleError, match=r"my_ops\.toml: \[axes\]: a table was expected"):
        read_tables("axes = 'a -> a'", "my_ops.toml")


def test_rules_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"the rules can.t be read: .*No such file"):
        with_user_rules([tmp_path / "none.toml"])
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RuleError, match="the rules can't be read"):
        with_user_rules([tmp_path / "binary.toml"])


MY_OPS = """
[Softmax]
pinned = "not in this house"

["my.ops.GatedNorm"]
axes = "n (g c), n (g [c]), (g c)? -> n (g c)"
bind = { g = "groups" }
score = [2]
zero = "0*1"
roles = { c = "hidden" }

[Mine]
ops = ["my.ops.Left", "my.ops.Right"]
axes = "*x -> *x"
"""


def my_model() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], axis=-1),
        helper.make_node("Left", ["x"], ["l"], domain="my.ops"),
        helper.make_node("GatedNorm", ["l", "z", "w"], ["y"], domain="my.ops", groups=3),
    ]
    feeds = {"x": draw(2, 12), "z": draw(2, 12), "w": draw(12)}
    return graph_case("mine", nodes, feeds, ["y", "s"]).model


def test_a_user_table_overrides_a_rule_and_adds_operators(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MY_OPS)
    rules = with_user_rules([tmp_path / "mine.toml"])
    assert rules["Relu"] is built_in()["Relu"]
    assert rules["Softmax"].pinned == "not in this house"
    assert built_in()["Softmax"].pinned is None
    assert rules["my.ops.Left"].source.endswith("mine.toml: [Mine]")
    assert "my.ops.GatedNorm" not in built_in()


def test_a_custom_operator_is_followed_without_being_run() -> None:
    model = load(my_model())
    rules = dict(built_in()) | read_tables(MY_OPS, "mine.toml")
    network = infer(model, rules, pin_interface=False)
    assert [reason for _, reason in network.refused] == []
    # Softmax pins what it reads now, and Left carries that on.
    assert all(dim.pinned for axis in network.axes_of("l") or () for dim in leaves(axis))
    del rules["Softmax"]
    rules["Softmax"] = read_tables("[Softmax]\naxes = '*x -> *x'", "mine.toml")["Softmax"]
    network = infer(load(my_model()), rules, pin_interface=False)
    assert repr(network.axes_of("y")) == "[2, (3 4)]"
    g, c = leaves((network.axes_of("y") or [])[1])
    for name in ("x", "z", "l", "w"):
        assert list(leaves((network.axes_of(name) or [])[-1])) == [g, c]
    assert {dim for axis, _ in network.statistical for dim in leaves(axis)} == {c}
    assert "w" in network.scored
    (patch,) = network.patches
    assert patch.slot == "groups"


def test_an_operator_without_a_rule_pins_what_it_touches_and_says_so() -> None:
    network = infer(load(my_model()), built_in(), pin_interface=False)
    reasons = [reason for _, reason in network.refused]
    assert reasons == [
        "no rule for operator my.ops.Left",
        "no rule for operator my.ops.GatedNorm",
    ]
    for name in ("x", "z", "w"):
        for axis in network.axes_of(name) or ():
            assert all(dim.pinned for dim in leaves(axis))
    (why, *_) = next(leaves((network.axes_of("w") or [])[0])).pins
    assert str(why) == "no rule for operator my.ops.GatedNorm (GatedNorm y)"


def test_two_rules_of_one_operator_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune import tables

    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text("[Relu]\naxes = '*x -> *x'\n")
    monkeypatch.setattr(tables, "tables_folder", lambda: tmp_path)
    with pytest.raises(RuleError, match=r"b\.toml: \[Relu\]: Relu has a rule already: a\.toml"):
        built_in.__wrapped__()
