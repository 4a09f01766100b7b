"""Metrics against their definitions, evaluation of two models, and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models import FAMILIES
from onnxprune import UsageError
from onnxprune.bisection import Trial, smallest
from onnxprune.cli import main
from onnxprune.evaluation import evaluate
from onnxprune.metrics import METRICS, distance, natural
from onnxprune.runtime import run, session

ROOT = Path(__file__).parents[1]
DIGITS, DATA = str(ROOT / "models" / "digits_cnn.onnx"), str(ROOT / "models" / "digits_test.npz")


def linear(weight: np.ndarray, batch: int | str = "N") -> onnx.ModelProto:
    """y = x @ weight, from x `[N, inputs]`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_is_counted_as_defined(k: int) -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((70, 12)), rng.integers(0, 12, 70)
    metric = METRICS[f"top-{k}"].make(None)
    for part in (slice(0, 64), slice(64, 70)):
        metric.add(scores[part], labels[part])
    best = np.argsort(-scores, axis=1)[:, :k]
    assert metric.value() == (best == labels[:, None]).any(axis=1).mean()


def test_mean_iou_by_hand() -> None:
    metric = METRICS["mean-iou"].make(None)
    found = np.array([[[0, 0, 1], [1, 2, 2]]])
    labels = np.array([[[0, 1, 1], [1, 2, 255]]])
    metric.add(np.eye(3)[found].transpose(0, 3, 1, 2)[:, :, :1], labels[:, :1])
    metric.add(found[:, 1:], labels[:, 1:])
    assert metric.value() == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)


def test_mean_iou_of_a_smaller_output() -> None:
    metric = METRICS["mean-iou"].make(None)
    labels = np.repeat(np.repeat(np.array([[[0, 1], [1, 0]]]), 2, 1), 2, 2)
    metric.add(np.array([[[0, 1], [1, 0]]]), labels)
    assert metric.value() == 1


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_distance_is_a_distance(a: str, b: str) -> None:
    d = distance(a, b)
    assert d == distance(b, a) and (d == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))
    if a:
        assert abs(distance(a[1:], b) - d) <= 1


def test_error_rates_read_ctc() -> None:
    spelled = ["", " ", "a", "b", "c"]
    tokens = np.array([[2, 2, 0, 2, 1, 3, 3, 4]])  # "aa bc"
    scores = np.eye(5)[tokens]
    for name, expected in (("character-error", 1 / 5), ("word-error", 1 / 2)):
        metric = METRICS[name].make(spelled)
        metric.add(scores, np.array(["aa bb"]))
        assert metric.value() == pytest.approx(expected)
    metric = METRICS["character-error"].make(None)
    metric.add(tokens, np.array([[2, 2, 1, 3, 4, -1, -1]]))
    assert metric.value() == 0


@pytest.mark.parametrize(
    ("labels", "output", "name"),
    [
        (np.zeros(4, int), np.zeros((4, 10)), "top-1"),
        (np.zeros((4, 1), int), np.zeros((4, 10)), "top-1"),
        (np.zeros((4, 8, 8), int), np.zeros((4, 3, 8, 8)), "mean-iou"),
        (np.array(["a", "b"]), np.zeros((2, 9, 5)), "character-error"),
        (np.zeros((4, 6), int), np.zeros((4, 9, 5)), "character-error"),
        (np.zeros((4, 3)), np.zeros((4, 3)), "relative-error"),
    ],
)
def test_the_natural_metric(labels: np.ndarray, output: np.ndarray, name: str) -> None:
    assert natural(labels, output) == name


def test_no_metric_for_labels_that_fit_none() -> None:
    with pytest.raises(UsageError, match="fit no built-in metric"):
        natural(np.zeros((4, 2, 3)), np.zeros((4, 10)))


@pytest.mark.parametrize("batch", ["N", 1, 8])
def test_two_models_on_samples(tmp_path: Path, batch: int | str) -> None:
    """Also where the batch is fixed and does not divide the number of samples."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 6, 12))
    x, labels = rng.standard_normal((90, 6)).astype(np.float32), rng.integers(0, 12, 90)
    np.savez(tmp_path / "data.npz", x=x, labels=labels)
    found = evaluate(
        linear(first, batch), linear(second, batch), str(tmp_path / "data.npz"), tmp_path
    )
    a, b = x @ first, x @ second
    assert (found.samples, found.metric) == (90, "top-1")
    assert found.before == (a.argmax(1) == labels).mean()
    assert found.after == (b.argmax(1) == labels).mean()
    assert found.agreement == (a.argmax(1) == b.argmax(1)).mean()
    assert found.relative_error == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), 1e-4)
    assert found.cosine == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), 1e-4)
    assert found.drop == pytest.approx(100 * (found.before - found.after))
    assert "top-5" in found.others


def test_without_labels_the_drop_is_of_agreement(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 6, 12))
    np.save(tmp_path / "x", rng.standard_normal((50, 6)).astype(np.float32))
    np.savez(tmp_path / "data.npz", x=np.load(tmp_path / "x.npy"))
    found = evaluate(linear(first), linear(second), str(tmp_path / "data.npz"), tmp_path)
    assert found.metric is None and found.agreement is not None
    assert found.drop == pytest.approx(100 * (1 - found.agreement)) and found.drop > 10


FUNCTION = """
import numpy as np
def mean(session):
    [y] = session.run(None, {"x": np.ones((1, 6), np.float32)})
    return {"mean": float(y.mean()), "largest": float(y.max())}
def nothing(session):
    return None
