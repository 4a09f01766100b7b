"""Calibration data from every kind of source, and what is done to images on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxprune.calibration import Calibration, open_calibration
from onnxprune.errors import UsageError
from onnxprune.preprocess import IMAGENET, Preprocess, preprocess_of
from onnxprune.samples import npz_array
from tests.graphs import make, node, perceptron, two_convs, weight


def fixed(batch: int) -> ModelProto:
    """x [batch, 6] -> y [batch, 4]."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return make(nodes, {"x": [batch, 6]}, {"y": [batch, 4]}, {"w": weight("w", 6, 4)})


def pair() -> ModelProto:
    """a [N, 3], b [N, 3] -> a + b."""
    return make([node("Add", ["a", "b"], ["y"])], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]})


def images(dims: Any = ("N", 3, 8, 8), dtype: int = TensorProto.FLOAT) -> ModelProto:
    return make([node("Identity", ["x"], ["y"])], {"x": list(dims)}, {"y": list(dims)}, dtype=dtype)


def together(found: Calibration, size: int = 4, name: str = "x") -> np.ndarray:
    return np.concatenate([feeds[name] for feeds in found.batches(size)])


X = weight("samples", 10, 6)


# -- where samples come from ---------------------------------------------------------------------


def npz(folder: Path) -> Any:
    np.savez(folder / "a.npz", x=X, labels=np.arange(10))
    return str(folder / "a.npz")


def npz_compressed_other_name(folder: Path) -> Any:
    np.savez_compressed(folder / "a.npz", data=X, labels=np.arange(10))
    return folder / "a.npz"


def npz_x_and_y(folder: Path) -> Any:
    """Labels that are not called so: they have not the rank of a sample."""
    np.savez(folder / "a.npz", pixels=X, classes=np.arange(10))
    return str(folder / "a.npz")


def npz_key(folder: Path) -> Any:
    np.savez(folder / "a.npz", one=X, two=-X)
    return f"{folder / 'a.npz'}:one"


def npy(folder: Path) -> Any:
    np.save(folder / "a.npy", X)
    return str(folder / "a.npy")


def npy_fortran(folder: Path) -> Any:
    np.savez(folder / "a.npz", x=np.asfortranarray(X))
    return str(folder / "a.npz")


def folder_of_samples(folder: Path) -> Any:
    for i, x in enumerate(X):
        np.save(folder / f"{i}.npy", x)
    return str(folder)


def folder_of_batches(folder: Path) -> Any:
    np.save(folder / "0.npy", X[:7])
    np.savez(folder / "1.npz", x=X[7:])
    return folder


