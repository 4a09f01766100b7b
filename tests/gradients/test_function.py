"""`Differentiable` as those who train with it see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from onnxprune.errors import UnsupportedModel, UsageError  # noqa: E402
from onnxprune.gradients import Differentiable  # noqa: E402
from onnxprune.gradients.check import compare, difference  # noqa: E402
from onnxprune.gradients.function import key_of, name_of  # noqa: E402
from onnxprune.runtime import find_inputs, run, session  # noqa: E402

pytestmark = pytest.mark.torch

F = np.float32


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).normal(0, 0.5, shape).astype(F)


def network(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    outputs: tuple[str, ...] = ("y",),
    shape: tuple[int | str, ...] = ("n", 3, 8, 8),
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"n_{output}", **attributes)


def small() -> onnx.ModelProto:
    """A convolution, a normalisation, a shape computed at run time, a Constant node, a product."""
    nodes = [
        node("Conv", "x conv.weight conv.bias", "a", kernel_shape=[3, 3]),
        node("BatchNormalization", "a gamma beta mean var", "b"),
        node("Relu", "b", "c"),
        node("Shape", "c", "size"),
        node("Constant", "", "first", value=numpy_helper.from_array(np.array([0]))),
        node("Gather", "size first", "batch"),
        node("Constant", "", "rest", value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", "batch rest", "target", axis=0),
        node("Reshape", "c target", "d"),
        node("Constant", "", "type", value=numpy_helper.from_array(draw(144, 5))),
        node("MatMul", "d type", "e"),
        node("Div", "e two", "y"),
    ]
    weights = {
        "conv.weight": draw(4, 3, 3, 3),
        "conv.bias": draw(4),
        "gamma": draw(4, seed=1),
        "beta": draw(4, seed=2),
        "mean": draw(4, seed=3),
        "var": np.abs(draw(4, seed=4)) + F(0.5),
        "two": np.array(2, F),
    }
    return network(nodes, weights)


def test_parameters_are_what_could_be_learned_by_their_names_in_the_file() -> None:
    function = Differentiable(small())
    names = [name for name, _ in function.named_weights()]
    assert names == ["conv.weight", "conv.bias", "gamma", "beta", "type"]
    assert {name_of(key) for key in function.state_dict()} == {*names, "mean", "var"}
    assert "two" in dict(Differentiable(small(), numbers=True).named_weights())


@pytest.mark.parametrize("name", ["a.b", "a%2Eb", "type", "weight", "training", "ü/1:0", "%"])
def test_names_survive_being_keys(name: str) -> None:
    assert "." not in key_of(name)
    assert name_of(f"weights.{key_of(name)}") == name


def test_equals_onnxruntime_and_statistics_stay_in_training() -> None:
    x = draw(2, 3, 8, 8)
    expected = run(session(small(), optimize=False), {"x": x})["y"]
    function = Differentiable(small()).train()
    before = {name: value.clone() for name, value in function.state_dict().items()}
    assert difference(function({"x": x})["y"].detach().numpy(), expected) < 1e-6
    after = function.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_one_step_is_written_into_the_file() -> None:
    x = draw(2, 3, 8, 8)
    function = Differentiable(small())
    optimizer = torch.optim.SGD(function.parameters(), lr=0.1)
    before = function({"x": x})["y"]
    before.square().mean().backward()
    optimizer.step()
    after = function({"x": x})["y"].detach().numpy()
    assert difference(after, before.detach().numpy()) > 1e-3
    written = function.write()
    assert difference(run(session(written, optimize=False), {"x": x})["y"], after) < 1e-6
    # And another of the same graph takes its values over.
    other = Differentiable(small())
    other.read(written)
    assert difference(other({"x": x})["y"].detach().numpy(), after) < 1e-7
    with pytest.raises(UsageError, match=r"no constant 'conv\.weight'"):
        other.read(network([node("Relu", "x", "y")], {}))


@pytest.mark.parametrize("code", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_floats_keep_their_type(code: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(code)
    nodes = [
        node("Cast", "x", "h", to=code),
        node("MatMul", "h w", "m"),
        node("Cast", "m", "y", to=TensorProto.FLOAT),
    ]
    model = network(nodes, {"w": draw(6, 4).astype(dtype)}, shape=("n", 6))
    function = Differentiable(model)
    assert function.parameter("w").dtype == torch.float32
    same = function.write()
    kept = [each.graph.initializer[0].SerializeToString() for each in (same, model)]
    assert kept[0] == kept[1]
    with torch.no_grad():
        function.parameter("w").mul_(1e9)
    tensor = function.write().graph.initializer[0]
    assert tensor.data_type == code
    # Beyond the range of the type: its largest number, not an infinity.
    assert np.isfinite(numpy_helper.to_array(tensor).astype(F)).all()


def test_weights_in_another_file(tmp_path: Path) -> None:
    model = small()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    x = draw(2, 3, 8, 8)
    found = Differentiable(path)({"x": x})["y"].detach()
    assert torch.equal(found, Differentiable(small())({"x": x})["y"].detach())


def test_intermediate_tensors_are_returned_and_nothing_else_is_run() -> None:
    function = Differentiable(small())
    found = function({"x": draw(2, 3, 8, 8)}, wanted=["c", "a"])
    assert list(found) == ["y", "c", "a"]
    assert found["c"].shape == (2, 4, 6, 6) and bool((found["c"] >= 0).all())
    with pytest.raises(UsageError, match="'nowhere' is no tensor"):
        function({"x": draw(2, 3, 8, 8)}, wanted=["nowhere"])
    with pytest.raises(UsageError, match="input 'x' is not given"):
        function({})


def test_a_node_that_fails_is_named() -> None:
    with pytest.raises(UnsupportedModel, match=r"'n_a' \(Conv\).*\[2, 5, 8, 8\]"):
        Differentiable(small())({"x": draw(2, 5, 8, 8)})


def test_an_operator_without_a_torch_call_is_named_where_gradients_would_pass() -> None:
    custom = helper.make_node("Magic", ["m"], ["y"], name="magic", domain="org.example")
    model = network([node("MatMul", "x w", "m"), custom], {"w": draw(6, 4)}, shape=("n", 6))
    model.opset_import.append(helper.make_opsetid("org.example", 1))
    with pytest.raises(UnsupportedModel, match=r"'magic' \(org.example.Magic\)"):
        Differentiable(model)


@pytest.mark.parametrize("segments", [1, 2, 3, 100])
def test_checkpoints_change_no_gradient(segments: int) -> None:
    x = draw(2, 3, 8, 8)
    grads = []
    for cuts in (0, segments):
        function = Differentiable(small(), checkpoint=cuts)
        found = function({"x": x}, wanted=["b"])
        (found["y"].square().sum() + found["b"].sum()).backward()
        grads.append([weight.grad for _, weight in function.named_weights()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_what_shapes_are_computed_from_stays_off_the_device() -> None:
    """On the meta device there are no numbers: whoever asks for one there is refused."""
    function = Differentiable(small(), device="meta")
    assert function({"x": draw(2, 3, 8, 8)})["y"].shape == (2, 5)


@pytest.mark.corpus
@pytest.mark.parametrize("name", ["exp_cifar10_resnet20_dynamo", "track_nanotrackv2_head"])
def test_real_models_ask_the_device_for_no_number(corpus: Path, name: str) -> None:
    path = corpus / "models" / f"{name}.onnx"
    found = Differentiable(path, device="meta")(find_inputs(path).feeds[0])
    assert all(value.device.type == "meta" for value in found.values())


def test_quantised_weights_are_trained_as_numbers_and_written_as_codes() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (6, 4)).astype(np.int8)
    scale, point = np.full(4, 0.02, F), np.zeros(4, np.int8)
    nodes = [
        node("QuantizeLinear", "x s p", "q"),
        node("DequantizeLinear", "q s p", "d"),
        node("DequantizeLinear", "w ws wp", "f", axis=1),
        node("MatMul", "d f", "y"),
    ]
    weights = {"s": np.array(0.01, F), "p": np.array(3, np.int8), "w": codes}
    model = network(nodes, {**weights, "ws": scale, "wp": point}, shape=("n", 6))
    x = draw(5, 6) / 4
    function = Differentiable(model)
    expected = run(session(model, optimize=False), {"x": x})["y"]
    assert difference(function({"x": x})["y"].detach().numpy(), expected) < 1e-6
    assert [name for name, _ in function.named_weights()] == ["w"]
    same = {t.name: t for t in function.write().graph.initializer}
    assert (numpy_helper.to_array(same["w"]) == codes).all()
    function({"x": x})["y"].square().sum().backward()
    assert bool(function.parameter("w").grad.any())
    with torch.no_grad():
        function.parameter("w").add_(0.02)  # one code
    moved = {t.name: t for t in function.write().graph.initializer}
    assert (numpy_helper.to_array(moved["w"]) == np.minimum(codes + 1.0, 127)).all()
    assert compare(function.write(), {"x": x}).worst < 1e-6


def test_functional_call_takes_other_weights() -> None:
    function = Differentiable(small())
    x = draw(2, 3, 8, 8)
    weights = {name: torch.zeros_like(value) for name, value in function.named_parameters()}
    found = torch.func.functional_call(function, weights, ({"x": x},))["y"]
    assert not bool(found.any())
    assert bool(function({"x": x})["y"].any())


def test_without_torch_the_rest_works_and_the_message_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import onnxprune\n"
        "try:\n    import onnxprune.gradients\n"
        "except onnxprune.UsageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "training needs torch: pip install 'onnxprune[torch]'", (
        done.stderr
    )


def test_importing_onnxprune_imports_no_torch() -> None:
    program = "import onnxprune, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
