"""Real models from many exporters: pruned and certified, or refused with the true reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.comparison import interface_differences
from tests.conftest import corpus_folder, corpus_models

#: Models that lose nothing, and a word of the true reason.
REFUSED = {
    "sr_espcn_subpixel_qonnx": "onnx.brevitas.Quant",
    "aud_dtln_1": "model's input",  # its LSTM's states are inputs and outputs
}
#: Outputs that do not depend on the input on random data: a comparison proves nothing there.
CONSTANT = {"topo_light_inception_v2", "topo_light_squeezenet"}


@pytest.mark.parametrize("path", corpus_models())
def test_pruned_or_refused(path: Path) -> None:
    if path.stem in REFUSED:
        with pytest.raises((onnxprune.NotPrunable, onnxprune.UnsupportedModel)) as refusal:
            onnxprune.prune(path, benchmark=False)
        assert REFUSED[path.stem] in str(refusal.value)
        return
    before = path.read_bytes()
    result = onnxprune.prune(path, ratio=0.5, benchmark=False)
    report = result.report
    assert path.read_bytes() == before
    assert report.parameters_left is not None and report.parameters_left < 0.9
    assert report.free_widths_allow is not None
    assert abs(report.parameters_left - report.free_widths_allow) < 0.03
    certificate = report.certificate
    assert certificate is not None
    for measured in (certificate.permutation, certificate.masking):
        assert measured is None or measured < 1e-4
    assert certificate.proves or path.stem in CONSTANT
    original = onnx.load(path, load_external_data=False)
    assert interface_differences(original, result.model) == []
    assert result.model.opset_import == original.opset_import
    assert result.model.ir_version == original.ir_version


def test_most_are_pruned() -> None:
    folder = corpus_folder()
    if folder is None:
        pytest.skip("no corpus: set ONNXPRUNE_CORPUS")
    assert len(list((folder / "models").glob("*.onnx"))) - len(REFUSED) >= 46


def test_resnet20_of_two_exporters_and_formats(corpus: Path) -> None:
    """TorchScript, dynamo, external data: the same network leaves the same share of parameters."""
    left = [
        onnxprune.prune(
            corpus / "models" / f"{name}.onnx", verify=False, benchmark=False
        ).report.parameters_left
        for name in (
            "exp_cifar10_resnet20_torchscript",
            "exp_cifar10_resnet20_dynamo",
            "drv_extdata_cifar10_resnet20",
        )
    ]
    assert np.ptp(np.array(left, dtype=float)) < 0.03
