"""`onnxprune apply`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .. import api, html
from ..configuration import Verb
from ..plans import Plan
from .options import CALIBRATION, CHECKS, MODEL, OUTPUT, RECONSTRUCT, RESUME, RULES
from .printing import stages
from .writing import check_targets, further_options, save, tell


@click.command(cls=Verb)
@MODEL
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@OUTPUT
@CHECKS
@CALIBRATION
@RECONSTRUCT
@RESUME
@RULES
def apply(
    model: Path,
    plan_file: Path,
    output: Path,
    force: bool,
    no_provenance: bool,
    report: Path | None,
    input_shapes: dict[str, list[int]],
    threads: int,
    no_verify: bool,
    no_benchmark: bool,
    evaluated: str | None,
    metric: str | None,
    max_drop: float | None,
    as_json: bool,
    rules: Sequence[str],
    **refit: Any,
) -> None:
    """Carry out a PLAN on MODEL, or on one of the same structure.

    Example: onnxprune apply finetuned.onnx plan.json -o smaller.onnx
    """
    check_targets([output, report], [model, plan_file], force)
    if report:
        html.require()
    with stages(as_json) as progress:
        result = api.apply(
            model,
            Plan.load(plan_file),
            input_shapes=input_shapes,
            rules=rules,
            threads=threads,
            verify=not no_verify,
            benchmark=not no_benchmark,
            eval=evaluated,
            metric=metric,
            max_drop=max_drop,
            provenance=not no_provenance,
            **refit,
            journal=True,
            progress=progress,
        )
        beside = {}
        if report:
            progress("report")
            further = further_options(input_shapes, threads, evaluated, metric, rules)
            beside[report] = html.of_result(result, output, further, plan_file)
        save(result, output, force, beside)
    tell(result, as_json)
