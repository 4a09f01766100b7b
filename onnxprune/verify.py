"""Checks of a pruned model that need no knowledge of pruning: valid, same interface, runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
from onnx import ModelProto

from .comparison import compare, interface_differences
from .data_sizes import sized_by_data
from .errors import CheckFailed, OnnxPruneError
from .runtime import FoundInputs, run, session
from .shape_inference import infer_shapes
from .shapes import weightless


def verify(
    reference: ModelProto,
    pruned: ModelProto,
    base_dir: Path,
    found: FoundInputs,
    threads: int = 1,
) -> None:
    """Check strict shape inference, the interface, and a run at two sizes of each dynamic dim.

    `found` holds inputs that the original runs with. What the original fails is not asked of the
    pruned model, nor are the sizes of outputs that depend on what is computed.

    Raises CheckFailed, saying which check; UnsupportedModel where the original does not run.
    """
    for difference in interface_differences(reference, pruned):
        raise CheckFailed(f"the interface has changed: {difference}")
    if _strict(reference) is None and (reason := _strict(pruned)) is not None:
        raise CheckFailed(f"strict shape inference refuses the pruned model: {reason}")
    before = session(reference, optimize=False, threads=threads, base_dir=base_dir)
    try:
        after = session(pruned, optimize=False, threads=threads, base_dir=base_dir)
        sized = sized_by_data(reference)
        for feeds in found.feeds:
            expected, got = run(before, feeds), run(after, feeds)
            for name, value in expected.items():
                alike = (
                    value.ndim == got[name].ndim
                    if name in sized
                    else value.shape == got[name].shape
                )
                if not alike or got[name].dtype != value.dtype:
                    raise CheckFailed(
                        f"output {name!r} was {value.dtype} {list(value.shape)} and is"
                        f" {got[name].dtype} {list(got[name].shape)}"
                    )
    except CheckFailed:
        raise
    except OnnxPruneError as error:
        raise CheckFailed(f"the pruned model does not run: {error}") from error


def same_function(
    original: ModelProto, folded: ModelProto, base_dir: Path, found: FoundInputs, threads: int = 1
) -> None:
    """Check that folding away channels that carry nothing has changed nothing.

    Raises CheckFailed with the largest deviation of an output.
    """
    result = compare(
        original, folded, input_shapes=found.shapes, threads=threads, base_dir=base_dir
    )
    if result.ok or not result.outputs:
        return
    worst = max(result.outputs, key=lambda output: output.max_rel)
    raise CheckFailed(
        f"folding away channels that carry nothing moved output {worst.name!r} by"
        f" {worst.max_rel:.1e}; leave it out with --no-lossless, and please report this model"
    )


def check_file(path: Path) -> None:
    """Run ONNX's checker on a file by its path. Raises CheckFailed."""
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"ONNX's checker refuses the pruned model: {_line(error)}") from error


def checks_out(path: Path | None, proto: ModelProto) -> bool:
    """Whether ONNX's checker accepts the original."""
    with contextlib.suppress(Exception):
        onnx.checker.check_model(str(path) if path else proto)
        return True
    return False


def _strict(proto: ModelProto) -> str | None:
    """Why strict shape inference refuses a model; None where it does not."""
    try:
        infer_shapes(weightless(proto), strict=True)
    except Exception as error:  # its exception types differ between versions of onnx
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
