"""Vision models of torch, with random weights, exported so that their parameters keep their names.

Importing this needs torch and torchvision.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn

#: torchvision's own operators are compiled for one build of torch. Where they do not load, its
#: models still do, once these two are declared; none of the models here runs them.
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
_OPERATORS_NEEDED = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _models() -> dict[str, Callable[..., nn.Module]]:
    """torchvision's builders, with its operators declared if they did not load."""
    try:
        from torchvision import models
    except RuntimeError:
        for schema in _OPERATORS_NEEDED.values():
            _OPERATORS.define(schema)
        from torchvision import models
    return {name: models.get_model_builder(name) for name in models.list_models(module=models)}


class UNet(nn.Module):
    """Two levels down and up again; each level's features are laid beside the upsampled ones."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1 = _block(3, width)
        self.down2 = _block(width, 2 * width)
        self.middle = _block(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.join2 = _block(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join1 = _block(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up2(self.middle(self.pool(second)))
        x = self.up1(self.join2(torch.cat([x, second], 1)))
        return self.head(self.join1(torch.cat([first, x], 1)))


class Mixed(nn.Module):
    """A concatenation that a residual sum cuts anew, and that Linear layers read flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 12)
        self.left = _block(12, 8)
        self.right = _block(12, 16)
        self.over = _block(24, 24)
        self.wide = nn.Conv2d(24, 20, 3, padding=1)
        self.fc1 = nn.Linear(20 * 16, 30)
        self.fc2 = nn.Linear(30, 10)
        self.pool = nn.AdaptiveAvgPool2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        both = torch.cat([self.left(x), self.right(x)], 1)
        x = self.pool(self.wide(both + self.over(both)).relu())
        return self.fc2(self.fc1(x.flatten(1)).relu())


class Partial(nn.Module):
    """A width split in two, one half of which is worked on: a cross-stage partial block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 32)
        self.inner = nn.Sequential(_block(16, 12), _block(12, 16))
        self.outer = _block(32, 24)
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.stem(x), [16, 16], dim=1)
        return self.head(self.outer(torch.cat([self.inner(b), a], 1)))


class Halves(Partial):
    """The same with a residual sum inside: one half is read twice."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.stem(x), [16, 16], dim=1)
        return self.head(self.outer(torch.cat([b + self.inner(b), a], 1)))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def _small_vgg() -> nn.Module:
    """VGG-11 with batch normalisation, its classifier narrowed: it reads 2 x 2 positions."""
    model = _models()["vgg11_bn"](weights=None)
    model.avgpool = nn.Identity()
    model.classifier = nn.Sequential(
        *(nn.Linear(512 * 2 * 2, 256), nn.ReLU(), nn.Dropout()),
        *(nn.Linear(256, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, 100)),
    )
    return model


#: Models that torchvision has not, or not as small.
OWN: dict[str, Callable[[], nn.Module]] = {
    "vgg11_bn": _small_vgg,
    "unet": UNet,
    "mixed": Mixed,
    "partial": Partial,
    "halves": Halves,
}
_OPTIONS = {"googlenet": {"aux_logits": False, "init_weights": False}}


def build(name: str, seed: int = 0) -> nn.Module:
    """The model of that name, in evaluation mode, with every parameter and statistic random.

    Channels differ in scale, so that their importance differs by more than rounding does.
    """
    model = OWN[name]() if name in OWN else _models()[name](weights=None, **_OPTIONS.get(name, {}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.is_floating_point():
                continue
            fan = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 4
            tensor.normal_(0.0, fan**-0.5, generator=generator)
            scale = torch.empty(tensor.shape[:1]).log_normal_(0.0, 0.4, generator=generator)
            tensor.mul_(scale.reshape(-1, *[1] * (tensor.ndim - 1)))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def export(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """`model` as ONNX with a dynamic batch; BatchNormalization is not folded into what it follows.

    Initializers are called as in the model's state dict.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; it is the one that keeps BN
        torch.onnx.export(
            model,
            (example,),
            file,
            dynamo=False,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )
    return onnx.load_from_string(file.getvalue())
