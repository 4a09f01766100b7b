"""The zoo: exported architectures, pruned one by one. See `benchmarks/zoo.py`."""
