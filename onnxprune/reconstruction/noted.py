"""What one step of a walk came to, and how that is written down (see `records`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from ..model import Array
from .gram import Gram
from .normalise import Line
from .records import Record, Records
from .writing import Written


@dataclass
class Note:
    """One step: its result, and all that it has changed."""

    #: Relative squared error on held-out rows.
    before: float
    after: float
    refitted: bool
    #: Of a site: the ridge that was chosen, and the rows that were looked at.
    ridge: float | None = None
    rows: int = 0
    #: Whether the layers before it were refitted together with it.
    together: bool = False
    #: Of a normalisation: what its output was changed by.
    line: Line | None = None
    gram: Gram | None = None
    written: list[Written] = field(default_factory=list)

    def write(self, records: Records, step: int) -> None:
        """Write it down."""
        if not records.on:
            return
        arrays: dict[str, Array] = {}
        if self.line is not None:
            arrays["line.a"], arrays["line.b"] = self.line
        if self.gram is not None:
            arrays |= {f"gram.{name}": np.asarray(x) for name, x in vars(self.gram).items()}
        for i, done in enumerate(self.written):
            # As ONNX stores it: numpy's own format has no bfloat16.
            stored = numpy_helper.from_array(np.asarray(done.value)).SerializeToString()
            arrays[f"written.{i}"] = np.frombuffer(stored, np.uint8)
        facts = {name: getattr(self, name) for name in _FACTS}
        facts["written"] = [[done.kind, done.node, done.slot, done.wish] for done in self.written]
        records.write(step, facts, arrays)


#: What is plain JSON.
_FACTS = ("before", "after", "refitted", "ridge", "rows", "together")


def noted(record: Record) -> Note:
    """What was written down."""
    facts: dict[str, Any] = dict(record.facts)
    arrays = record.arrays
    written = [
        Written(kind, node, slot, _array(arrays[f"written.{i}"]), wish)
        for i, (kind, node, slot, wish) in enumerate(facts.pop("written"))
    ]
    line = (arrays["line.a"], arrays["line.b"]) if "line.a" in arrays else None
    return Note(**facts, written=written, line=line, gram=_gram(arrays))


def _array(stored: Array) -> Array:
    return numpy_helper.to_array(TensorProto.FromString(stored.tobytes()))


def _gram(arrays: Mapping[str, Array]) -> Gram | None:
    parts = {name[5:]: x for name, x in arrays.items() if name.startswith("gram.")}
    if not parts:
        return None
    gram = Gram(parts.pop("x0"), parts.pop("y0"))
    gram.rows = int(parts.pop("rows"))
    for name, value in parts.items():
        setattr(gram, name, value)
    return gram
