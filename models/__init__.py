"""Small models of many families, built by hand with onnx alone: material to prune and to test on.

`FAMILIES[name](seed)` gives a model with random but lively weights: activations neither vanish nor
explode, biases, heads and statistics are far from trivial, and the outputs vary with the inputs.
Each file states its family's paper and which dims a pruner is expected to find free.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from models import (
    autoencoder,
    decoder,
    densenet,
    dgcnn,
    gat,
    lstm,
    mobilenet,
    resnet,
    resnext,
    shufflenet,
    superres,
    swin,
    unet,
    vit,
)

FAMILIES: dict[str, Callable[..., onnx.ModelProto]] = {
    "resnet": resnet.build,
    "resnext": resnext.build,
    "densenet": densenet.build,
    "mobilenet": mobilenet.build,
    "vit": vit.build,
    "swin": swin.build,
    "decoder": decoder.build,
    "lstm": lstm.build,
    "gat": gat.build,
    "dgcnn": dgcnn.build,
    "unet": unet.build,
    "shufflenet": shufflenet.build,
    "superres": superres.build,
    "autoencoder": autoencoder.build,
}

SMALLEST_VOCABULARY = 64


def example_inputs(
    model: onnx.ModelProto, batch: int = 2, *, size: int = 16, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs: "N" is `batch`, every other dynamic dimension `size`.

    Floats are standard normal; integers are tokens below SMALLEST_VOCABULARY.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [
            (batch if d.dim_param == "N" else size) if d.dim_param else d.dim_value
            for d in tensor.shape.dim
        ]
        if tensor.elem_type == TensorProto.INT64:
            inputs[value.name] = rng.integers(0, SMALLEST_VOCABULARY, shape)
        else:
            inputs[value.name] = rng.standard_normal(shape, np.float32)
    return inputs


__all__ = ["FAMILIES", "SMALLEST_VOCABULARY", "example_inputs"]