SOURCES = [
    *(npz, npz_compressed_other_name, npz_x_and_y, npz_key, npy, npy_fortran),
    *(folder_of_samples, folder_of_batches),
    lambda _: X,
    lambda _: {"x": X, "labels": np.arange(10)},
    lambda _: list(X),
    lambda _: [X[:3], X[3:]],
    lambda _: [{"x": X}],
    lambda _: [(X[:5], np.arange(5)), (X[5:], np.arange(5))],
    lambda _: lambda: iter(X),
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_samples_again_and_again(source: Any, tmp_path: Path) -> None:
    found = open_calibration(source(tmp_path), perceptron())
    for size in (1, 3, 4, 10, 64):
        assert [len(feeds["x"]) for feeds in found.batches(size)] == (
            [size] * (10 // size) + [10 % size] * bool(10 % size)
        )
        np.testing.assert_array_equal(together(found, size), X)
    assert found.samples in (10, None)
    assert found.source


def test_stored_arrays_are_mapped_and_compressed_ones_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=X[:, :2])
    np.savez_compressed(tmp_path / "b.npz", x=X)
    for name, expected in (("x", X), ("y", X[:, :2])):
        mapped = npz_array(tmp_path / "a.npz", name)
        assert isinstance(mapped, np.memmap)
        np.testing.assert_array_equal(mapped, expected)
    assert not isinstance(npz_array(tmp_path / "b.npz", "x"), np.memmap)


def test_a_limit_takes_samples_from_everywhere(tmp_path: Path) -> None:
    """Data sets are often sorted by class: the first hundred may be of one."""
    found = open_calibration(npz(tmp_path), perceptron(), limit=5)
    np.testing.assert_array_equal(together(found), X[::2])
    assert (found.samples, found.source) == (5, "5 of 10 samples of a.npz")
    (tmp_path / "a.npz").unlink()
    found = open_calibration(folder_of_samples(tmp_path), perceptron(), limit=5)
    np.testing.assert_array_equal(together(found), X[::2])
    found = open_calibration(list(X), perceptron(), limit=3)
    np.testing.assert_array_equal(together(found), X[:3])


def test_a_fixed_batch_is_always_full(tmp_path: Path) -> None:
    found = open_calibration(X, fixed(4))
    assert [feeds["x"].tolist() for feeds in found.batches(32)] == [X[:4].tolist(), X[4:8].tolist()]
    padded = list(found.padded(32))
    assert [real for _, real in padded] == [4, 4, 2]
    assert padded[2][0]["x"].tolist() == X[[8, 9, 8, 9]].tolist()
    (only,) = open_calibration(X[:3], fixed(4)).batches()
    assert only["x"].tolist() == X[[0, 1, 2, 0]].tolist()
    assert "repeated" in open_calibration(X[:3], fixed(4)).source
    # An array with an axis more holds batches.
    np.testing.assert_array_equal(
        together(open_calibration(X[:8].reshape(2, 4, 6), fixed(4))), X[:8]
    )
    assert len(list(open_calibration(X, fixed(1)).batches())) == 10


def test_several_inputs_go_together() -> None:
    a, b = weight("a", 5, 3), weight("b", 5, 3)
    batches = list(open_calibration({"a": a, "b": b}, pair()).batches(2))
    assert [len(feeds["a"]) for feeds in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([feeds["b"] for feeds in batches]), b)
    for wrong, words in (
        ({"a": a}, "'b'"),
        ({"a": a, "b": b[:4]}, "a 5, b 4"),
        (a, "several inputs"),
        ([a], "a, b"),
    ):
        with pytest.raises(UsageError, match=words):
            open_calibration(wrong, pair())


def test_inputs_without_a_common_batch_are_fed_as_they_are() -> None:
    """A graph network: nodes [N, 3] and edges [2, E] are one sample, not N of them."""
    nodes = [node("Gather", ["x", "e"], ["y"])]
    model = make(nodes, {"x": ["N", 3]}, {"y": [2, "E", 3]})
    edges = helper.make_tensor_value_info("e", TensorProto.INT64, [2, "E"])
    model.graph.input.append(edges)
    x, e = weight("x", 5, 3), np.array([[0, 1], [3, 4]])
    (feeds,) = open_calibration({"x": x, "e": e}, model).batches(2)
    np.testing.assert_array_equal(feeds["x"], x)
    series = open_calibration({"x": np.stack([x, -x]), "e": e}, model)
    assert [feeds["x"].tolist() for feeds in series.batches()] == [x.tolist(), (-x).tolist()]
    assert series.samples == 2


def test_samples_of_unlike_sizes_are_not_mixed() -> None:
    model = images(("N", 1, "H", "W"))
    items = [np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), np.zeros((1, 6, 4))]
    shapes = [feeds["x"].shape for feeds in open_calibration(items, model).batches(8)]
    assert shapes == [(2, 1, 4, 4), (1, 1, 6, 4)]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.npz", "no missing.npz"),
        (weight("w", 10, 5), r"shape \[5\] can't be fed to input 'x', \[6\]"),
        ({"p": X, "q": X}, "NAME"),
        (iter(X), "only once"),
        (3, "int"),
        ([], "no sample"),
        (X[:0], "no sample"),
    ],
)
def test_what_does_not_fit_is_one_clear_sentence(source: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        open_calibration(source, perceptron())
    assert "\n" not in str(caught.value)


def test_broken_files(tmp_path: Path) -> None:
    for name in ("a.npz", "a.npy"):
        (tmp_path / name).write_bytes(b"nothing of the sort")
        with pytest.raises(UsageError, match=name):
            open_calibration(str(tmp_path / name), perceptron())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="there is no"):
        open_calibration(tmp_path / "empty", perceptron())
    np.savez(tmp_path / "b.npz", x=X)
    with pytest.raises(UsageError, match="it has x"):
        open_calibration(f"{tmp_path / 'b.npz'}:other", perceptron())
    with pytest.raises(UsageError, match="0 samples"):
        open_calibration(X, perceptron(), limit=0)


