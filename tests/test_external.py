"""Weights in other files: cut while they are written, wherever and however they lie."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from benchmarks import large
from models import decoder
from onnxprune import external, weights
from onnxprune.errors import BrokenModel
from onnxprune.rewrite import take
from onnxprune.work import Work
from tests.graphs import make, node, perceptron, two_convs
from tests.test_cli import contents, execute, refused

Array = NDArray[Any]


def set_place(tensor: TensorProto, location: str, offset: int | None) -> None:
    """Say that a tensor's bytes are in another file, in place."""
    del tensor.external_data[:]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    if offset is not None:
        tensor.external_data.add(key="offset", value=str(offset))


def spread_out(
    model: ModelProto, folder: Path, files: int = 3, gap: int = 7, least: int = 0
) -> Path:
    """Write a model with its weights in several files, last first, at offsets of no alignment."""
    copy = ModelProto()
    copy.CopyFrom(model)
    folder.mkdir(exist_ok=True)
    tensors = [t for t in copy.graph.initializer if len(t.raw_data) >= max(least, 1)]
    for i, tensor in enumerate(reversed(tensors)):
        with open(folder / f"shard{i % files}", "ab") as file:
            file.write(b"\xff" * gap)
            offset = file.tell()
            file.write(tensor.raw_data)
        set_place(tensor, f"shard{i % files}", offset)
    (folder / "model.onnx").write_bytes(copy.SerializeToString())
    return folder / "model.onnx"


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small tensors are many blocks."""
    monkeypatch.setattr(external, "BLOCK", 256)


# -- tensors -------------------------------------------------------------------------------------

_KINDS = (
    *("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "INT8", "INT64", "BOOL"),
    *("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT6E2M3", "COMPLEX64"),
)
#: Those that this version of onnx has.
TYPES = sorted(set(_KINDS) & set(TensorProto.DataType.keys()))


def stored(folder: Path, kind: str, shape: Sequence[int]) -> tuple[TensorProto, Array]:
    """An external tensor of random bits at an odd place of a file, and its value."""
    code = TensorProto.DataType.Value(kind)
    tensor = TensorProto(name="w", data_type=code, dims=shape)
    size = external.stored_bytes(tensor)
    data = np.random.default_rng(len(shape)).integers(0, 256, size, np.uint8)
    tensor.raw_data = (data & 1 if kind == "BOOL" else data).tobytes()
    value = numpy_helper.to_array(tensor)
    (folder / "w.bin").write_bytes(b"odd" + tensor.raw_data)
    set_place(tensor, "w.bin", 3)
    return tensor, value


def bits(value: Array) -> Array:
    """What can be compared where a value is not a number."""
    return np.ascontiguousarray(value).view(f"V{value.dtype.itemsize}")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(97,), (33, 7), (5, 3, 11), (1, 129), (40, 1, 3, 3), (64, 32)])
def test_blocks_are_the_value(
    tmp_path: Path, small_blocks: None, kind: str, shape: tuple[int, ...]
) -> None:
    tensor, value = stored(tmp_path, kind, shape)
    found = list(external.blocks(tensor, tmp_path))
    assert [start for start, _ in found] == [
        sum(len(block) for _, block in found[:i]) for i in range(len(found))
    ]
    assert (bits(np.concatenate([block for _, block in found])) == bits(value)).all()
    assert (bits(external.read(tensor, tmp_path)) == bits(value)).all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["ascending", "few", "any", "last"])
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1), (0, 2)])
def test_a_cut_is_what_numpy_takes(
    tmp_path: Path, small_blocks: None, kind: str, order: str, axes: tuple[int, ...]
) -> None:
    shape = (61, 9, 6)
    tensor, value = stored(tmp_path, kind, shape)
    rng = np.random.default_rng(7)
    kept = {}
    for axis in axes:
        count = 2 if order == "few" else -(-2 * shape[axis] // 3)
        chosen = rng.permutation(shape[axis])[:count]
        kept[axis] = chosen if order == "any" else np.sort(chosen)
        if order == "last":
            kept[axis] = np.array([shape[axis] - 1])
    cut = external.cut(tensor, kept)
    expected = take(value, kept)
    assert tuple(cut.dims) == expected.shape and external.is_cut(cut)
    assert external.stored_bytes(cut) == len(numpy_helper.from_array(expected).raw_data)
    assert (bits(external.read(cut, tmp_path)) == bits(expected)).all()
    raw = b"".join(bytes(each) for each in external.raw_blocks(cut, tmp_path))
    assert raw == numpy_helper.from_array(expected).raw_data


@pytest.mark.parametrize("kind", ["FLOAT", "BFLOAT16", "INT4"])
def test_zeros_are_of_the_whole(tmp_path: Path, small_blocks: None, kind: str) -> None:
    tensor, value = stored(tmp_path, kind, (61, 9, 6))
    zero = {0: np.array([0, 7, 8, 60]), 2: np.array([1, 3])}
    kept = {0: np.array([0, 5, 7, 40, 59, 60]), 1: np.array([2, 4])}
    expected = value.copy()
    expected[zero[0]] = expected[:, :, zero[2]] = 0
    for chosen in ({}, kept):
        cut = external.cut(tensor, chosen, zero)
        assert (bits(external.read(cut, tmp_path)) == bits(take(expected, chosen))).all()


def test_a_block_holds_no_more_than_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of kept rows that are far apart, those between are not read along."""
    monkeypatch.setattr(external, "BLOCK", 1 << 12)
    tensor, _ = stored(tmp_path, "FLOAT", (4096, 64))
    sizes: list[int] = []
    real = external._bytes

    def counted(file: Any, tensor: TensorProto, at: int, size: int) -> Any:
        sizes.append(size)
        return real(file, tensor, at, size)

    monkeypatch.setattr(external, "_bytes", counted)
    list(external.blocks(external.cut(tensor, {0: np.arange(0, 4096, 2)}), tmp_path))
    assert max(sizes) <= 1 << 12 and sum(sizes) <= 4096 * 64 * 4
    sizes.clear()
    list(external.blocks(external.cut(tensor, {0: np.array([5, 4000])}), tmp_path))
    assert sum(sizes) <= 4096 * 64 * 4


