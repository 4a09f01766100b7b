"""The dependency graph in Graphviz's language: groups, and the weights that they tie together."""

from __future__ import annotations

import json

from .inspection import Inspection
from .words import counted

_HEAD = """digraph onnxprune {
  rankdir=LR;
  graph [fontname="sans-serif"];
  node [fontname="sans-serif", fontsize=10];
  edge [fontname="sans-serif", fontsize=8, dir=none];
"""
_FILL = {"exact": "#cfe8d5", "statistical": "#f7e3b5"}


def dot(found: Inspection) -> str:
    """Ellipses are groups, boxes weights, edges the axes that lose channels together.

    Dashed: cut with the group, but no part of its score. Grey: weights that lose nothing.
    """
    lines = [_HEAD]
    for number, group in enumerate(found.groups):
        label = f"{group.name}\n{group.role}, {counted(group.size, 'channel')}, {group.kind}"
        lines.append(
            f"  g{number} [label={_quoted(label)}, shape=ellipse, style=filled,"
            f' fillcolor="{_FILL[group.kind]}"];\n'
        )
    boxes: dict[str, str] = {}
    for group in found.groups:
        for name, _, _ in group.members:
            boxes.setdefault(name, f"w{len(boxes)}")
    for name, box in boxes.items():
        lines.append(f"  {box} [label={_quoted(_label(found, name))}, shape=box];\n")
    for number, group in enumerate(found.groups):
        for name, axis, scored in group.members:
            style = "" if scored else ", style=dashed"
            lines.append(f'  g{number} -> {boxes[name]} [label="axis {axis}"{style}];\n')
    locked = [
        (name, pinned.reason)
        for pinned in found.pinned
        for name in dict.fromkeys(tensor for tensor, _ in pinned.axes)
        if name not in boxes and found.complete
    ]
    for name, reason in dict(locked).items():
        box = f"w{len(boxes)}"
        boxes[name] = box
        lines.append(
            f"  {box} [label={_quoted(_label(found, name))}, shape=box, style=filled,"
            f' fillcolor="#e4e4e4", tooltip={_quoted(reason)}];\n'
        )
    return "".join(lines) + "}\n"


def _label(found: Inspection, name: str) -> str:
    info = found.weights.get(name)
    return name if info is None else f"{name}\n{info.shape}"


def _quoted(text: str) -> str:
    """A string in double quotes; JSON's escapes are Graphviz's, but for those of other letters."""
    clean = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return json.dumps(clean, ensure_ascii=False)