def test_whole_numbers_are_not_made_of_fractions() -> None:
    model = images(("N", 3), TensorProto.INT64)
    with pytest.raises(UsageError, match="whole numbers"):
        open_calibration(weight("w", 4, 3), model)
    (feeds,) = open_calibration(np.ones((4, 3)), model).batches()
    assert feeds["x"].dtype == np.int64


# -- images --------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_bytes_become_normalised_planes() -> None:
    spec = "mean=0.485:0.456:0.406,std=0.229:0.224:0.225"
    found = together(open_calibration(PIXELS, images(), preprocess=spec))
    expected = ((PIXELS / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(UsageError, match="--preprocess"):
        open_calibration(PIXELS, images())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("range=0-255", PIXELS.transpose(0, 3, 1, 2)),
        ("range=-1-1", PIXELS.transpose(0, 3, 1, 2) / 127.5 - 1),
        ("channels=BGR,range=0-255", PIXELS[..., ::-1].transpose(0, 3, 1, 2)),
        ("imagenet,size=none,crop=none,mean=0,std=1", PIXELS.transpose(0, 3, 1, 2) / 255),
    ],
)
def test_ranges_and_channels(spec: str, expected: np.ndarray) -> None:
    found = together(open_calibration(PIXELS, images(), preprocess=spec))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_layout_size_and_crop() -> None:
    nhwc = images(("N", 8, 8, 3))
    plain = together(open_calibration(PIXELS, nhwc, preprocess="range=0-255"))
    np.testing.assert_array_equal(plain, PIXELS)
    # planes are turned round, too
    planes = open_calibration(PIXELS.transpose(0, 3, 1, 2), nhwc, preprocess="range=0-255")
    np.testing.assert_array_equal(together(planes), PIXELS)
    small = images(("N", 3, 4, 6))
    cut = together(open_calibration(PIXELS, small, preprocess="crop=4x6,range=0-255"))
    np.testing.assert_array_equal(cut, PIXELS[:, 2:6, 1:7].transpose(0, 3, 1, 2))
    with pytest.raises(UsageError, match="larger than the image"):
        open_calibration(PIXELS, small, preprocess="crop=9")
    grey = images(("N", 1, 8, 8))
    found = together(open_calibration(PIXELS, grey, preprocess="range=0-255"))[:, 0]
    np.testing.assert_allclose(found, PIXELS @ [0.299, 0.587, 0.114], atol=0.51)


def test_resizing_keeps_the_shape_of_the_image() -> None:
    pytest.importorskip("PIL")
    wide = np.full((8, 16, 3), 200, np.uint8)
    spec = images(("N", 3, 4, 4))
    found = together(open_calibration([wide], spec, preprocess="size=4,crop=4,range=0-255"))
    assert found.shape == (1, 3, 4, 4) and (found == 200).all()
    found = together(open_calibration([wide], spec, preprocess="size=4x4,range=0-255"))
    assert found.shape == (1, 3, 4, 4)


def test_images_in_a_folder(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "class").mkdir()
    for i, pixels in enumerate(PIXELS):
        image.fromarray(pixels).save(tmp_path / "class" / f"{i}.png")
    found = open_calibration(tmp_path, images(), preprocess="range=0-255")
    np.testing.assert_array_equal(together(found), PIXELS.transpose(0, 3, 1, 2))
    one = open_calibration(tmp_path / "class" / "3.png", images(), preprocess="range=0-255")
    np.testing.assert_array_equal(together(one)[0], PIXELS[3].transpose(2, 0, 1))
    (tmp_path / "class" / "9.png").write_bytes(b"no image")
    broken = open_calibration(tmp_path, images(), preprocess="range=0-255")
    with pytest.raises(UsageError, match=r"9\.png"):
        together(broken)


