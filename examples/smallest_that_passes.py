"""The largest ratio at which the digits model still agrees with itself on 99 % of its test set.

Run from the root of the repository: python examples/smallest_that_passes.py
"""

from __future__ import annotations

import onnxprune

MODEL, DATA = "models/digits_cnn.onnx", "models/digits_test.npz"

best = None
for percent in range(10, 100, 10):
    result = onnxprune.prune(MODEL, ratio=percent / 100, round_to=1, eval=DATA, benchmark=False)
    found = result.report.evaluation
    assert found is not None
    print(f"ratio {percent} %: top-1 {found.after:.1%}, agreement {found.agreement:.1%}")
    if found.agreement < 0.99:
        break
    best = result

if best is not None:
    left = best.report.parameters_left
    print(f"the smallest that passes has {left:.1%} of the parameters")
    best.save("smallest.onnx", force=True)
