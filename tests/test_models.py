"""Every model family: valid, runnable at any batch size, and sensitive to input and weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import models

Build = Callable[..., onnx.ModelProto]
CASES: dict[str, Build] = {
    **models.FAMILIES,
    "decoder-dynamic": partial(models.FAMILIES["decoder"], dynamic_sequence=True),
}
# Far above the 1e-4 to which a pruned model must agree, so that a certificate can fail.
LIVELY = 2e-2

pytestmark = pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options)
    (output,) = session.run(None, inputs)
    return output


def test_is_valid_and_uses_every_initializer(build: Build) -> None:
    model = build()
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert model.ir_version == 10
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    used = {name for node in model.graph.node for name in node.input}
    assert {t.name for t in model.graph.initializer} <= used
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_has_a_small_but_real_number_of_parameters(build: Build) -> None:
    assert 15_000 < sum(int(np.prod(t.dims)) for t in build().graph.initializer) < 500_000


def test_runs_at_two_batch_sizes_and_varies_with_the_input(build: Build) -> None:
    model = build()
    for batch in (2, 5):
        a = run(model, models.example_inputs(model, batch))
        b = run(model, models.example_inputs(model, batch, seed=1))
        assert a.shape[0] == batch
        assert np.isfinite(a).all()
        assert 0.05 < a.std() < 20
        assert np.abs(a - b).max() > LIVELY * np.abs(a).max()
        # Not one mean answer with ripples: the items of a batch differ from one another.
        assert a.std(axis=0).max() > LIVELY * np.abs(a).max()


def test_every_weight_matters(build: Build) -> None:
    """Doubling every second slice of any weight is seen far above the tolerance."""
    model = build()
    inputs = models.example_inputs(model, 8)  # enough nodes for GAT to have edges to weigh
    expected = run(model, inputs)
    for tensor in model.graph.initializer:
        if len(tensor.dims) < 2 or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        kept = tensor.raw_data
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[::2] *= 2
        tensor.raw_data = values.tobytes()
        moved = np.abs(run(model, inputs) - expected).max()
        tensor.raw_data = kept
        assert moved > 1e-3 * np.abs(expected).max(), tensor.name


def test_same_seed_same_model(build: Build) -> None:
    assert build(3).SerializeToString() == build(3).SerializeToString()
    assert build(3).SerializeToString() != build(4).SerializeToString()
