"""Made-up inputs, for a model without data: noise in the range that its inputs seem to have.

Where an input is an image, it gets made-up pictures (`scenes`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from .inputs import Array, Feeds, InputSpec, batch_dims, bounds, fill, input_specs
from .model import attributes, tensor_array
from .preprocess import Preprocess, is_image
from .runtime import find_inputs
from .scenes import picture


class Synthetic:
    """Samples without end, the same for the same seed, however many are asked for at a time."""

    def __init__(
        self,
        model: ModelProto,
        shapes: Mapping[str, Sequence[int]] | None,
        preprocess: Preprocess | None,
        seed: int,
        base_dir: Path | None,
    ) -> None:
        self.specs = input_specs(model)
        found = find_inputs(model, shapes, seed=seed, base_dir=base_dir)
        batch = batch_dims(self.specs)
        self.sizes = {
            key: 1 if key in batch and not shapes else size for key, size in found.sizes[0].items()
        }
        self.shapes = {name: x.shape for name, x in found.feeds[0].items()}
        self.scalar = found.scalar or 1
        self.rows = bounds(model, self.specs)
        self.preprocess = preprocess
        self.seed = seed
        self.moments = {spec.name: _moments(model, spec.name, base_dir) for spec in self.specs}

    def feeds(self, count: int) -> Iterator[Feeds]:
        """`count` times the smallest batch that the model takes."""
        for i in range(count):
            feeds = fill(self.specs, self.rows, self.sizes, self.scalar, self.seed + 7919 * i)
            for spec in self.specs:
                if spec.dtype.kind == "f" or (spec.dtype == np.uint8 and is_image(spec)):
                    rng = np.random.default_rng([self.seed, i, zlib.crc32(spec.name.encode())])
                    if is_image(spec):
                        feeds[spec.name] = self._images(spec, feeds[spec.name], rng)
                    else:
                        feeds[spec.name] = self._scaled(spec, feeds[spec.name])
            yield feeds

    def _images(self, spec: InputSpec, like: Array, rng: np.random.Generator) -> Array:
        last = spec.dims[3] in (1, 3) and spec.dims[1] not in (1, 3)
        shape = [like.shape[i] for i in ((0, 3, 1, 2) if last else (0, 1, 2, 3))]
        images = np.stack([picture((shape[1], shape[2], shape[3]), rng) for _ in range(shape[0])])
        pixels = np.clip(np.rint(128 + 56 * images), 0, 255).astype(np.uint8)
        if self.preprocess is not None and shape[1] in (1, 3):
            step = replace(self.preprocess, size=None, crop=None)
            return np.stack([step(x.transpose(1, 2, 0), spec) for x in pixels]).astype(spec.dtype)
        if spec.dtype == np.uint8:
            return pixels.transpose(0, 2, 3, 1) if last else pixels
        images = images.transpose(0, 2, 3, 1) if last else images
        return self._scaled(spec, images)

    def _scaled(self, spec: InputSpec, noise: Array) -> Array:
        """Standard noise with the mean and deviation that the input seems to have."""
        moments = self.moments[spec.name]
        if moments is None:
            return noise.astype(spec.dtype)
        mean, std = moments
        if mean.size not in (1, noise.shape[1] if noise.ndim > 1 else 1):
            return noise.astype(spec.dtype)
        shape = [-1 if i == 1 else 1 for i in range(noise.ndim)]
        mean, std = (x.reshape(shape) if x.size > 1 else x.reshape(()) for x in (mean, std))
        return np.asarray(noise * std + mean).astype(spec.dtype)


def _moments(
    model: ModelProto, name: str, base_dir: Path | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean and deviation of an input, from what reads it first: a quantiser, a normalisation."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(names: Sequence[str]) -> list[NDArray[np.float64]] | None:
        if not all(each in weights for each in names):
            return None
        folder = base_dir or Path(".")
        return [tensor_array(weights[each], folder, each).astype(np.float64) for each in names]

    for node in model.graph.node:
        if name not in node.input[:1]:
            continue
        if node.op_type == "QuantizeLinear" and len(node.input) > 2:
            found = read(node.input[1:3])
            if found is not None and all(x.size == 1 for x in found):
                scale, point = found
                low, high = (-128, 127) if point.min() < 0 else (0, 255)
                # Two deviations to either side fill the range of the codes.
                return (0.5 * (low + high) - point) * scale, (high - low) / 4 * scale
        if node.op_type == "BatchNormalization":
            found = read(node.input[3:5])
            if found is not None:
                epsilon = attributes(node).get("epsilon", 1e-5)
                return found[0], np.sqrt(found[1] + epsilon)
    return None
