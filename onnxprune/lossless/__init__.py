"""Lossless removal: channels that carry nothing are taken out without changing the function."""

from .folding import fold
from .removable import KINDS, Measured, Removable, find_removable

__all__ = ["KINDS", "Measured", "Removable", "find_removable", "fold"]
