"""A decoder larger than protobuf's 2 GB, planned and applied: time against copying it, and memory.

    python -m benchmarks.large [--gigabytes 6] [--files 2] [--ratio 0.3] [--folder DIR] [--json]

Writes a decoder of Llama's kind with random float32 weights, tensor by tensor, into external data
of several files. Then, one after the other and each in a process of its own,

    copy    the model's files, synced
    plan    onnxprune plan
    apply   onnxprune apply, without checks and timing (these are onnxruntime's)
    run     the original and the pruned model in onnxruntime, on the same tokens

Time (s) and memory (MB, the largest resident size) are those of whole processes, interpreter and
imports included. Exits with 1 where `plan` and `apply` together take more than `--times` (2) the
time of copying, either takes more than 400 MB and three times the largest tensor, or the pruned
model does not run or says what the original says. Room for two and a half times the model is needed
in `--folder`, a temporary one if none is named; a model that is there is taken as it is.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from models import decoder
from models.graph import Graph
from onnxprune.external import is_external, stored_bytes

_ROOT = Path(__file__).resolve().parent.parent
#: MB that a run may take besides three times the largest tensor.
_FIXED = 400
_SEQUENCE = 64


class _OnDisk(Graph):
    """A graph whose parameters go to external data at once; none of them stays in memory."""

    def __init__(self, folder: Path, files: int, size: int) -> None:
        super().__init__("decoder", 0)
        self.rng = np.random.default_rng(0)
        self._names_of = [f"decoder.onnx.data-{i + 1}-of-{files}" for i in range(files)]
        self._folder, self._share, self._written = folder, size / files, 0
        for name in self._names_of:
            (folder / name).write_bytes(b"")

    def random(self, name: str, *shape: int, scale: float = 1.0) -> str:
        # Ten times as fast as normal(), of doubles.
        return self.parameter(name, self.rng.standard_normal(shape, np.float32) * np.float32(scale))

    def parameter(self, name: str, value: NDArray[Any]) -> str:
        if value.nbytes < 1024:
            return super().parameter(name, value)
        value = value.astype(np.float32, copy=False)
        full = self._unique(".".join([*self._path, name]))
        location = self._names_of[min(int(self._written / self._share), len(self._names_of) - 1)]
        with open(self._folder / location, "ab") as file:
            offset = file.tell()
            value.tofile(file)
        self._written += value.nbytes
        tensor = TensorProto(
            name=full,
            data_type=TensorProto.FLOAT,
            dims=value.shape,
            data_location=TensorProto.EXTERNAL,
        )
        for key, entry in (("location", location), ("offset", offset), ("length", value.nbytes)):
            tensor.external_data.add(key=key, value=str(entry))
        self._initializers.append(tensor)
        return full


def make(folder: Path, size: float, files: int) -> Path:
    """Write a decoder of about `size` bytes to a folder."""
    # Llama's proportions: heads of 64, a quarter of them for keys and values, 16 layers and more.
    width = max(256, 256 * round(math.sqrt(size / 4 / 16 / 24) / 256))
    heads = width // 64
    sizes = dict(width=width, heads=heads, kv_heads=heads // 4, head_dim=64)
    sizes |= dict(inner=4 * width, vocabulary=16 * width)
    layer = 2 * width * width + 2 * width * 64 * sizes["kv_heads"] + 12 * width * width
    depth = max(1, round((size / 4 - 32 * width * width) / layer))
    path = folder / "decoder.onnx"
    graph = _OnDisk(folder, files, size)
    model = decoder.build(**sizes, depth=depth, sequence=_SEQUENCE, graph=graph)
    path.write_bytes(model.SerializeToString())
    return path


def files_of(path: Path) -> list[Path]:
    """The files of a model, its own first."""
    model = onnx.load(path, load_external_data=False)
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path, *sorted(path.parent / name for name in names)]


def copy(files: Sequence[Path], folder: Path) -> float:
    """The seconds that copying files takes until the disk holds them."""
    folder.mkdir()
    start = time.perf_counter()
    for file in files:
        shutil.copyfile(file, folder / file.name)
        with open(folder / file.name, "rb") as copied:
            os.fsync(copied.fileno())
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def measured(*arguments: str) -> tuple[dict[str, float], str]:
    """Run Python: seconds, those of processors, MB that it held at most; and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=_ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])} ended with {process.returncode}")
    seconds = time.perf_counter() - start
    worked = used.ru_utime + used.ru_stime
    return {"seconds": seconds, "processors": worked, "megabytes": used.ru_maxrss / 1e3}, said


