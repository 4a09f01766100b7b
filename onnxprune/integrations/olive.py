"""A pass for Microsoft Olive: structural pruning as one step of a workflow file.

    "passes": { "prune": { "type": "OnnxPruning", "target": "macs=0.5" } }

Options are the arguments of `onnxprune.prune`, by the same names and with the same defaults. Olive
finds a pass by its package file, and one that is given takes the place of Olive's own; so ours is
Olive's with this pass added:

    python -m onnxprune.integrations.olive > package.json
    olive run --config workflow.json --package-config package.json
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import onnx_graphsurgeon as gs
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import onnxprune
from onnxprune.api import files_of

#: Arguments of `prune` that are no options of a workflow file.
_OURS = frozenset({"model_or_path", "progress"})
#: What a JSON file can say of arguments that are of any Python type.
_IN_JSON: dict[str, Any] = {
    "criterion": str,
    "calibration": str | None,
    "preprocess": str | dict[str, Any] | None,
    "journal": bool,
}


class OnnxPruning(Pass):  # type: ignore[misc]
    """Structural pruning: fewer channels, the same inputs and outputs."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        types = get_type_hints(onnxprune.prune, localns={"gs": gs})
        said = _described()
        return {
            name: PassConfigParam(
                type_=_IN_JSON.get(name, types[name]),
                default_value=parameter.default,
                description=said.get(name, ""),
            )
            for name, parameter in inspect.signature(onnxprune.prune).parameters.items()
            if name not in _OURS
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: BasePassConfig, output_model_path: str
    ) -> ONNXModelHandler:
        path = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        options = {name: getattr(config, name) for name in self._default_config(None)}
        onnxprune.prune(model.model_path, **options).save(path, force=True)
        if len(files_of(path)) == 1:
            return ONNXModelHandler(model_path=str(path))
        # Weights in a file of their own: Olive then wants the folder that holds both.
        return ONNXModelHandler(model_path=str(path.parent), onnx_file_name=path.name)


def package() -> dict[str, Any]:
    """Olive's own package file, with this pass in it."""
    default = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text())
    default["passes"]["OnnxPruning"] = {
        "module_path": f"{__spec__.name}.OnnxPruning",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
        "supported_algorithms": [],
        "supported_quantization_encodings": [],
    }
    return dict(default)


def _described() -> dict[str, str]:
    """What the documentation of `prune` says of each argument."""
    text = (inspect.getdoc(onnxprune.prune) or "").partition("Args:")[2].partition("Raises:")[0]
    entries = re.findall(r"^ {4}(\w[\w, ]*): (.*?)(?=^ {4}\w|\Z)", text, re.DOTALL | re.MULTILINE)
    return {name: " ".join(words.split()) for names, words in entries for name in names.split(", ")}


if __name__ == "__main__":
    print(json.dumps(package(), indent=4))
