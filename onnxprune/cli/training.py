"""`onnxprune finetune` and `onnxprune train`: what both have, and each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from .. import api, display
from ..configuration import Verb
from ..plans import Plan
from ..teaching import TrainResult
from ..training.settings import AUGMENTATIONS, OPTIMIZERS, PRECISIONS, Settings
from .numbers import Number, Whole
from .options import COMMON, EVAL, FORCE, MODEL, NO_PROVENANCE, OUTPUT, RULES, together
from .printing import console_on, stages
from .writing import check_targets

_NAMES = {field.name for field in fields(Settings)}
_DEFAULT = Settings()


def _setting(name: str, kind: Any, words: str, **more: Any) -> Any:
    """An option for one of the settings, whose default it has."""
    default = getattr(_DEFAULT, name)
    shown = {"default": default, "show_default": default is not None}
    return click.option(f"--{name.replace('_', '-')}", type=kind, help=words, **shown, **more)


DATA = together(
    click.option(
        "--data",
        required=True,
        metavar="SOURCE",
        help="Inputs to learn from: .npz, .npy, or a folder. Labels among them are used, too.",
    ),
    click.option(
        "--labels-name",
        default="",
        metavar="NAME",
        help="The array of labels in --data [default: labels, y, ..., if there is one].",
    ),
    click.option(
        "--preprocess",
        metavar="SPEC",
        help="For images: imagenet, size=256,crop=224,mean=…,std=…,layout=…,range=…, or a file.",
    ),
    click.option("--samples", type=Whole(min=1), help="The most samples to use [default: all]."),
)
SETTINGS = together(
    click.option(
        "--epochs",
        default=str(_DEFAULT.epochs),
        show_default=True,
        metavar="N|MINUTES",
        help="Times that the data is gone through, or how long it may take: 20min, 2h.",
    ),
    _setting("lr", Number(0, None, min_open=True), "Peak rate, as a share of each tensor's size."),
    _setting("optimizer", click.Choice(OPTIMIZERS), "How steps are made."),
    _setting("weight_decay", Number(min=0), "Of matrices and kernels."),
    _setting("batch", Whole(min=1), "Samples in a step."),
    _setting("micro_batch", Whole(min=1), "Samples at once, where a step does not fit in memory."),
    _setting("warmup", Number(0, 1, max_open=True), "Share of the run in which the rate rises."),
    _setting("ema", Number(0, 1, min_open=True), "What the average of weights forgets in a step."),
    _setting("temperature", Number(0, None, min_open=True), "By which classes are softened."),
    _setting("features", Number(min=0), "Weight of tensors inside the model; 0 for outputs alone."),
    _setting("labels", Number(0, 1), "Share of the labels in the loss, where there are any."),
    _setting(
        "augment",
        str,
        f"Changes of images: auto (what the original does not mind), none, or some of"
        f" {', '.join(AUGMENTATIONS)}.",
        metavar="WAYS",
    ),
    _setting("held_out", Number(0, 1, min_open=True, max_open=True), "Share that only judges."),
    _setting("patience", Whole(min=1), "Stop after so many epochs without a gain."),
    _setting("device", str, "cpu, cuda, cuda:1."),
    _setting(
        "precision",
        click.Choice(PRECISIONS),
        "Of what is computed; bfloat16 is faster on CPUs that have it, too.",
    ),
    _setting("recompute", Whole(min=0), "Segments between which activations are kept; 0 for all."),
    _setting("seed", Whole(min=0), "Of orders and changes."),
    click.option("--threads", type=Whole(min=1), help="On a CPU [default: all cores]."),
    click.option(
        "--checkpoint",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where the run stands after each epoch [default: a file in the cache].",
    ),
    click.option("--resume", is_flag=True, help="Go on where a run like this was stopped."),
)
GATE = together(
    EVAL,
    click.option(
        "--max-drop",
        type=Number(min=0),
        metavar="POINTS",
        help="Fail, and write nothing, where the result is further below the original.",
    ),
)


@click.command(cls=Verb)
@MODEL
@click.option(
    "--teacher",
    required=True,
    type=click.Path(path_type=Path),
    metavar="ORIGINAL",
    help="The model that MODEL was pruned from: its outputs are what is learned.",
)
@DATA
@OUTPUT
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="PLAN",
    help="What was pruned: tensors inside both models are compared, too.",
)
@SETTINGS
@GATE
@FORCE
@NO_PROVENANCE
@RULES
@COMMON
def finetune(
    model: Path,
    teacher: Path,
    output: Path,
    plan_file: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a pruned MODEL to do what its original does.

    Needs torch, and no labels. What comes out is never worse than what went in, by samples that
    are held out.

    Example: onnxprune finetune small.onnx --teacher model.onnx --data images.npz -o tuned.onnx
    """
    sources = [model, teacher, *([plan_file] if plan_file else [])]
    with _told(output, sources, force, as_json) as progress:
        result = api.finetune(
            model,
            teacher,
            plan=Plan.load(plan_file) if plan_file else None,
            progress=progress,
            **_arguments(options),
        )
        _save(result, output, force)
    _tell(result, as_json)