def test_specifications(tmp_path: Path) -> None:
    assert preprocess_of("imagenet") == IMAGENET
    assert preprocess_of(None) is None
    text = "size=256x128,crop=224,mean=1:2:3,std=2,layout=nhwc,range=0-255,channels=bgr"
    wanted = Preprocess((256, 128), (224,), (1.0, 2.0, 3.0), (2.0,), "NHWC", "0-255", "BGR")
    assert preprocess_of(text) == wanted
    (tmp_path / "p.toml").write_text(
        "size = [256, 128]\ncrop = 224\nmean = [1, 2, 3]\nstd = 2\n"
        'layout = "NHWC"\nrange = "0-255"\nchannels = "BGR"\n'
    )
    (tmp_path / "p.json").write_text(
        '{"size": "256x128", "crop": 224, "mean": [1, 2, 3], "std": 2,'
        '"layout": "NHWC", "range": "0-255", "channels": "BGR"}'
    )
    assert preprocess_of(tmp_path / "p.toml") == preprocess_of(str(tmp_path / "p.json")) == wanted
    assert preprocess_of(wanted.options()) == wanted


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("magic", "imagenet"),
        ("colour=red", "unknown key 'colour'"),
        ("size=big", "size=big"),
        ("size=0", "size"),
        ("layout=HWC", "NCHW, NHWC"),
        ("range=0-1023", "0-255"),
        ("channels=RGBA", "BGR"),
        ("std=0", "std"),
        ("missing.toml", "missing.toml"),
        ({"size": None, "mean": {}}, "mean"),
    ],
)
def test_specifications_that_can_not_be(spec: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        preprocess_of(spec)


def test_means_are_one_or_one_for_each_channel() -> None:
    with pytest.raises(UsageError, match="2 numbers for mean"):
        open_calibration(PIXELS, images(), preprocess="mean=1:2")


# -- made up -------------------------------------------------------------------------------------


def test_synthetic_inputs_are_said_to_be_so() -> None:
    found = open_calibration("synthetic", two_convs(), limit=6)
    assert found.samples == 6 and "synthetic" in found.source
    x = together(found)
    assert x.shape == (6, 3, 8, 8) and x.dtype == np.float32
    np.testing.assert_array_equal(together(found, 5), x)
    other = open_calibration("synthetic", two_convs(), limit=6, seed=1)
    assert np.abs(together(other) - x).max() > 0.1
    assert len({each.tobytes() for each in x}) == 6
    assert 0.5 < x.std() < 2


def test_synthetic_images_are_smooth() -> None:
    """Neighbouring pixels are alike, as in pictures and unlike in white noise."""
    model = images(("N", 3, 32, 32))
    x = together(open_calibration("synthetic", model, limit=16))
    near = np.mean(
        [np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1] for a in x.reshape(-1, 32, 32)]
    )
    assert near > 0.5


def test_synthetic_inputs_have_the_range_that_the_input_has() -> None:
    x = together(open_calibration("synthetic", images(dtype=TensorProto.UINT8), limit=8))
    assert x.dtype == np.uint8 and x.max() > 200 and x.min() < 60
    model = images()
    x = together(open_calibration("synthetic", model, preprocess="range=0-1", limit=8))
    assert 0 <= x.min() < 0.2 and 0.8 < x.max() <= 1
    nodes = [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])]
    three = np.ones(3, np.float32)
    weights = {"s": three, "b": three, "m": 100 * three, "v": 2500 * three}
    model = make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]}, weights)
    x = together(open_calibration("synthetic", model, limit=32))
    assert 80 < x.mean() < 120 and 40 < x.std() < 65


def test_synthetic_indices_stay_within_their_table() -> None:
    model = make(
        [node("Gather", ["w", "x"], ["y"])],
        {"x": ["N", 7]},
        {"y": ["N", 7, 2]},
        {"w": weight("w", 5, 2)},
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    x = together(open_calibration("synthetic", model, shapes={"x": [1, 7]}, limit=20))
    assert x.shape == (20, 7) and x.min() == 0 and x.max() == 4


def test_an_iterable_is_read_as_it_is_needed() -> None:
    read = []

    def samples() -> Iterator[np.ndarray]:
        for i in range(1000):
            read.append(i)
            yield X[0]

    found = open_calibration(samples, perceptron())
    next(iter(found.batches(4)))
    assert len(read) < 10
