"""`zoo.py export`: every model of the catalogue through both of PyTorch's exporters.

The libraries are imported once; each export then happens in a forked process with a time limit and
a memory limit, so that a crash of it is a row of the journal.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from .cache import VARIANTS, Cache, Row, Shard
from .sources import Case, Entry, calibrate, matching

#: The opsets that the TorchScript exporter is asked for, until one has all operators.
OPSETS = [17, 20]
#: Disks are finite: a model whose first file has more bytes than this is not exported so as well.
LIMITS = {"dynamo-dynamic": 120e6, "script-static": 20e6, "dynamo-static": 20e6}


def show(only: list[str], shard: Shard) -> None:
    """Print the catalogue, and what of it can't be exported here."""
    for entry in matching(only):
        if entry.name in shard:
            missing = entry.missing
            note = f"  (needs {', '.join(missing)})" if missing else ""
            print(f"{entry.name}{note}")


def export_all(
    cache: Cache,
    only: list[str],
    shard: Shard,
    variants: list[str],
    *,
    seconds: float,
    gigabytes: float,
    again: str,
) -> None:
    """Export what is not there yet, or was exported from another line of the catalogue.

    What failed once is tried again only where `again` is not `none`; `all` makes everything anew.
    """
    journal = cache.journal("exports")
    chosen = [entry for entry in matching(only) if entry.name in shard]
    for entry in chosen:
        if entry.missing:
            print(f"{entry.name:44} skipped: {', '.join(entry.missing)} is not installed")
    chosen = [entry for entry in chosen if not entry.missing]
    _import({name for entry in chosen for name in entry.needs})
    done = journal.rows()
    for variant in variants:
        for entry in chosen:
            target = cache.file(entry.name, variant)
            if entry.source in ("sklearn", "jax") and variant != VARIANTS[0]:
                continue  # these have one exporter
            if _too_large(cache, entry, variant):
                continue
            row = done.get(target.name, {})
            if row.get("given") == entry.given and again != "all":
                failed = row["status"] != "ok"
                if again == "none" if failed else target.exists():
                    continue
            start = time.monotonic()
            row = {"key": target.name, "model": entry.name, "variant": variant}
            row["given"] = entry.given
            # Its parent is what removes the folder: a killed process leaves what it has written.
            with tempfile.TemporaryDirectory(dir=cache.files, prefix=".export-") as folder:
                path = Path(folder) / "model.onnx"
                row |= _in_a_process(entry, variant, path, seconds, gigabytes)
                if row["status"] == "ok":
                    path.replace(target)
                else:
                    target.unlink(missing_ok=True)  # of an earlier line of the catalogue
            row["seconds"] = round(time.monotonic() - start, 1)
            journal.append(row)
            said = row.get("message", "")[:160] or f"{target.stat().st_size / 1e6:.1f} MB"
            print(f"{entry.name:44} {variant:15} {row['seconds']:5.1f} s  {said}", flush=True)


def _too_large(cache: Cache, entry: Entry, variant: str) -> bool:
    first = cache.file(entry.name, VARIANTS[0])
    return first.exists() and first.stat().st_size > LIMITS.get(variant, math.inf)


def _import(names: set[str]) -> None:
    """Import what the forked processes will need, with PyTorch's missing operators declared."""
    warnings.filterwarnings("ignore")
    if "torch" in names:
        import torch

        torch.set_num_threads(1)
        torch.backends.mha.set_fastpath_enabled(False)  # its operator is in no exporter
        _import_torchvision()
        importlib.import_module("torch.onnx")
        names = names | {"onnxscript", "torch.export", "torch.onnx._internal.exporter._core"}
    for name in sorted(names):
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} can't be imported: {error}", file=sys.stderr)


def _import_torchvision() -> None:
    """Import torchvision, or do so once its operators are declared.

    PyPI's torchvision beside another build of torch lacks its compiled operators, and importing it
    fails for the one that it registers a shape function for.
    """
    global _library
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        import torch

        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


#: The declaration lasts as long as this does.
_library: Any = None


