"""Train `digits_cnn.onnx`: a real network that survives losing half of every group.

A residual CNN for scikit-learn's handwritten digits (8x8 grey images, ten classes), trained with
the group-level sparsity of DepGraph (Fang et al. 2023, section 3.3, arXiv:2301.12900): channels
that must be removed together are penalised together, the weakest of a group the hardest, so that
whole channels fade in every layer that holds them.

    pip install torch==2.13.0 scikit-learn onnx onnxscript
    python models/train_digits.py

writes `digits_cnn.onnx` and `digits_test.npz` beside this file and prints the accuracy on images
never trained on, dense and with half of every group masked. Nothing else here imports torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
WIDTHS = (16, 32, 64)
BLOCKS = 2
EPOCHS = 120
BATCH = 64
PEAK_RATE = 0.05
PENALTY = 1e-3  # lambda: weight of the group penalty beside the cross entropy
ALPHA = 4.0  # the weakest channel of a group is penalised 2**ALPHA times as hard as the strongest
TEST_IMAGES = 500


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the width or the stride changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class DigitsCNN(nn.Module):
    """[n, 1, 8, 8] -> [n, 10]: a stem, three stages at 8x8, 4x4 and 2x2, a mean, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.stages = nn.ModuleList()
        inputs = WIDTHS[0]
        for stage, width in enumerate(WIDTHS):
            blocks = []
            for i in range(BLOCKS):
                blocks.append(Block(inputs, width, stride=2 if stage and i == 0 else 1))
                inputs = width
            self.stages.append(nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = stage(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


@dataclass(frozen=True)
class Group:
    """One run of channels, with every parameter that loses a slice when a channel goes."""

    producers: list[tuple[nn.Conv2d, nn.BatchNorm2d]]
    consumers: list[nn.Conv2d | nn.Linear]

    def squared_norms(self) -> Tensor:
        """Summed squares of each channel's slices, [channels]."""
        parts = [conv.weight.square().sum((1, 2, 3)) for conv, _ in self.producers]
        parts += [bn.weight.square() + bn.bias.square() for _, bn in self.producers]
        for layer in self.consumers:
            parts.append(layer.weight.square().transpose(0, 1).flatten(1).sum(1))
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def mask(self, channels: Tensor) -> None:
        """Set every slice of these channels to zero; BatchNormalization then yields zero too."""
        for conv, bn in self.producers:
            conv.weight[channels] = 0
            bn.weight[channels] = 0
            bn.bias[channels] = 0
        for layer in self.consumers:
            layer.weight[:, channels] = 0


def groups(model: DigitsCNN) -> Iterator[Group]:
    """Each block's inner channels, and each stage's residual stream: one group however long."""
    entry = (model.conv1, model.bn1)  # what writes a stage's stream besides its blocks
    for stage, blocks in enumerate(model.stages):
        first, *rest = blocks
        if stage:
            entry = (first.shortcut[0], first.shortcut[1])
        readers: list[nn.Conv2d | nn.Linear] = [block.conv1 for block in rest]
        if stage == 0:
            readers.append(first.conv1)
        if stage + 1 < len(model.stages):
            following = model.stages[stage + 1][0]
            readers += [following.conv1, following.shortcut[0]]
        else:
            readers.append(model.fc)
        yield Group([entry, *((block.conv2, block.bn2) for block in blocks)], readers)
        for block in blocks:
            yield Group([(block.conv1, block.bn1)], [block.conv2])


def penalty(all_groups: list[Group]) -> Tensor:
    """DepGraph's regulariser: sum over groups and channels k of gamma_k * I_k.

    I_k is the channel's squared norm over all coupled parameters and
    gamma_k = 2 ** (alpha * (I_max - I_k) / (I_max - I_min)), held constant in the gradient.
    """
    total = torch.zeros(())
    for group in all_groups:
        norms = group.squared_norms()
        fixed = norms.detach()
        spread = (fixed.max() - fixed).div((fixed.max() - fixed.min()).clamp_min(1e-12))
        total = total + (2 ** (ALPHA * spread) * norms).sum()
    return total


def train(images: Tensor, labels: Tensor, seed: int = 0) -> DigitsCNN:
    """Momentum SGD, a one-cycle rate and shifts of one pixel; the same seed, the same weights."""
    torch.manual_seed(seed)
    model = DigitsCNN()
    all_groups = list(groups(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK_RATE, momentum=0.9, nesterov=True)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, EPOCHS * steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(images))
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(shifted(images[batch])), labels[batch])
            loss = loss + PENALTY * penalty(all_groups)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def shifted(images: Tensor) -> Tensor:
    """Each image moved by -1, 0 or 1 pixels in both directions, zeros moving in."""
    padded = F.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(images), 2)).tolist()
    moved = zip(padded, offsets, strict=True)
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in moved])


def masked(model: DigitsCNN, ratio: float = 0.5) -> DigitsCNN:
    """A copy in which the channels of least group L2 norm, `ratio` of each group, are zero."""
    model = copy.deepcopy(model)
    # Choose before masking: neighbouring groups share weights.
    chosen = [(group, group.squared_norms().argsort()) for group in groups(model)]
    for group, order in chosen:
        group.mask(order[: int(ratio * len(order))])
    return model


@torch.no_grad()
def accuracy(model: DigitsCNN, images: Tensor, labels: Tensor) -> float:
    """Share of images classified rightly, in per cent."""
    return 100 * (model(images).argmax(1) == labels).float().mean().item()


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; images [n, 1, 8, 8] in 0..1."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    split = train_test_split(
        images, data.target, test_size=TEST_IMAGES, stratify=data.target, random_state=0
    )
    train_x, test_x, train_y, test_y = map(torch.from_numpy, split)
    return train_x, train_y.long(), test_x, test_y.long()


def main() -> None:
    torch.set_num_threads(2)
    train_x, train_y, test_x, test_y = digits()
    model = train(train_x, train_y)
    # PRESERVE keeps BatchNormalization: the exporter would fold it into the convolutions.
    torch.onnx.export(
        model,
        (test_x[:2],),
        str(HERE / "digits_cnn.onnx"),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["images"],
        output_names=["logits"],
        dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
    )
    np.savez_compressed(
        HERE / "digits_test.npz", images=test_x.numpy(), labels=test_y.numpy().astype(np.int64)
    )
    print(f"dense  {accuracy(model, test_x, test_y):.2f} %")
    print(f"masked {accuracy(masked(model), test_x, test_y):.2f} %  (half of every group zero)")


if __name__ == "__main__":
    main()
