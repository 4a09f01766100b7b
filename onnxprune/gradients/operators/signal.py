"""Fourier transforms and filter banks. Complex numbers are pairs on the last axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ..table import Kernel, Spec, ints, operator


def _transform(x: Tensor, axis: int, size: int | None, inverse: bool, half: bool) -> Tensor:
    z = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    count = z.shape[axis] if size is None else size
    if inverse and half:
        count = 2 * (z.shape[axis] - 1) if size is None else size
        return torch.fft.irfft(z, count, axis)[..., None]
    if inverse:
        y = torch.fft.ifft(z, count, axis)
    elif half:
        y = torch.fft.fft(z, count, axis).narrow(axis, 0, count // 2 + 1)
    else:
        y = torch.fft.fft(z, count, axis)
    return torch.view_as_real(y)


@operator("DFT", since=17, host=(1,))
def dft_by_attribute(node: Spec) -> Kernel:
    axis = node.attr("axis", 1)
    inverse, half = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))

    def run(x: Tensor, size: Tensor | None = None) -> Tensor:
        at = axis % x.dim()
        return _transform(x, at, None if size is None else ints(size)[0], inverse, half)

    return run


@operator("DFT", since=20, host=(1, 2))
def dft(node: Spec) -> Kernel:
    inverse, half = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))

    def run(x: Tensor, size: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
        at = (-2 if axis is None else ints(axis)[0]) % x.dim()
        return _transform(x, at, None if size is None else ints(size)[0], inverse, half)

    return run


@operator("STFT", host=(1, 3))
def stft(node: Spec) -> Kernel:
    half = bool(node.attr("onesided", 1))

    def run(
        x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None
    ) -> Tensor:
        size = ints(length)[0] if length is not None else window.shape[0]  # type: ignore[union-attr]
        pairs = x if x.dim() == 3 else x[..., None]
        frames = pairs.unfold(1, size, ints(step)[0]).transpose(-1, -2)
        if window is not None:
            frames = frames * window[:, None]
        return _transform(frames, 2, None, False, half)

    return run


@operator("MelWeightMatrix", host=(0, 1, 2, 3, 4), differentiable=False)
def mel_weights(node: Spec) -> Kernel:
    def run(bands: Tensor, size: Tensor, rate: Tensor, low: Tensor, high: Tensor) -> Tensor:
        count, bins = ints(bands)[0], ints(size)[0] // 2 + 1
        ends = 2595 * torch.log10(1 + torch.stack([low, high]).double().flatten() / 700)
        steps = ends[0] + (ends[1] - ends[0]) / (count + 1) * torch.arange(count + 2)
        hertz = 700 * (10 ** (steps / 2595) - 1)
        at = ((ints(size)[0] + 1) * hertz / ints(rate)[0]).floor().long()
        made = torch.zeros(bins, count, dtype=torch.float64)
        for i in range(count):
            first, middle, last = at[i : i + 3].tolist()
            if middle == first:
                made[middle, i] = 1
            for j in range(first, middle + 1) if middle > first else ():
                made[j, i] = (j - first) / (middle - first)
            for j in range(middle, last) if last > middle else ():
                made[j, i] = (last - j) / (last - middle)
        return made.to(node.dtype)

    return run
