"""The files of a setting, packed to be sent to other machines, and unpacked there once.

One archive holds the model with its external weights, the samples, the calibration data and the
tables of rules; its name is the hash of what is in it, so that a machine that has it knows.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation import is_file
from ..loading import load
from ..saving import sources
from ..trials.identity import content, files_in, named_file
from .setting import Setting


@dataclass(frozen=True)
class Cargo:
    """A setting whose paths are relative to where the archive is unpacked."""

    setting: Setting
    #: What the folder is called.
    name: str
    archive: bytes


def pack(setting: Setting) -> Cargo:
    """The files of a setting. Raises UsageError where one can't be read."""
    out = io.BytesIO()
    taken: list[Path] = []

    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:

        def put(folder: str, path: Path) -> str:
            """Pack a file or a folder; its path in the archive."""
            for file in files_in(path):
                inside = file.relative_to(path.parent)
                archive.write(file, f"{folder}/{inside.as_posix()}")
            taken.append(path)
            return f"{folder}/{path.name}"

        model = load(setting.model)
        for file in sources(model):
            inside = file.relative_to(model.base_dir).as_posix()
            archive.write(file, f"model/{inside}")
            taken.append(file)
        moved: dict[str, Any] = {"model": f"model/{Path(setting.model).name}"}
        for name in ("eval", "calibration"):
            given = getattr(setting, name)
            path = named_file(given) if given else None
            if path is not None and (name != "eval" or is_file(given) or path.suffix == ".py"):
                moved[name] = put(name, path) + given[len(str(path)) :]
        rules = [put(f"rules/{i}", Path(rule)) for i, rule in enumerate(setting.rules)]
        moved["rules"] = tuple(rules)
    return Cargo(replace(setting, **moved), f"onnxprune-{content(taken)[:16]}", out.getvalue())


def unpack(cargo: Cargo, parent: Path) -> Path:
    """Unpack into a folder of its own below `parent`, unless it is there; all of it or nothing."""
    folder = parent / cargo.name
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{cargo.name}-", dir=parent))
    try:
        with zipfile.ZipFile(io.BytesIO(cargo.archive)) as archive:
            archive.extractall(draft)  # refuses to leave the folder
        os.replace(draft, folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def placed(setting: Setting, folder: Path) -> Setting:
    """The setting with the paths that a packed one has in `folder`."""

    def at(given: str | None) -> str | None:
        inside = given is not None and given.split("/")[0] in ("model", "eval", "calibration")
        return str(folder / given) if inside and given is not None else given

    return replace(
        setting,
        model=str(folder / setting.model),
        eval=at(setting.eval),
        calibration=at(setting.calibration),
        rules=tuple(str(folder / rule) for rule in setting.rules),
    )