@click.command(cls=Verb)
@MODEL
@DATA
@OUTPUT
@click.option(
    "--sparse",
    default="group",
    show_default=True,
    type=click.Choice(["group", "growing", "bn-scale", "none"]),
    help="What shrinks: all coupled weights of channels that matter least (DepGraph); with a decay"
    " that grows, those of the --ratio of channels chosen first; scales of batch normalisation;"
    " nothing.",
)
@click.option(
    "--strength",
    default=1.0,
    show_default=True,
    type=Number(0, None, min_open=True),
    help="The weight decay of a channel that is to go, as AdamW's is meant.",
)
@click.option(
    "--ratio",
    default=0.5,
    show_default=True,
    type=Number(0, 1, min_open=True, max_open=True),
    help="The share of channels that `growing` chooses.",
)
@click.option("--only", multiple=True, metavar="ROLE", help="Only groups of this role.")
@click.option("--include", multiple=True, metavar="GLOB", help="Only these layers.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Layers to leave as they are.")
@SETTINGS
@GATE
@FORCE
@NO_PROVENANCE
@RULES
@COMMON
def train(model: Path, output: Path, force: bool, as_json: bool, **options: Any) -> None:
    """Make whole channels of MODEL cease to matter.

    Training ahead of pruning; needs torch. The model is to do what it does, while all coupled
    weights of a channel shrink together. Then prune: --normalizer relative compares channels with
    the strongest of their group.

    Example: onnxprune train model.onnx --sparse group --data images.npz -o sparse.onnx
    """
    with _told(output, [model], force, as_json) as progress:
        result = api.train(model, progress=progress, **_arguments(options))
        _save(result, output, force)
    _tell(result, as_json)


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the public functions take them."""
    chosen = {name: options.pop(name) for name in list(options) if name in _NAMES}
    given = Settings.lasting(chosen.pop("epochs"), **chosen)
    return {
        "data": options.pop("data"),
        "labels": options.pop("labels_name"),
        "eval": options.pop("evaluated"),
        "provenance": not options.pop("no_provenance"),
        "threads": given.threads or 1,
        "settings": given,
        **options,
    }


@contextmanager
def _told(output: Path, sources: Sequence[Path], force: bool, as_json: bool) -> Iterator[Any]:
    check_targets([output], sources, force)
    with stages(as_json or not _first()) as progress:
        yield progress


def _first() -> bool:
    """Whether this is the process that writes, of those that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _save(result: TrainResult, output: Path, force: bool) -> None:
    if _first():
        result.save(output, force=force)


def _tell(result: TrainResult, as_json: bool) -> None:
    if not _first():
        return
    if as_json:
        click.echo(display.document(result.report.to_dict()))
    else:
        display.show_training(console_on(stderr=True), result.report)
