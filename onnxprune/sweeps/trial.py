"""One trial, wherever it runs: a model pruned and judged, or the latency of a plan measured.

What goes in and what comes out are plain values, so that both can travel. A trial that fails is a
result as well: `failed` is what the options lead to, and final; `fault` may go otherwise next time.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from ..errors import OnnxPruneError
from ..evaluation import Judge
from .setting import Setting

Result = dict[str, Any]


def perform(kind: str, setting: Setting, argument: Mapping[str, Any]) -> Result:
    """Do one task: `prune` with the options of a trial, or `time` with a plan."""
    started, start = time.time(), time.perf_counter()
    try:
        found = {"prune": prune, "time": measure}[kind](setting, argument)
        found["status"] = "done"
    except OnnxPruneError as error:
        found = {"status": "failed", "reason": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found = {"status": "fault", "reason": reason}
    found["started"] = started
    found["seconds"] = round(time.perf_counter() - start, 3)
    found["host"] = platform.node()
    plain: Result = json.loads(json.dumps(found))  # as it will be when it is read from a journal
    return plain


def prune(setting: Setting, options: Mapping[str, Any]) -> Result:
    """Prune with a trial's options; its sizes, how good it is, and the plan."""
    import onnxprune  # the whole, whose part this is: a worker calls what a user would call

    result = onnxprune.prune(
        setting.model,
        **options,
        calibration=setting.calibration,
        preprocess=setting.preprocess,
        calibration_samples=setting.calibration_samples,
        rules=setting.rules,
        input_shapes=setting.shapes,
        threads=setting.threads,
        seed=setting.seed,
        verify=False,
        benchmark=False,
        provenance=False,
    )
    report = result.report
    assert report.before is not None and report.after is not None
    plan = result.plan.to_dict()
    for group in plan["groups"]:
        group["scores"] = []  # most of a plan's bytes, and of no use for carrying it out
    return {
        "before": report.before.to_dict(),
        "after": report.after.to_dict(),
        "evaluation": asdict(_judge(setting)(result.unsaved)),
        "notes": report.notes,
        "plan": plan,
    }


def measure(setting: Setting, plan: Mapping[str, Any]) -> Result:
    """The latency of a plan against the original, in paired rounds.

    The plan is carried out without refitting: times depend on widths, not on weights.
    """
    import onnxprune

    result = onnxprune.apply(
        setting.model,
        onnxprune.Plan.from_dict(plan),
        rules=setting.rules,
        input_shapes=setting.shapes,
        threads=setting.threads,
        seed=setting.seed,
        verify=False,
        benchmark=True,
        provenance=False,
    )
    assert result.report.latency is not None
    return {"latency": result.report.latency.to_dict()}


@lru_cache(maxsize=1)
def _judge(setting: Setting) -> Judge:
    """One for all trials of a process: the data is read, and the original run, only once."""
    return setting.judge()
