"""Biases that stand in for what was removed, without data: against samples of what was assumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune.runtime import run, session
from tests.graphs import Array, constants, make, node, two_convs, weight


def normalised(activation: str) -> tuple[object, dict[str, Array]]:
    """x [N, 6] -> MatMul -> BatchNormalization -> activation -> MatMul and Add -> y [N, 4]."""
    weights = {
        "w1": weight("w1", 6, 8),
        "gamma": np.abs(weight("gamma", 8)) + 0.5,
        "beta": weight("beta", 8),
        "mean": np.zeros(8, np.float32),
        "var": np.ones(8, np.float32),
        "w2": weight("w2", 8, 4),
    }
    # On standard normal inputs, the statistics are what the normalisation says they are.
    weights["var"] = (weights["w1"] ** 2).sum(axis=0) - 1e-5
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    model = make(
        [
            node("MatMul", ["x", "w1"], ["m"]),
            node("BatchNormalization", ["m", "gamma", "beta", "mean", "var"], ["n"]),
            node(activation, ["n"], ["r"]),
            node("MatMul", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        weights,
    )
    return model, weights


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "LeakyRelu", "Tanh", "Softplus"])
def test_the_mean_of_the_outputs_stays(activation: str) -> None:
    model, _ = normalised(activation)
    options = {"ratio": 0.5, "round_to": 1, "benchmark": False}
    plain = onnxprune.prune(model, **options)
    restored = onnxprune.prune(model, **options, reconstruct=True)
    assert plain.plan.groups[0].kept == restored.plan.groups[0].kept
    x = np.random.default_rng(0).standard_normal((200_000, 6), dtype=np.float32)
    wanted, without, found = (
        run(session(each, optimize=False), {"x": x})["y"].mean(axis=0)
        for each in (model, plain.model, restored.model)
    )
    assert np.abs(found - wanted).max() < 0.02 < 0.1 < np.abs(without - wanted).max()
    assert restored.report.reconstruction == {"shifted": 1, "products": 1, "source": "weights"}


def test_without_statistics_nothing_is_shifted() -> None:
    options = {"ratio": 0.5, "round_to": 1, "benchmark": False}
    plain = onnxprune.prune(two_convs(16), **options)
    same = onnxprune.prune(two_convs(16), **options, reconstruct=True)
    assert same.report.reconstruction == {"shifted": 0, "products": 1, "source": "weights"}
    for name, value in constants(plain.model).items():
        assert np.array_equal(value, constants(same.model)[name])


def test_a_plan_can_be_compensated_later() -> None:
    model, _ = normalised("Relu")
    plan = onnxprune.plan(model, ratio=0.5, round_to=1)
    first = onnxprune.apply(model, plan, reconstruct=True).model
    second = onnxprune.prune(model, ratio=0.5, round_to=1, benchmark=False, reconstruct=True).model
    assert first.SerializeToString() == second.SerializeToString()


def test_a_real_network(corpus: Path) -> None:
    """A CIFAR-10 ResNet at a ratio of 0.2 agrees with the original more often."""
    path = corpus / "models" / "exp_cifar10_resnet32_bn_unfolded.onnx"
    with np.load(corpus / "data" / "cifar10_test_846_nhwc_u8.npz") as data:
        images = next(data[name] for name in data.files if data[name].ndim == 4)[:256]
    x = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = x.transpose(0, 3, 1, 2).astype(np.float32)
    options = {"ratio": 0.2, "round_to": 1, "benchmark": False, "verify": False}
    agreement = []
    for reconstruct in (False, True):
        result = onnxprune.prune(path, **options, reconstruct=reconstruct)
        outputs = []
        for model in (path, result.model):
            live = session(model, optimize=True)
            name = live.get_inputs()[0].name
            batches = [run(live, {name: x[i : i + 64]}) for i in range(0, 256, 64)]
            outputs.append(np.concatenate([next(iter(b.values())) for b in batches]).argmax(1))
        agreement.append((outputs[0] == outputs[1]).mean())
    assert agreement[1] > agreement[0] + 0.02
