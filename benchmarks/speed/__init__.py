"""The latency benchmark: what `onnxprune` makes faster, and by how much. See `latency.py`."""
