"""Fixtures for everyone: where the real models are, and small ones made by hand."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the commands
# that they start, to which it is sent.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def corpus_folder() -> Path | None:
    """The folder of real models, or None where it is not there."""
    folder = Path(os.environ.get("ONNXPRUNE_CORPUS") or _ROOT.parent / "shared" / "corpus")
    return folder if (folder / "models").is_dir() else None


def corpus_models() -> list[object]:
    """Parameters for ``@pytest.mark.parametrize("path", corpus_models())``: one per file.

    Without a corpus there is one parameter, which is skipped.
    """
    folder = corpus_folder()
    if folder is None:
        marks = [pytest.mark.corpus, pytest.mark.skip(reason="no corpus: set ONNXPRUNE_CORPUS")]
        return [pytest.param(Path("no-corpus"), marks=marks)]
    files = sorted((folder / "models").glob("*.onnx"))
    return [pytest.param(file, id=file.stem, marks=pytest.mark.corpus) for file in files]


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real models; a test that asks for it is skipped where it is not there."""
    folder = corpus_folder()
    if folder is None:
        pytest.skip("no corpus: set ONNXPRUNE_CORPUS")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_of_times(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured times go to a folder of the test run's own, not among the user's caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNXPRUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