def _in_a_process(entry: Entry, variant: str, path: Path, seconds: float, gigabytes: float) -> Row:
    """Export in a forked process: `ok`, or what went wrong in one line."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        row: Row = {"status": "failed", "message": "the process ended without a word"}
        try:
            os.setsid()
            limit = int(gigabytes * 2**30)
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            row = {"status": "ok", **_export(entry, variant, path)}
        except BaseException as error:
            row["message"] = _said(error)
        finally:
            os.write(writing, json.dumps(row).encode())
            os._exit(0)
    os.close(writing)
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reading)
            return {"status": "failed", "message": f"more than {seconds:.0f} s"}
        time.sleep(0.05)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    if os.WIFSIGNALED(status) or not said:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else status
        return {"status": "failed", "message": f"killed by {name}"}
    result: Row = json.loads(said)
    return result


def _said(error: BaseException) -> str:
    """One line of an error, and where it was raised."""
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    line = next((each.strip() for each in str(root).splitlines() if each.strip()), "")
    frames = traceback.extract_tb(root.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(root).__name__}: {line[:300]}{where}"


def _export(entry: Entry, variant: str, path: Path) -> Row:
    """Write the file, the only one of its folder.

    Gives how far onnxruntime is from PyTorch on it, and the shapes of its inputs.
    """
    exporter, _, shapes = variant.partition("-")
    case = _built(entry)
    if case.write:
        case.write(str(path))
    elif exporter == "script":
        _script(case, path, dynamic=shapes == "dynamic")
    else:
        _dynamo(case, path, dynamic=shapes == "dynamic")
    if any(each != path for each in path.parent.iterdir()):
        raise ValueError("it has external data")
    deviation = _compare(case, path)
    if deviation is not None and math.isnan(deviation):
        raise ValueError("its outputs are not numbers")
    inputs = zip(case.names, case.inputs, strict=True)
    return {"deviation": deviation, "shapes": {name: list(each.shape) for name, each in inputs}}


def _built(entry: Entry) -> Case:
    """The model, with the same weights each time."""
    if "torch" in entry.needs:
        import torch

        torch.manual_seed(0)
    case = entry.build()
    if case.module is not None:
        case.module.eval()  # all of it: exporters give modules the mode back that they had
        calibrate(case.module, case.inputs)
    return case


def _compare(case: Case, path: Path) -> float | None:
    """How far onnxruntime is from PyTorch on the inputs of the export; relative.

    Raises what onnxruntime raises: an exporter's file that it can't run is no file of the zoo.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    live = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if case.module is None:
        return None
    import torch

    names = [each.name for each in live.get_inputs()]
    given = dict(zip(case.names, case.inputs, strict=True))
    found = live.run(None, {name: given[name].numpy() for name in names})[0]
    with torch.no_grad():
        expected = case.module(*case.inputs)
    while isinstance(expected, (tuple, list)):
        expected = expected[0]
    expected = expected.numpy()
    if found.shape != expected.shape or not expected.size:
        return None
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def _script(case: Case, path: Path, *, dynamic: bool) -> None:
    import torch

    options: dict[str, Any] = {"dynamic_axes": case.dynamic} if dynamic else {}
    for opset in OPSETS:
        try:
            with torch.no_grad():
                torch.onnx.export(
                    case.module,
                    case.inputs,
                    str(path),
                    input_names=case.names,
                    opset_version=opset,
                    dynamo=False,
                    **options,
                )
        except torch.onnx.errors.UnsupportedOperatorError:
            if opset == OPSETS[-1]:
                raise
        else:
            return


def _dynamo(case: Case, path: Path, *, dynamic: bool) -> None:
    import torch

    shapes = None
    if dynamic:
        # AUTO leaves a dim that the model fixes fixed, where naming it would be an error.
        shapes = [
            dict.fromkeys(case.dynamic.get(name, {}), torch.export.Dim.AUTO) for name in case.names
        ]
    with torch.no_grad():
        program = torch.onnx.export(
            case.module,
            case.inputs,
            input_names=case.names,
            dynamic_shapes=_as_arguments(case.module, shapes),
            dynamo=True,
            verbose=False,
        )
    program.save(str(path))


def _as_arguments(module: Any, shapes: list[dict[int, Any]] | None) -> Any:
    """Shapes for each argument of `forward`, nested where it takes any number of them."""
    if shapes is None:
        return None
    nested: list[Any] = []
    left = list(shapes)
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            nested.append(tuple(left))
            break
        if left:
            nested.append(left.pop(0))
    return tuple(nested)
