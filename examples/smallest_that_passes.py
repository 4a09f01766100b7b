"""The smallest digits model that loses no more than a point of accuracy on its test set.

Run from the root of the repository: python examples/smallest_that_passes.py
"""

from __future__ import annotations

import onnxprune

MODEL, DATA = "models/digits_cnn.onnx", "models/digits_test.npz"

result = onnxprune.search(MODEL, eval=DATA, max_drop=1.0, benchmark=False)
for trial in result.report.trials:
    print(f"ratio {trial['ratio']:.1%}: {trial['drop']:.2f} points lost")
print(f"the smallest that passes has {result.report.parameters_left:.1%} of the parameters")
result.save("smallest.onnx", force=True)
