"""From stored images to what a model is fed: size, crop, channels, range, mean, layout.

A specification is text, `size=256,crop=224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225`, the word
`imagenet` (which is that), a word and changes to it (`imagenet,crop=none,size=none`), or a TOML or
JSON file with the same keys.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UsageError
from .inputs import Array, InputSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: How many channels an image may have.
_IMAGE_CHANNELS = (1, 3, 4)
_RANGES = ("0-1", "0-255", "-1-1")


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image of `[h, w, c]`, in this order.

    `size` is the length of the shorter side, or (height, width); `crop` is cut from the middle.
    Integer pixels of 0 to 255 are brought to `range`; floating-point ones are taken to be in it.
    `mean` and `std`, one number or one for each channel, are in the units of `range`.
    """

    size: tuple[int, ...] | None = None
    crop: tuple[int, ...] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    #: `NCHW` or `NHWC`; without one, as the model's input declares.
    layout: str | None = None
    #: `0-1`, `0-255` or `-1-1`.
    range: str = "0-1"
    #: `RGB` or `BGR`: the order that the model wants. Images are read as RGB.
    channels: str = "RGB"

    def __post_init__(self) -> None:
        for name, known in (
            ("layout", (None, "NCHW", "NHWC")),
            ("range", _RANGES),
            ("channels", ("RGB", "BGR")),
        ):
            if getattr(self, name) not in known:
                words = ", ".join(word for word in known if word)
                raise UsageError(
                    f"preprocess: {name}={getattr(self, name)} is unknown; known are {words}"
                )
        for name in ("size", "crop"):
            value = getattr(self, name)
            if value is not None and (len(value) not in (1, 2) or min(value) < 1):
                raise UsageError(f"preprocess: {name}={value} is not a length or HEIGHTxWIDTH")
        if not self.mean or not self.std or not all(self.std):
            raise UsageError("preprocess: mean and std are numbers, and std is not zero")

    def options(self) -> dict[str, Any]:
        """Plain JSON types: the keys that are not left at their defaults."""
        found = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    def __call__(self, image: Array, spec: InputSpec) -> Array:
        """One image, `[h, w, c]`, `[c, h, w]` or `[h, w]`, as one sample of the input `spec`."""
        nchw = (self.layout or _layout(spec)) == "NCHW"
        x = _hwc(image, spec.name)
        x = _with_channels(x, _channels(spec, nchw))
        if self.size is not None:
            x = _resized(x, self.size)
        if self.crop is not None:
            x = _cropped(x, self.crop, spec.name)
        if self.channels == "BGR":
            x = x[:, :, ::-1]
        scaled = np.issubdtype(x.dtype, np.integer)
        y: Array = x.astype(np.float32)
        if scaled and self.range != "0-255":
            y = y / np.float32(255) if self.range == "0-1" else y / np.float32(127.5) - 1
        for what, value in (("mean", self.mean), ("std", self.std)):
            if len(value) not in (1, y.shape[2]):
                raise UsageError(
                    f"preprocess: {len(value)} numbers for {what}, but the images for input"
                    f" {spec.name!r} have {y.shape[2]} channels"
                )
        y = (y - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(y.transpose(2, 0, 1) if nchw else y)


IMAGENET = Preprocess(
    size=(256,), crop=(224,), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
#: Specifications by name.
WORDS: Mapping[str, Preprocess] = {"imagenet": IMAGENET}


def preprocess_of(given: str | Path | Preprocess | Mapping[str, Any] | None) -> Preprocess | None:
    """The specification that text, a file or a mapping means.

    Raises UsageError that says which word of it can't be.
    """
    if given is None or isinstance(given, Preprocess):
        return given
    if isinstance(given, Mapping):
        return _from_items(Preprocess(), given)
    text = str(given).strip()
    if text.endswith((".toml", ".json")):
        return _from_items(Preprocess(), _document(Path(text)))
    made = Preprocess()
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if equals:
            made = _from_items(made, {name: value})
        elif name in WORDS:
            made = WORDS[name]
        else:
            raise UsageError(
                f"preprocess: {name!r} is not KEY=VALUE; the words known are {', '.join(WORDS)}"
            )
    return made


def _document(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{path}: not a preprocessing specification: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a preprocessing specification: an object was expected")
    return found


def _from_items(made: Preprocess, items: Mapping[str, Any]) -> Preprocess:
    for name, value in items.items():
        if name not in _READ:
            raise UsageError(f"preprocess: unknown key {name!r}; known are {', '.join(_READ)}")
        try:
            made = replace(made, **{name: _READ[name](value)})
        except (TypeError, ValueError):
            raise UsageError(f"preprocess: {name}={value} can't be read") from None
    return made


def _several(value: Any, kind: Callable[[Any], Any], sep: str) -> tuple[Any, ...]:
    if isinstance(value, (int, float)):
        return (kind(value),)
    parts = value.split(sep) if isinstance(value, str) else value
    return tuple(kind(part) for part in parts)


def _lengths(value: Any) -> tuple[int, ...] | None:
    none = value is None or value in ("none", "")
    return None if none else _several(value, int, "x")


def _numbers(value: Any) -> tuple[float, ...]:
    return _several(value, float, ":")


_READ: dict[str, Callable[[Any], Any]] = {
    "size": _lengths,
    "crop": _lengths,
    "mean": _numbers,
    "std": _numbers,
    "layout": lambda value: None if value is None else str(value).upper(),
    "range": str,
    "channels": lambda value: str(value).upper(),
}


# -- steps ---------------------------------------------------------------------------------------


def is_image(spec: InputSpec) -> bool:
    """Whether an input can hold images: four axes, and channels where they are known."""
    return len(spec.dims) == 4


def _layout(spec: InputSpec) -> str:
    """Where an input has its channels, as far as its sizes tell."""
    if len(spec.dims) == 4:
        first, last = spec.dims[1], spec.dims[3]
        if last in _IMAGE_CHANNELS and first not in _IMAGE_CHANNELS:
            return "NHWC"
    return "NCHW"


def _channels(spec: InputSpec, nchw: bool) -> int | None:
    size = spec.dims[1 if nchw else 3] if len(spec.dims) == 4 else None
    return size if isinstance(size, int) else None


def _hwc(image: Array, name: str) -> Array:
    if image.ndim == 2:
        return image[:, :, None]
    if image.ndim == 3 and image.shape[2] in _IMAGE_CHANNELS:
        return image
    if image.ndim == 3 and image.shape[0] in _IMAGE_CHANNELS:
        return np.moveaxis(image, 0, 2)
    raise UsageError(
        f"preprocess: a sample of shape {list(image.shape)} for input {name!r} is not an image"
        " ([h, w, c], [c, h, w] or [h, w])"
    )


def _with_channels(x: Array, wanted: int | None) -> Array:
    have = x.shape[2]
    if wanted is None or wanted == have:
        return x[:, :, :3] if wanted is None and have == 4 else x
    if wanted == 3:
        return np.repeat(x, 3, axis=2) if have == 1 else x[:, :, :3]
    if wanted == 1 and have >= 3:  # ITU-R 601-2 luma, as Pillow has it
        grey = x[:, :, :3].astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        whole = np.issubdtype(x.dtype, np.integer)
        return np.asarray(np.rint(grey) if whole else grey, dtype=x.dtype)[:, :, None]
    raise UsageError(f"preprocess: the images have {have} channels, the model wants {wanted}")


def _resized(x: Array, size: tuple[int, ...]) -> Array:
    height, width = x.shape[:2]
    if len(size) == 1:
        scale = size[0] / min(height, width)
        target = (max(size[0], round(height * scale)), max(size[0], round(width * scale)))
        target = (size[0], target[1]) if height <= width else (target[0], size[0])
    else:
        target = (size[0], size[1])
    if target == (height, width):
        return x
    image = pillow("resizing images")
    bilinear = image.Resampling.BILINEAR
    planes = []
    for c in range(x.shape[2]):
        plane = image.fromarray(np.ascontiguousarray(x[:, :, c]))
        planes.append(np.asarray(plane.resize((target[1], target[0]), bilinear)))
    return np.stack(planes, axis=2)


def _cropped(x: Array, crop: tuple[int, ...], name: str) -> Array:
    height, width = crop if len(crop) == 2 else (crop[0], crop[0])
    if height > x.shape[0] or width > x.shape[1]:
        raise UsageError(
            f"preprocess: a crop of {height}x{width} for input {name!r} is larger than the image,"
            f" {x.shape[0]}x{x.shape[1]}: give a size"
        )
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def pillow(what: str) -> Any:
    """The module PIL.Image. Raises UsageError where it is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise UsageError(f"{what} needs Pillow: pip install 'onnxprune[images]'") from None
    return Image