"""


@pytest.mark.parametrize("graphs", [1, 3])
def test_nodes_of_a_graph_are_one_sample(graphs: int, tmp_path: Path) -> None:
    model, other = (FAMILIES["gat"](seed) for seed in (0, 1))
    rng = np.random.default_rng(0)
    feeds = [
        {
            "features": rng.standard_normal((20, 48), np.float32),
            "adjacency": (rng.random((20, 20)) + np.eye(20) > 0.8).astype(np.float32),
        }
        for _ in range(graphs)
    ]
    known = rng.random((graphs, 20)) < 0.6
    found = [
        [run(session(each, optimize=True), x)["logits"].argmax(1) for x in feeds]
        for each in (model, other)
    ]
    labels = np.where(rng.random((graphs, 20)) < 0.7, found[0], 0)
    data = {name: np.stack([x[name] for x in feeds]) for name in feeds[0]}
    data["labels"] = np.where(known, labels, -1)
    if graphs == 1:  # as it is
        data = {name: x[0] for name, x in data.items()}
    np.savez(tmp_path / "graphs.npz", **data)
    result = evaluate(model, other, str(tmp_path / "graphs.npz"), tmp_path)
    expected = [float((np.array(each) == labels)[known].mean()) for each in found]
    assert (result.metric, result.samples) == ("top-1", known.sum())
    assert (result.before, result.after) == pytest.approx(expected)
    assert expected[0] > expected[1]


def test_a_function_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FUNCTION)
    models = linear(np.full((6, 2), 0.1)), linear(np.full((6, 2), 0.05))
    found = evaluate(*models, f"{tmp_path / 'mine.py'}:mean", tmp_path)
    assert (found.metric, found.agreement, found.samples) == ("mean", None, None)
    assert found.before == pytest.approx(0.6) and found.after == pytest.approx(0.3)
    assert found.drop == pytest.approx(30) and list(found.others) == ["largest"]
    with pytest.raises(UsageError, match="not a number"):
        evaluate(*models, f"{tmp_path / 'mine.py'}:nothing", tmp_path)
    with pytest.raises(UsageError, match="has no function 'absent'"):
        evaluate(*models, f"{tmp_path / 'mine.py'}:absent", tmp_path)
    with pytest.raises(UsageError, match="can't be imported"):
        evaluate(*models, "no_such_module_of_mine:f", tmp_path)


@pytest.fixture
def invoke(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*args: object) -> tuple[int, str, str]:
        given = ["prune", DIGITS, "-o", tmp_path / "out.onnx", "--no-benchmark", *args]
        result = CliRunner().invoke(main, [str(arg) for arg in given])
        return result.exit_code, result.stdout, result.stderr

    return call


def test_the_gate_holds_back_a_file(invoke: Callable, tmp_path: Path) -> None:
    code, _, said = invoke("--ratio", 0.8, "--eval", DATA, "--max-drop", 1)
    assert code == 1 and not (tmp_path / "out.onnx").exists()
    assert "top-1 fell by" in said and "no more than 1 may be lost" in said
    code, out, _ = invoke("--ratio", 0.8, "--eval", DATA, "--max-drop", 100, "--json")
    assert code == 0 and (tmp_path / "out.onnx").exists()
    assert json.loads(out)["evaluation"]["drop"] > 1


def test_the_gate_needs_data(invoke: Callable) -> None:
    code, _, said = invoke("--max-drop", 1)
    assert code == 2 and "--max-drop needs --eval" in said


def test_search_finds_the_smallest_that_passes(invoke: Callable, tmp_path: Path) -> None:
    code, out, _ = invoke("--eval", DATA, "--max-drop", 2, "--search", "--no-verify", "--json")
    found = json.loads(out)
    assert code == 0 and (tmp_path / "out.onnx").exists()
    assert found["evaluation"]["drop"] <= 2
    passed = [trial["ratio"] for trial in found["trials"] if trial["drop"] <= 2]
    assert found["options"]["ratio"] == max(passed) < 0.9
    assert min(t["ratio"] for t in found["trials"] if t["drop"] > 2) < max(passed) + 0.1


def test_search_towards_a_target(invoke: Callable) -> None:
    given = ("--eval", DATA, "--max-drop", 100, "--search", "--no-verify", "--json")
    code, out, _ = invoke(*given, "--target", "macs=0.5")
    assert code == 0 and [t["target"] for t in json.loads(out)["trials"]] == ["macs=0.5"]
    code, _, said = invoke(*given, "--target", "bytes=40KB", "--force")
    assert code == 2 and "a share that is kept" in said


COIN = """
import itertools
calls = itertools.count()
def score(session):
    return 0.9 - 0.1 * (next(calls) % 2)
"""


def test_search_that_finds_nothing(invoke: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COIN)
    code, _, said = invoke("--search", "--eval", f"{tmp_path}/mine.py:score", "--max-drop", 1)
    assert code == 1 and not (tmp_path / "out.onnx").exists()
    assert "the least that was lost is 10.00" in said


def test_search_needs_a_gate(invoke: Callable) -> None:
    code, _, said = invoke("--search", "--eval", DATA)
    assert code == 2 and "--search needs --eval and --max-drop" in said


@given(st.floats(0, 1), st.floats(0.5, 20))
def test_bisection_ends_at_the_edge(edge: float, most: float) -> None:
    """A loss that jumps at `edge`: what is found lies below it, no more than 1/128 away."""

    def attempt(pressure: float) -> Trial[None]:
        return Trial(pressure, 0.0 if pressure <= edge else most + 1, None)

    best, trials = smallest(attempt, most)
    assert len(trials) <= 8
    if edge == 1:
        assert best is not None and best.pressure == 1
    elif best is None:
        assert edge < 1 / 128
    else:
        assert edge - 1 / 128 <= best.pressure <= edge
