"""Python rules: operators whose axes depend on values, attributes or ranks.

Each is one short function over an `Op`; the tables name it with `function = "name"`. A module
holds one family.
"""

from . import (
    attention,
    control,
    elementwise,
    generators,
    linear,
    normalise,
    quantised,
    recurrent,
    reshaping,
    runs,
    sequences,
    spatial,
)

__all__ = [
    "attention",
    "control",
    "elementwise",
    "generators",
    "linear",
    "normalise",
    "quantised",
    "recurrent",
    "reshaping",
    "runs",
    "sequences",
    "spatial",
]
