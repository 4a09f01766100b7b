"""Latency as a function of widths, measured in the user's own onnxruntime. See `cost`."""

from .cost import Measured, latency_cost

__all__ = ["Measured", "latency_cost"]
