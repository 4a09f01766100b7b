"""What several messages have in common: counts, and names that may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: So many names are suggested, from this likeness (of `difflib`) on.
_SHOWN = 3
_ALIKE = 0.5
#: A part of a name has so many characters at least.
_PART = 3


def counted(count: float, noun: str) -> str:
    """A number with what it counts: `1 node`, `1,024 nodes`, `0.5 points`."""
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {noun}{'' if count == 1 else 's'}"


def near(given: str, known: Iterable[str]) -> str:
    """What a message about an unknown name ends with: `; nearest: Conv, ConvTranspose`, or nothing.

    Small and capital letters are alike here; so is a part of a name, between a glob's stars.
    """
    folded: dict[str, list[str]] = {}
    for name in sorted(known):
        folded.setdefault(name.casefold(), []).append(name)
    part = given.casefold().strip("*")
    close = difflib.get_close_matches(given.casefold(), folded, n=_SHOWN, cutoff=_ALIKE)
    if len(part) >= _PART:
        close += [each for each in folded if part in each and each not in close]
    found = [name for each in close for name in folded[each]][:_SHOWN]
    return f"; nearest: {', '.join(found)}" if found else ""