def _text(took: dict[str, float]) -> str:
    work = f"({took['processors']:.1f} s of processors)"
    return f"{took['seconds']:7.1f} s {work} {took['megabytes']:7.0f} MB"


_RUN = """
import json, sys
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
options.add_session_config_entry("session.disable_prepacking", "1")  # weights stay in their files
found = []
for path in sys.argv[1:]:
    live = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (tokens,) = live.get_inputs()
    (logits,) = live.get_outputs()
    ids = np.random.default_rng(0).integers(0, logits.shape[-1], (1, tokens.shape[1]))
    found.append(live.run(None, {tokens.name: ids})[0])
    del live
before, after = found
print(json.dumps(dict(
    shape=list(after.shape), same_shape=before.shape == after.shape,
    finite=bool(np.isfinite(after).all()),
    deviation=[float(before.std()), float(after.std())],
    correlation=float(np.corrcoef(before.ravel(), after.ravel())[0, 1]),
)))
"""


@contextmanager
def _folder(named: Path | None) -> Iterator[Path]:
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named
        return
    with tempfile.TemporaryDirectory(prefix="onnxprune-benchmark-") as folder:
        yield Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=6)
    parser.add_argument("--files", type=int, default=2, help="of external data")
    parser.add_argument("--ratio", default="0.3")
    parser.add_argument("--folder", type=Path, help="for the model and all that is made of it")
    parser.add_argument("--times", type=float, default=2, help="the time of copying (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document, and nothing else")
    parser.add_argument("--make", action="store_true", help="write the model to --folder, and end")
    options = parser.parse_args(arguments)

    def show(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    with _folder(options.folder) as folder:
        path, plan, pruned = (folder / n for n in ("decoder.onnx", "plan.json", "pruned.onnx"))
        if options.make:
            make(folder, options.gigabytes * 1e9, options.files)
            return 0
        if not path.exists():
            given = ("--gigabytes", str(options.gigabytes), "--files", str(options.files))
            measured("-m", "benchmarks.large", "--make", "--folder", str(folder), *given)
        files = files_of(path)
        external = [t for t in onnx.load(path, load_external_data=False).graph.initializer]
        largest = max(stored_bytes(tensor) for tensor in external if is_external(tensor)) / 1e6
        bound = _FIXED + 3 * largest
        size = sum(file.stat().st_size for file in files) / 1e6
        show(f"{size:,.0f} MB in {len(files)} files, the largest tensor of {largest:.0f} MB")
        document: dict[str, Any] = {"megabytes": size, "largest": largest, "bound": bound}
        document["copy"] = {"seconds": copy(files, folder / "copy")}
        show(f"copy   {document['copy']['seconds']:7.1f} s")
        for verb, given in (
            ("plan", (path, "-o", plan, "--ratio", options.ratio, "--force", "--json")),
            (
                "apply",
                (path, plan, "-o", pruned, "--force", "--no-verify", "--no-benchmark", "--json"),
            ),
        ):
            took, _ = measured("-m", "onnxprune", verb, *map(str, given))
            document[verb] = took
            show(f"{verb:6} {_text(took)} (at most {bound:.0f} MB)")
        left = sum(file.stat().st_size for file in files_of(pruned)) / 1e6
        took, said = measured("-c", _RUN, str(path), str(pruned))
        ran = json.loads(said)
        document["run"] = {**took, **ran}
        for file in (plan, *files_of(pruned)):
            file.unlink()
    spent = document["plan"]["seconds"] + document["apply"]["seconds"]
    times = document["times"] = spent / document["copy"]["seconds"]
    document["pruned"] = left
    show(f"run    {_text(took)}: {json.dumps(ran)}")
    show(f"pruned {left:,.0f} MB; {times:.2f} times the time of copying (at most {options.times})")
    if options.json:
        print(json.dumps(document, indent=1))
    fits = all(document[verb]["megabytes"] <= bound for verb in ("plan", "apply"))
    runs = ran["finite"] and ran["same_shape"] and abs(ran["correlation"]) < 0.999
    return int(not (fits and runs and times <= options.times))


if __name__ == "__main__":
    sys.exit(main())
