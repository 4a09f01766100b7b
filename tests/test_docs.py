"""Every code block of README and of the documentation runs, in order, and prints what it says."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from tests.markdown import ROOT, Block, Reader, blocks, missing

DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(ROOT).as_posix() for page in DOCS.rglob("*.md"))


def page(path: str) -> list[Block]:
    return blocks((ROOT / path).read_text(encoding="utf-8"))


def needs(path: str) -> list[str]:
    return sorted({name for block in page(path) for name in block.needs})


def stage(folder: Path) -> None:
    """What commands are shown with: a model of the reader's own, and data for it."""
    digits = ROOT / "models" / "digits_cnn.onnx"
    data = np.load(ROOT / "models" / "digits_test.npz")
    (folder / "model.onnx").write_bytes(digits.read_bytes())
    np.savez(folder / "train.npz", images=data["images"][:200])
    np.savez(folder / "test.npz", **data)


def _mlp(folder: Path) -> None:
    """64 -> 128 -> 64 -> 10, as scikit-learn's export has it: a label and probabilities."""
    rng = np.random.default_rng(0)
    widths = (64, 128, 64, 10)
    nodes, weights, x = [], [], "X"
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        matrix = rng.standard_normal((inputs, outputs), np.float32) / np.sqrt(inputs / 2)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"y{i}"]))
        x = f"y{i}"
        if outputs != 10:
            nodes.append(helper.make_node("Relu", [x], [f"z{i}"]))
            x = f"z{i}"
    nodes.append(helper.make_node("Softmax", [x], ["probabilities"], axis=-1))
    nodes.append(helper.make_node("ArgMax", [x], ["label"], axis=-1, keepdims=0))
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10]),
        ],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    test = rng.random((300, 64), np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    labels = session.run(["label"], {"X": test})[0]
    np.savez(folder / "train.npz", X=rng.random((300, 64), np.float32))
    np.savez(folder / "test.npz", X=test, labels=labels)


#: What goes on in place of an export that can't be made here.
STAND_INS: dict[str, Callable[[Path], None]] = {
    "docs/tutorial/pytorch.md": stage,
    "docs/tutorial/tensorflow.md": stage,
    "docs/tutorial/scikit-learn.md": _mlp,
}


def test_the_pages_are_there() -> None:
    assert len(PAGES) >= 12
    assert set(STAND_INS) <= set(PAGES)


@pytest.mark.parametrize("path", [path for path in PAGES if not needs(path)])
def test_page(path: str, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    stage(tmp_path)
    reader.follow(page(path))


@pytest.mark.parametrize("path", [path for path in PAGES if needs(path)])
def test_page_as_it_stands(path: str, tmp_path: Path) -> None:
    if absent := missing(needs(path)):
        pytest.skip(f"{', '.join(absent)}: not installed")
    if path not in STAND_INS:  # nothing is exported there: the reader has a model
        stage(tmp_path)
    Reader(tmp_path).follow(page(path))


@pytest.mark.parametrize("path", [path for path in PAGES if needs(path)])
def test_page_with_a_stand_in(path: str, tmp_path: Path) -> None:
    """The blocks behind an export run wherever the tests run, on another model."""
    Reader(tmp_path, STAND_INS.get(path, stage)).follow(page(path))


@pytest.mark.parametrize("name", [n for n in onnxprune.__all__ if n.islower() and n[0] != "_"])
def test_arguments_are_called_as_they_are_described(name: str) -> None:
    """As the reference's builder wants it, which reads `a, b: …` as one name."""
    function = getattr(onnxprune, name)
    text = (inspect.getdoc(function) or "").partition("Args:\n")[2]
    text = re.split(r"^\S", text, maxsplit=1, flags=re.MULTILINE)[0]
    described = re.findall(r"^ {4}(\S[^:]*):", text, re.MULTILINE)
    assert set(described) <= set(inspect.signature(function).parameters)


def follow(text: str, folder: Path) -> None:
    Reader(folder).follow(blocks(text))


def test_a_page_that_is_wrong_is_found(tmp_path: Path) -> None:
    follow("```sh\necho one; echo two\n```\n\n```text\none\n…\ntwo\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="not printed: three"):
        follow("```sh\necho one\n```\n\n```text\nthree\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="exit code 1"):
        follow("```sh\nfalse\ntrue\n```\n", tmp_path)
    with pytest.raises(AssertionError, match="exit code 0"):
        follow("<!-- test: exit 3 -->\n```sh\ntrue\n```\n", tmp_path)
    with pytest.raises(ZeroDivisionError):
        follow("text\n\n```python\nx = 0\n```\n\n```python\n1 / x\n```\n", tmp_path)
    with pytest.raises(ValueError):
        follow("```toml\na = \n```\n", tmp_path)
