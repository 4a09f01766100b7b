"""The operators: each file a family, each operator a torch call (see `table`)."""

from . import (
    attention,
    control,
    elementwise,
    generators,
    indexing,
    linear,
    normalising,
    pooling,
    quantised,
    recurrent,
    reductions,
    resizing,
    sequences,
    shapes,
    signal,
)

__all__ = [
    "attention",
    "control",
    "elementwise",
    "generators",
    "indexing",
    "linear",
    "normalising",
    "pooling",
    "quantised",
    "recurrent",
    "reductions",
    "resizing",
    "sequences",
    "shapes",
    "signal",
]
