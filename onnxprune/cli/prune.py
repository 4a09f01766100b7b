"""`onnxprune prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import api, html
from ..budgets import DEFAULT_RATIO
from ..configuration import Verb
from .options import CHECKS, CHOICE, MODEL, OUTPUT_OR_CHECK, RECONSTRUCT, REFINE
from .printing import stages
from .writing import check_targets, further_options, needed, only_check, save, tell


@click.command(cls=Verb)
@MODEL
@OUTPUT_OR_CHECK
@CHECKS
@CHOICE
@RECONSTRUCT
@REFINE
@click.option(
    "--search",
    is_flag=True,
    help="Find the smallest model that --max-drop lets pass, up to the given ratio or target.",
)
@click.option("--plan-out", type=click.Path(path_type=Path), help="Write the plan as JSON, too.")
def prune(
    model: Path,
    output: Path | None,
    check: bool,
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
    plan_out: Path | None,
    search: bool,
    **choice: Any,
) -> None:
    """Remove channels of MODEL, prove the cut, measure.

    Example: onnxprune prune model.onnx -o smaller.onnx --ratio 0.5
    """
    if check and evaluated is None:
        for name in ("reconstruct", "finetune", "resume", "rewind"):
            del choice[name]
        return only_check(model, choice, as_json, input_shapes, threads)
    output = None if check else needed(output)
    if output is not None:
        check_targets([output, plan_out, report], [model], force)
    if report:
        html.require()
    with stages(as_json) as progress:
        result = (api.search if search else api.prune)(
            model,
            **choice,
            input_shapes=input_shapes,
            threads=threads,
            verify=not no_verify,
            benchmark=not no_benchmark,
            eval=evaluated,
            metric=metric,
            max_drop=max_drop,
            provenance=not no_provenance,
            journal=output is not None,
            progress=progress,
        )
        if output is None:
            return  # --check with --eval: it would pass
        further = further_options(input_shapes, threads, evaluated, metric, choice["rules"])
        beside = {plan_out: result.plan.to_json().encode()} if plan_out else {}
        further |= {name: choice[name] for name in ("reconstruct", "finetune", "rewind")}
        if report:
            progress("report")
            if choice["lossless"] and choice["ratio"] == DEFAULT_RATIO:
                further["ratio"] = choice["ratio"]  # said, it is more than what --lossless removes
            beside[report] = html.of_result(result, output, further)
        save(result, output, force, beside)
    tell(result, as_json)
