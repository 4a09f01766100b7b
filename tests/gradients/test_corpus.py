"""Every real model: outputs equal to onnxruntime's, and a gradient for every weight."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from onnxprune.errors import UnsupportedModel  # noqa: E402
from onnxprune.gradients.check import compare  # noqa: E402
from onnxprune.runtime import session  # noqa: E402
from tests.conftest import corpus_models  # noqa: E402

pytestmark = pytest.mark.torch

#: Seconds are spent on a few large ones; their operators are those of others.
_LARGE = {"det_ultraface_rfb1280_masked"}

#: On random pixels float32 itself, torch's or onnxruntime's, is 1e-4 to 5e-4 off from float64.
_SHAKY = {"det_yolox_nano", "drv_ortext_det_yolox_nano"}


@pytest.mark.parametrize("path", corpus_models())
def test_equals_onnxruntime_and_has_gradients(path: Path) -> None:
    if path.stem in _LARGE:
        pytest.skip("1280 × 960 pixels: det_ultraface_rfb320 is the same network")
    try:
        session(path, optimize=False)
    except UnsupportedModel as error:
        pytest.skip(str(error))
    found = compare(path)
    assert found.worst <= (5e-4 if path.stem in _SHAKY else 1e-4), found
    assert max(found.differences.values()) <= 1e-2
    assert not found.infinite
    assert not found.zero
    assert not found.missing
    # A ReLU that this one input leaves dead is no fault; most weights must have a gradient.
    assert len(found.dead) <= found.parameters / 4
