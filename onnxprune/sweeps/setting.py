"""What all trials of a sweep share: the model and the data, by plain values that can travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..calibration import CalibrationData
from ..evaluation import Judge
from ..loading import load
from ..preprocess import Preprocess


@dataclass(frozen=True)
class Setting:
    """Paths are those of the machine that a trial runs on (see `cargo`)."""

    model: str
    eval: str | None = None
    metric: str | None = None
    calibration: str | None = None
    preprocess: Preprocess | None = None
    calibration_samples: int | None = None
    rules: tuple[str, ...] = ()
    #: (input, sizes)
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    threads: int = 1
    seed: int = 0

    @property
    def shapes(self) -> Mapping[str, Sequence[int]] | None:
        """Sizes of dynamic dims, as the functions of the API take them."""
        return {name: list(sizes) for name, sizes in self.input_shapes} or None

    @property
    def data(self) -> CalibrationData | None:
        """The calibration data, where there is some."""
        if self.calibration is None:
            return None
        return CalibrationData(
            self.calibration, self.preprocess, self.calibration_samples, self.shapes, self.seed
        )

    def judge(self) -> Judge:
        """What tells how good a pruned model is: on the samples of `eval`, or on inputs alone.

        Raises UsageError where the data does not fit the model.
        """
        model = load(self.model)
        if self.eval is not None:
            return Judge(model.proto, self.eval, model.base_dir, self.threads, self.metric)
        data = self.data or CalibrationData("synthetic", shapes=self.shapes, seed=self.seed)
        inputs = data.open(model.proto, model.base_dir)
        return Judge(model.proto, inputs, model.base_dir, self.threads, self.metric)

    def options(self) -> dict[str, Any]:
        """Plain JSON types: what a journal's identity is made of."""
        found = asdict(self)
        found["model"] = Path(self.model).name
        found["preprocess"] = self.preprocess.options() if self.preprocess else None
        return found