def test_a_file_that_claims_to_be_cut(tmp_path: Path) -> None:
    path = spread_out(two_convs(64), tmp_path)
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="onnxprune.whole", value="1000000,1000000")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BrokenModel, match="entries that no file has"):
        onnxprune.inspect(path)
    refused(execute("inspect", "model.onnx", cwd=tmp_path), 4, "entries that no file has")


# -- models --------------------------------------------------------------------------------------


def small_decoder() -> ModelProto:
    return decoder.build(width=128, head_dim=32, inner=256, vocabulary=512)


def packed(kind: str, axis: int, block: int = 0) -> ModelProto:
    """x [N, 64] -> MatMul w1 [64, 96], Relu, MatMul w2 [96, 8] -> y; the weights are codes."""
    code = TensorProto.DataType.Value(kind)
    tensors, nodes = [], []
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (64, 96)), ("w2", (96, 8))):
        tensor = TensorProto(name=f"{name}_codes", data_type=code, dims=shape)
        size = external.stored_bytes(tensor)
        tensor.raw_data = rng.integers(0, 256, size, np.uint8).tobytes()
        scales = [shape[axis]]
        if block:
            scales = [-(-n // block) if i == axis else n for i, n in enumerate(shape)]
        scale = rng.uniform(0.01, 0.1, scales).astype(np.float32)
        tensors += [tensor, numpy_helper.from_array(scale, f"{name}_scale")]
        how = {"block_size": block} if block else {}
        inputs = [f"{name}_codes", f"{name}_scale"]
        nodes.append(node("DequantizeLinear", inputs, [name], axis=axis, **how))
    nodes += [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    return make(nodes, {"x": ["N", 64]}, {"y": ["N", 8]}, tensors, opset=21)


def cast(kind: str) -> ModelProto:
    """The perceptron's big sister, with its weights stored in another type of floats."""
    code = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    rng = np.random.default_rng(1)
    held = {"w1": rng.standard_normal((64, 96)), "w2": rng.standard_normal((96, 8))}
    tensors = [numpy_helper.from_array(v.astype(dtype), f"{k}_{kind}") for k, v in held.items()]
    nodes = [node("Cast", [f"{name}_{kind}"], [name], to=TensorProto.FLOAT) for name in held]
    nodes += [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    return make(nodes, {"x": ["N", 64]}, {"y": ["N", 8]}, tensors, opset=21)


MODELS: Mapping[str, Callable[[], ModelProto]] = {
    "decoder": small_decoder,
    "convolutions": lambda: two_convs(64),
    "fp16": lambda: cast("FLOAT16"),
    "bf16": lambda: cast("BFLOAT16"),
    "fp8": lambda: cast("FLOAT8E4M3FN"),
    "int8": lambda: packed("INT8", 1),
    "int4": lambda: packed("INT4", 1),
    "uint4, rows": lambda: packed("UINT4", 0),
    "int4 in blocks": lambda: packed("INT4", 0, 16),
}


def tensors_of(model: ModelProto) -> dict[str, bytes]:
    return {t.name: numpy_helper.to_array(t).tobytes() for t in model.graph.initializer}


@pytest.mark.parametrize("name", MODELS)
def test_where_weights_are_changes_nothing(tmp_path: Path, small_blocks: None, name: str) -> None:
    """Inline, in several files at odd offsets: one plan, the same scores, the same bytes."""
    model = MODELS[name]()
    path = spread_out(model, tmp_path / "in")
    onnx.save(model, tmp_path / "inline.onnx")
    plans, results = [], []
    for each in (path, tmp_path / "inline.onnx"):
        plans.append(onnxprune.plan(each, ratio=0.4, lossless=False))
        result = onnxprune.apply(each, plans[0], provenance=False)
        assert result.report.certificate is not None and result.report.certificate.ok
        assert result.report.certificate.proves
        result.save(tmp_path / f"out{len(plans)}.onnx")
        results.append(result)
    chosen = [{**plan.to_dict(), "model": None} for plan in plans]
    assert plans[0].groups and chosen[0] == chosen[1]
    written = onnx.load(tmp_path / "out1.onnx")
    assert tensors_of(written) == tensors_of(onnx.load(tmp_path / "out2.onnx"))
    assert tensors_of(written) == tensors_of(results[0].model)
    assert onnxprune.compare(tmp_path / "out1.onnx", tmp_path / "out2.onnx").ok
    assert results[0].report.after.parameters == results[1].report.after.parameters
    assert results[0].report.after.parameters < results[0].report.before.parameters
    assert {file.name for file in tmp_path.iterdir() if file.name.startswith("out1")} == {
        *("out1.onnx", "out1.onnx.data")
    }


def places(path: Path) -> dict[str, tuple[str, int, int]]:
    """Where the external tensors of a file are: file, offset, length."""
    found = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            found[tensor.name] = (
                entries["location"],
                int(entries["offset"]),
                int(entries["length"]),
            )
            assert entries.keys() == {"location", "offset", "length"}
    return found


def test_offsets_are_aligned(tmp_path: Path) -> None:
    model = decoder.build(width=256, inner=2048, vocabulary=2048, depth=1)
    path = spread_out(model, tmp_path / "in", least=1024)
    result = onnxprune.prune(path, ratio=0.3, verify=False, benchmark=False)
    result.save(tmp_path / "out.onnx")
    found = places(tmp_path / "out.onnx")
    large = [offset for _, offset, length in found.values() if length >= 1 << 20]
    assert large and all(offset % (1 << 16) == 0 for offset in large)
    assert all(offset % (1 << 12) == 0 for _, offset, _ in found.values())
    assert {location for location, _, _ in found.values()} == {"out.onnx.data"}
    spans = sorted((offset, offset + length) for _, offset, length in found.values())
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    said = onnxprune.compare(tmp_path / "out.onnx", result.model)
    assert said.ok


def test_tensors_that_share_bytes_share_them_in_what_is_written(tmp_path: Path) -> None:
    """Where they are cut alike, and where they are not cut; one that is cut otherwise is apart."""
    rng = np.random.default_rng(0)
    value = {"a": rng.standard_normal((32, 64)), "out": rng.standard_normal((64, 32))}
    held = {name: each.astype(np.float32) for name, each in value.items()}
    held |= {"twin": held["a"], "idle": held["a"], "idle too": held["a"], "b": held["a"]}
    model = make(
        [
            node("MatMul", ["x", "a"], ["p"]),
            node("MatMul", ["x", "twin"], ["q"]),
            node("Add", ["p", "q"], ["s"]),
            node("Relu", ["s"], ["r"]),
            node("MatMul", ["r", "out"], ["t"]),
            node("MatMul", ["t", "b"], ["y"]),
        ],
        {"x": ["N", 32]},
        {"y": ["N", 64]},
        held,
    )
    path = spread_out(model, tmp_path / "in")
    model = onnx.load(path, load_external_data=False)
    tensors = {t.name: t for t in model.graph.initializer}
    for name in ("twin", "idle", "idle too", "b"):
        del tensors[name].external_data[:]
        tensors[name].external_data.extend(tensors["a"].external_data)
    path.write_bytes(model.SerializeToString())
    result = onnxprune.prune(path, ratio=0.4, benchmark=False)
    result.save(tmp_path / "out.onnx")
    found = places(tmp_path / "out.onnx")
    assert found["a"] == found["twin"] and found["idle"] == found["idle too"]
    assert len({found[name] for name in ("a", "idle", "b")}) == 3
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    assert tensors_of(onnx.load(tmp_path / "out.onnx")) == tensors_of(result.model)
    files = (tmp_path / "out.onnx", tmp_path / "out.onnx.data")
    size = sum(file.stat().st_size for file in files)
    assert 0 <= size - result.report.after.bytes < 4 * 4096, "what is counted is what is written"


def test_threads_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spread_out(small_decoder(), tmp_path / "in")
    monkeypatch.setattr(weights, "_SMALL", 1)
    seen = []
    for threads in (1, 2):
        monkeypatch.setattr(weights, "_THREADS", threads)
        out = tmp_path / str(threads)
        out.mkdir()
        plan = onnxprune.plan(path, ratio=0.3, threads=threads)
        plan.save(out / "plan.json")
        onnxprune.apply(path, plan, threads=threads).save(out / "pruned.onnx")
        seen.append(contents(out))
    assert seen[0] == seen[1] and len(seen[0]) == 3


def test_sums_are_in_double_precision(tmp_path: Path) -> None:
    """A million small weights behind a large one: single precision loses all of them."""
    model = perceptron()
    value = np.full((6, 8), 1e-4, np.float32)
    value[0] = 4096.0
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(numpy_helper.from_array(value, "w1"))
    onnx.save(model, tmp_path / "model.onnx")
    work = Work(tmp_path / "model.onnx", (), None)
    (group,) = work.groups
    member = next(member for member in group.members if member.tensor == "w1")
    found = weights.Weights(work.network, work.groups).norms(group, member)
    exact = (value.astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(found, exact, rtol=1e-15)
    assert (found != 4096.0**2).all()


@pytest.mark.parametrize("name", [name for name in MODELS if "int" in name])
def test_sums_of_codes_are_those_of_what_they_stand_for(
    tmp_path: Path, small_blocks: None, name: str
) -> None:
    work = Work(spread_out(MODELS[name](), tmp_path), (), None)
    found = weights.Weights(work.network, work.groups)
    members = [(g, m) for g in work.groups for m in g.members if m.tensor.endswith("codes")]
    assert len(members) == 2
    for group, member in members:
        value = found.value(member.tensor).astype(np.float64)
        assert len(np.unique(value)) > 100, "each scale is another"
        others = tuple(i for i in range(value.ndim) if i != member.axis)
        along = (value**2).sum(axis=others)[member.positions]
        expected = np.bincount(member.channels, along, group.cells)
        np.testing.assert_allclose(found.norms(group, member), expected, rtol=1e-12)


# -- memory --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = tmp_path_factory.mktemp("large")
    yield found
    for file in found.rglob("*"):
        if file.is_file():
            file.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="os.wait4")
def test_memory_does_not_grow_with_the_model(folder: Path) -> None:
    """Of a model of 400 MB, a process holds no more than a few times its largest tensor."""
    held: dict[tuple[str, float], float] = {}
    for size in (8e6, 400e6):
        here = folder / str(size)
        here.mkdir()
        path = large.make(here, size, files=2)
        for verb, given in (
            ("plan", (path, "-o", here / "plan.json", "--ratio", "0.3", "--json")),
            ("apply", (path, here / "plan.json", "-o", here / "pruned.onnx", "--no-verify")),
        ):
            command = ("-m", "onnxprune", verb, *map(str, given))
            more = ("--no-benchmark", "--json") if verb == "apply" else ()
            took, _ = large.measured(*command, *more)
            held[verb, size] = took["megabytes"]
    written = sum(file.stat().st_size for file in large.files_of(here / "pruned.onnx"))
    assert written > 150e6
    largest = 4 * 16 * 512 * 512 / 1e6
    for verb in ("plan", "apply"):
        assert held[verb, 400e6] - held[verb, 8e6] < 3 * largest + 32, held
