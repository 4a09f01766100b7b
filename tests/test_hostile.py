"""Files that lie, and what we stand on failing: one clear line, a documented code, no harm done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import trust
from onnxprune.cli import watch
from onnxprune.errors import BrokenModel, CheckFailed, UnsupportedModel
from onnxprune.external import stored_bytes
from onnxprune.infer import infer
from onnxprune.integrity import check
from onnxprune.loading import load
from onnxprune.tables import built_in
from tests.damage.cases import Corpus, execute
from tests.damage.forkserver import run_forked
from tests.graphs import make, node, perceptron, two_convs, weight
from tests.test_cli import contents, invoke, refused
from tests.test_cli import execute as command

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
QUICK = ["--no-benchmark"]


def save_external(folder: Path, channels: int = 64) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save_model(
        two_convs(channels),
        folder / "model.onnx",
        **{"save_as_external_data": True, "location": "w.bin", "size_threshold": 0},
    )
    return folder / "model.onnx"


def edited(path: Path, **entries: str) -> Path:
    """The model with other entries for the external data of its first tensor."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


# -- sizes that are claimed ----------------------------------------------------------------------


def claiming(*dims: int, **fields: Any) -> TensorProto:
    return TensorProto(name="w1", data_type=TensorProto.FLOAT, dims=dims, **fields)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (claiming(10**6, 10**6, 1, 1), "should have 1000000000000 values and has 0"),
        (claiming(10**6, 10**6, 1, 1, raw_data=b"1234"), "should have 4000000000000 bytes"),
        (claiming(8, 3, 3, 3, float_data=[1.0]), "should have 216 values and has 1"),
        (claiming(-8, 3, 3, 3), "negative dimension"),
        (claiming(-8, -3, 3, 3, raw_data=bytes(864)), "negative dimension"),
        (claiming(2**62, 2**62, 3, 3), "and has 0"),
        (claiming(0, 2**62, raw_data=b""), "a dimension that is none"),
        (claiming(2**63 - 1, 2, 1, 1, raw_data=b""), "and has 0"),
        (TensorProto(name="w1", dims=[8, 3, 3, 3]), "unknown element type 0"),
        (TensorProto(name="w1", dims=[8], data_type=TensorProto.STRING), "8 values and has 0"),
        (TensorProto(name="w1", dims=[8], data_type=99), "unknown element type 99"),
    ],
)
def test_sizes_are_checked_before_memory_is_taken(
    tmp_path: Path, tensor: TensorProto, words: str
) -> None:
    model = two_convs()
    model.graph.initializer[0].CopyFrom(tensor)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BrokenModel, match=words) as caught:
        onnxprune.inspect(path)
    assert "'w1'" in str(caught.value)


@pytest.mark.parametrize("kind", ["TENSOR", "GRAPH", "SPARSE_TENSOR"])
def test_an_attribute_has_the_value_that_its_type_says(tmp_path: Path, kind: str) -> None:
    model = two_convs()
    code = onnx.AttributeProto.AttributeType.Value(kind)
    model.graph.node[0].attribute.add(name="group", type=code)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BrokenModel, match=f"'group' has the type {kind}, and no value"):
        onnxprune.inspect(path)


@pytest.mark.parametrize(
    ("name", "elements", "values", "entries", "raw"),
    [
        ("FLOAT", 5, "float_data", 5, 20),
        ("FLOAT16", 5, "int32_data", 5, 10),
        ("BFLOAT16", 5, "int32_data", 5, 10),
        ("DOUBLE", 5, "double_data", 5, 40),
        ("COMPLEX64", 5, "float_data", 10, 40),
        ("BOOL", 5, "int32_data", 5, 5),
        ("UINT64", 5, "uint64_data", 5, 40),
        ("INT4", 5, "int32_data", 3, 3),
        ("UINT4", 6, "int32_data", 3, 3),
        ("FLOAT4E2M1", 5, "int32_data", 3, 3),
        ("FLOAT8E4M3FN", 5, "int32_data", 5, 5),
        ("INT2", 5, "int32_data", 2, 2),
        ("FLOAT6E2M3", 5, "int32_data", 5, 4),
    ],
)
def test_every_type_has_its_size(
    name: str, elements: int, values: str, entries: int, raw: int
) -> None:
    """As many bytes, and as many entries of a typed field, as onnx itself reads."""
    if name not in TensorProto.DataType.keys():  # noqa: SIM118  (a wrapper, no dict)
        pytest.skip(f"this onnx has no {name}")
    kind = TensorProto.DataType.Value(name)
    tensor = TensorProto(name="t", data_type=kind, dims=[elements], raw_data=bytes(raw))
    assert stored_bytes(tensor) == raw
    assert numpy_helper.to_array(tensor).size == elements
    typed = TensorProto(name="t", data_type=kind, dims=[elements])
    getattr(typed, values).extend([0] * entries)
    assert numpy_helper.to_array(typed).size == elements
    for each in (tensor, typed):
        model = make([node("Identity", ["t"], ["y"])], {}, {"y": [elements]}, [each])
        check(model, Path("."), 0)
        each.dims[0] += 8
        model = make([node("Identity", ["t"], ["y"])], {}, {"y": [elements]}, [each])
        with pytest.raises(BrokenModel, match="should have"):
            check(model, Path("."), 0)


@pytest.mark.parametrize("dims", [[10**12], [5 * 10**8], [10**5, 10**4]])
def test_a_sparse_tensor_that_would_fill_the_memory(dims: list[int]) -> None:
    model = two_convs()
    sparse = model.graph.sparse_initializer.add(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "indices"))
    with pytest.raises(BrokenModel, match=r"'sparse'.*more than can be meant"):
        load(model)


def test_an_input_that_would_fill_the_memory(tmp_path: Path) -> None:
    model = two_convs()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 10**12
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModel, match="too large to be"):
        onnxprune.prune(tmp_path / "model.onnx", benchmark=False)


@pytest.mark.parametrize("kind", ["power", "products", "broadcast"])
def test_arithmetic_on_sizes_that_grows_without_end(kind: str) -> None:
    """Python's integers have no end: 10^9 to the power of 10^9 would take a year."""
    nodes, last = [], "big"
    if kind == "power":
        nodes.append(node("Pow", ["big", "big"], ["end"]))
    elif kind == "products":
        for i in range(64):
            nodes.append(node("Mul", [last, last], [f"p{i}"]))
            last = f"p{i}"
        nodes.append(node("Identity", [last], ["end"]))
    else:
        nodes.append(node("Reshape", ["many", "column"], ["c"]))
        nodes.append(node("Add", ["many", "c"], ["end"]))
    nodes.append(node("Reshape", ["x", "end"], ["xx"]))
    model = perceptron()
    for at, each in enumerate(nodes):
        model.graph.node.insert(at, each)
    model.graph.node[len(nodes)].input[0] = "xx"
    for name, value in (
        ("big", np.array([10**9])),
        ("many", np.arange(4096)),
        ("column", np.array([4096, 1])),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value.astype(np.int64), name))
    start = time.monotonic()
    load(model)
    onnxprune.inspect(model)
    assert time.monotonic() - start < 5


# -- external data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("pipe", "a device or a pipe"),
        ("zero", "leaves the model's folder"),
        ("/dev/zero", "leaves the model's folder"),
        ("loop/w.bin", "is missing"),
        ("w\0.bin", "is missing"),
        ("w" * 5000, "is missing"),
        ("..", "leaves the model's folder"),
        (".", "a folder"),
    ],
)
def test_external_data_that_is_no_file_of_the_folder(
    tmp_path: Path, location: str, words: str
) -> None:
    path = edited(save_external(tmp_path / "in"), location=location)
    os.mkfifo(tmp_path / "in" / "pipe")
    (tmp_path / "in" / "zero").symlink_to("/dev/zero")
    (tmp_path / "in" / "loop").symlink_to("loop")
    with pytest.raises(BrokenModel, match=words):
        onnxprune.inspect(path)
    if "/dev/" not in location and location != "zero":
        return
    # A device is none with the flag, either.
    with trust.trusting(outside_data=True), pytest.raises(BrokenModel, match="device"):
        onnxprune.inspect(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": "99999999999999999999"}, "does not hold"),
        ({"offset": "-4096"}, "does not hold"),
        ({"length": "-1"}, "does not hold"),
        ({"length": "99999999999999999999"}, "does not hold"),
        ({"offset": "4"}, "'w1' and 'b1' overlap in 'w.bin'"),
        ({"offset": "0x10"}, "does not hold"),
    ],
)
def test_places_in_a_data_file(tmp_path: Path, entries: dict[str, str], words: str) -> None:
    path = edited(save_external(tmp_path), **entries)
    with pytest.raises(BrokenModel, match=words):
        onnxprune.inspect(path)


def test_entries_that_are_not_text(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"location", b"loc\xff\xfeion", 1))
    with pytest.raises(BrokenModel, match=r"'w1'.* not text"):
        onnxprune.inspect(path)


def test_only_the_bytes_of_a_tensor_are_read(tmp_path: Path) -> None:
    """Where no length is given, onnx reads all of the file that follows."""
    path = save_external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        kept = [e for e in tensor.external_data if e.key != "length"]
        copies = [(e.key, e.value) for e in kept]
        del tensor.external_data[:]
        for key, value in copies:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    with open(tmp_path / "w.bin", "ab") as file:
        file.truncate(1 << 40)  # a hole: no disk is taken
    found = load(path)
    for name, value in numpy_values(two_convs(64)).items():
        assert np.array_equal(found.read(name), value)


def numpy_values(model: ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("where", ["function", "tensors of an attribute", "sparse"])
def test_external_data_is_checked_wherever_it_stands(tmp_path: Path, where: str) -> None:
    outside = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    model = two_convs(domains={"own": 1})
    if where == "sparse":
        sparse = model.graph.sparse_initializer.add(dims=[1])
        sparse.values.CopyFrom(outside)
        sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64)))
    elif where == "function":
        inner = [node("Constant", [], ["c"], value=outside), node("Add", ["x", "c"], ["y"])]
        opsets = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", "F", ["x"], ["y"], inner, opsets))
    else:
        model.graph.node[0].attribute.add(name="t", type=9).tensors.append(outside)
    with pytest.raises(BrokenModel, match=r"leaves the model's folder|has external data"):
        load(model)


def linked(tmp_path: Path) -> Path:
    """A model whose data is a link to another folder: how caches of downloads keep it."""
    path = save_external(tmp_path / "in")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    os.replace(tmp_path / "in" / "w.bin", blobs / "0123")
    (tmp_path / "in" / "w.bin").symlink_to(blobs / "0123")
    return path


def test_outside_data_with_the_flag(tmp_path: Path) -> None:
    path, output = linked(tmp_path), tmp_path / "out.onnx"
    refused(command("prune", path, "-o", output, *QUICK), 4, "--allow-outside-data")
    result = command("prune", path, "-o", output, "--allow-outside-data", *QUICK)
    assert result.returncode == 0 and "Certified" in result.stderr, result.stderr
    plain = tmp_path / "plain.onnx"
    onnx.save(two_convs(64), plain)
    onnxprune.prune(plain, benchmark=False).save(tmp_path / "expected.onnx")
    got, expected = (numpy_values(onnx.load(tmp_path / f"{n}.onnx")) for n in ("out", "expected"))
    assert all(np.array_equal(got[name], expected[name]) for name in expected)
    for arguments in (["compare", path, plain], ["bench", path, "--seconds", "0.05"]):
        assert command(*arguments, "--allow-outside-data").returncode == 0
        refused(command(*arguments), 4, "leaves the model's folder")


def test_max_bytes_counts_all_files(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    own, data = path.stat().st_size, (tmp_path / "w.bin").stat().st_size
    for verb in (["inspect"], ["prune", "-o", tmp_path / "o.onnx", *QUICK]):
        refused(invoke(*verb, path, "--max-bytes", str(own - 1)), 3, f"{own:,} bytes")
        refused(invoke(*verb, path, "--max-bytes", str(own + data - 1)), 3, f"{own + data:,}")
    assert invoke("inspect", path, "--max-bytes", str(own + data)).exit_code == 0
    assert invoke("inspect", path, "--max-bytes", "1.5 GB").exit_code == 0
    for wrong in ("much", "-1", "1 XB"):
        assert invoke("inspect", path, "--max-bytes", wrong).exit_code == 2
    assert trust.trust() == trust.Trust(), "a flag holds for its command alone"


# -- files that are none -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["prune", "inspect", "compare"])
def test_a_pipe_or_a_device_is_no_model(tmp_path: Path, verb: str) -> None:
    """It is not opened: that would wait for ever, or read without end."""
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name in ("pipe.onnx", "zero.onnx"):
        path = tmp_path / name
        more = {"prune": ["-o", tmp_path / "o.onnx"], "compare": [path]}.get(verb, [])
        refused(command(verb, path, *more), 4, "a device or a pipe")


# -- nesting -------------------------------------------------------------------------------------


def nested(depth: int, names: Callable[[int], str]) -> ModelProto:
    """A model behind Ifs within Ifs, each of which has two branches."""

    def body(nodes: list[Any], output: str) -> GraphProto:
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "body", [], [out])

    inner = body([node("Identity", ["x"], ["end"])], "end")
    for i in range(depth):
        name = names(i)
        other = body([node("Identity", ["x"], ["other"])], "other")
        branches = {"then_branch": inner, "else_branch": other}
        inner = body([node("If", ["yes"], [name], **branches)], name)
    model = two_convs()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, node("If", ["yes"], ["xx"], then_branch=inner, else_branch=inner))
    model.graph.node[1].input[0] = "xx"
    return model


def test_ifs_within_ifs(tmp_path: Path) -> None:
    onnx.save(nested(20, lambda i: f"z{i}"), tmp_path / "model.onnx")
    result = command("prune", tmp_path / "model.onnx", "-o", tmp_path / "o.onnx", *QUICK)
    assert result.returncode in (0, 3), result.stderr


def test_nesting_beyond_what_protobuf_reads(tmp_path: Path) -> None:
    """Bytes by hand: protobuf makes no such file, and reads none."""
    data = two_convs().SerializeToString()
    inner = b""
    for _ in range(5000):
        for field in (
            6 << 3 | 2,
            5 << 3 | 2,
            1 << 3 | 2,
        ):  # attribute.g, node.attribute, graph.node
            inner = bytes([field]) + _varint(len(inner)) + inner
    (tmp_path / "model.onnx").write_bytes(data + b"\x3a" + _varint(len(inner)) + inner)
    refused(command("inspect", tmp_path / "model.onnx"), 4, "not a readable ONNX file")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes(found) + bytes([value])


def test_thousands_of_bodies_with_the_same_names() -> None:
    """Names are made unique in linear time."""
    model = two_convs()
    body = helper.make_graph(
        [node("Identity", ["x"], ["same"])],
        "body",
        [],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    for i in range(4000):
        each = node("If", ["yes"], [f"out{i}"], then_branch=body, else_branch=body)
        model.graph.node.insert(0, each)
    start = time.monotonic()
    load(model)
    assert time.monotonic() - start < 5


def with_functions(bodies: dict[str, list[str]]) -> ModelProto:
    """Functions by name, each of which calls others one after the other."""
    model = two_convs(domains={"own": 1})
    for name, called in bodies.items():
        steps = ["x", *(f"t{i}" for i in range(len(called) - 1)), "y"]
        nodes = [
            node(each, [steps[i]], [steps[i + 1]], domain="own" * (each in bodies))
            for i, each in enumerate(called)
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
    model.graph.node.insert(0, node(next(iter(bodies)), ["x"], ["xx"], domain="own"))
    model.graph.node[1].input[0] = "xx"
    return model


def test_functions_that_unfold_without_end() -> None:
    bomb = {f"F{i}": [f"F{i + 1}"] * 2 for i in range(40)} | {"F40": ["Relu"]}
    with pytest.raises(BrokenModel, match="unfold into"):
        load(with_functions(bomb))
    with pytest.raises(BrokenModel, match="'F' calls itself"):
        load(with_functions({"F": ["F"]}))
    with pytest.raises(BrokenModel, match="calls itself"):
        load(with_functions({"F": ["G"], "G": ["Relu", "F"]}))
    with pytest.raises(BrokenModel, match="deep"):
        load(with_functions({f"F{i}": [f"F{i + 1}"] for i in range(5000)} | {"F5000": ["Relu"]}))
    assert load(with_functions({"F": ["G", "G"], "G": ["Relu"]})).nodes


# -- code ----------------------------------------------------------------------------------------


def test_a_file_of_options_runs_no_code(tmp_path: Path) -> None:
    onnx.save(two_convs(), tmp_path / "model.onnx")
    (tmp_path / "own.py").write_text("open('ran', 'w').close()\ndef f(session): return 1.0\n")
    for text, words in (
        ('eval = "own:f"', "runs no code"),
        ('custom-ops = ["own.so"]', "no option"),
        ("allow-outside-data = true", "no option"),
    ):
        (tmp_path / "pyproject.toml").write_text(f"[tool.onnxprune.prune]\n{text}\n")
        refused(command("prune", "model.onnx", "-o", "o.onnx", cwd=tmp_path), 2, words)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "o.onnx").exists()


def test_a_library_of_operators_that_is_none(tmp_path: Path) -> None:
    onnx.save(two_convs(), tmp_path / "model.onnx")
    (tmp_path / "ops.so").write_bytes(b"not a library")
    arguments = ["prune", tmp_path / "model.onnx", "-o", tmp_path / "o.onnx", "--custom-ops"]
    refused(command(*arguments, tmp_path / "ops.so"), 2, "can't load this library")
    assert command(*arguments, tmp_path / "gone.so").returncode == 2


# -- faults in what we stand on ------------------------------------------------------------------

FAULTS = """
import ctypes, os, signal
def crash(session): ctypes.string_at(0)
def abort(session): os.abort()
def hang(session): ctypes.CDLL(None).sleep(60)
def kill(session): os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(two_convs(), tmp_path / "model.onnx")
    (tmp_path / "faults.py").write_text(FAULTS)
    return tmp_path / "model.onnx"


@forks
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", r"crashed \(SIGSEGV\) \(stage: evaluate\); nothing was written"),
        ("abort", r"crashed \(SIGABRT\) \(stage: evaluate\); nothing was written"),
        ("kill", "killed .*memory.*nothing was written"),
        ("hang", r"not done within --timeout \(stage: evaluate\)"),
    ],
)
def test_a_process_that_dies_is_a_message(model: Path, fault: str, words: str) -> None:
    more = ["--timeout", "4"] if fault == "hang" else []
    start = time.monotonic()
    result = command(
        *("prune", model.name, "-o", "o.onnx", "--eval", f"faults:{fault}", *QUICK, *more),
        cwd=model.parent,
    )
    refused(result, 1, words)
    assert time.monotonic() - start < 20
    assert not (model.parent / "o.onnx").exists()


@pytest.mark.parametrize(
    ("stage", "advised"), [("read axes", "damaged"), ("certify", "--no-verify")]
)
def test_what_is_advised_after_a_crash_is_of_use_at_its_stage(stage: str, advised: str) -> None:
    code, text = watch._ending(signal.SIGABRT, stage)
    assert code == 1 and f"(stage: {stage})" in text
    assert [each for each in ("damaged", "--no-verify") if each in text] == [advised]


def test_a_loop_without_end_meets_the_time_limit(tmp_path: Path) -> None:
    """Also inside of onnxruntime, where no signal handler of Python's would be called."""
    body = helper.make_graph(
        [node("Identity", ["on"], ["on2"]), node("Identity", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on2", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, None),
        ],
    )
    model = two_convs()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(0, node("Loop", ["", "yes", "x"], ["xx"], body=body))
    model.graph.node[1].input[0] = "xx"
    onnx.save(model, tmp_path / "model.onnx")
    result = command(
        *("prune", tmp_path / "model.onnx", "-o", tmp_path / "o.onnx", "--timeout", "4", *QUICK)
    )
    refused(result, 1, "not done within --timeout")
    assert set(contents(tmp_path)) == {"model.onnx"}


ENDING = """
import atexit
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
def f(session):
    atexit.register(lambda: open("left", "w").close())
    pool.submit(print, "from a thread")
    return 1.0
"""


def test_the_command_ends_as_the_interpreter_does(model: Path) -> None:
    """Threads are waited for, and what was registered for the end is done."""
    (model.parent / "ending.py").write_text(ENDING)
    arguments = ["prune", model.name, "-o", "o.onnx", "--eval", "ending:f", *QUICK]
    result = command(*arguments, cwd=model.parent)
    assert result.returncode == 0, result.stderr
    assert "from a thread" in result.stdout
    assert (model.parent / "left").exists() and (model.parent / "o.onnx").exists()


def test_a_full_stdout_is_no_success() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "onnxprune", "rules", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert result.returncode == 1 and b"No space left" in result.stderr


@forks
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_the_command_ends_when_it_is_told_to(model: Path, name: str) -> None:
    """Both processes do: what waits, and what works."""
    arguments = ["prune", model.name, "-o", "o.onnx", "--eval", "faults:hang", *QUICK]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxprune", *arguments],
        cwd=model.parent,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    else:
        process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=20)
    expected = {"SIGTERM": 143, "SIGINT": 130, "SIGKILL": -signal.SIGKILL}
    assert process.returncode == expected[name], said
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        raise AssertionError("a process is left")
    assert not (model.parent / "o.onnx").exists()


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    """Equal NaN prove nothing."""
    model = two_convs()
    value = numpy_helper.to_array(model.graph.initializer[0]).copy()
    value[0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w1"))
    with pytest.raises(CheckFailed, match=r"'y' of the original is NaN .*'w1' holds NaN") as caught:
        onnxprune.prune(model, benchmark=False)
    assert "report" not in str(caught.value)
    assert onnxprune.prune(model, verify=False, benchmark=False).model


def test_a_pruned_model_that_gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxprune import work

    real = work.rewrite

    def damaged(*arguments: Any, **options: Any) -> ModelProto:
        pruned = real(*arguments, **options)
        value = numpy_helper.to_array(pruned.graph.initializer[0]).copy()
        value[0] = np.nan
        pruned.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w1"))
        return pruned

    monkeypatch.setattr(work, "rewrite", damaged)
    with pytest.raises(CheckFailed, match="'y' of the pruned model has NaN"):
        onnxprune.prune(two_convs(), benchmark=False)


def test_a_model_for_positive_inputs_is_checked_on_such() -> None:
    model = two_convs()
    model.graph.node.insert(0, node("Log", ["x"], ["xx"]))
    model.graph.node[1].input[0] = "xx"
    certificate = onnxprune.prune(model, benchmark=False).report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    assert "from 0 to 255" in certificate.inputs


def test_what_the_checker_refuses_is_no_fault_of_ours() -> None:
    """A rule stumbles over an attribute of another type: the file is what is wrong."""
    model = make(
        [
            node("ConstantOfShape", ["s"], ["c"]),
            node("Add", ["x", "c"], ["a"]),
            node("MatMul", ["a", "w"], ["y"]),
        ],
        {"x": [2, 6]},
        {"y": [2, 4]},
        {"w": weight("w", 6, 4), "s": np.array([2, 6], np.int64)},
    )
    model.graph.node[0].attribute.append(helper.make_attribute("value", [1, 2]))
    with pytest.raises(onnxprune.OnnxPruneError) as caught:
        onnxprune.prune(model, benchmark=False)
    assert caught.value.exit_code in (3, 4)


# -- mutations -----------------------------------------------------------------------------------


@forks
@pytest.mark.slow
def test_damaged_files(tmp_path: Path) -> None:
    """The short version of `tox -e hostile`: small files, damaged at random."""
    corpus = Corpus.gathered(largest=60_000)
    found = set()
    for seed in range(200):
        outcome = execute(corpus, seed, tmp_path)
        assert outcome.trouble is None, (seed, outcome.text[-2000:])
        found.add(outcome.code)
    assert {0, 3, 4} <= found, "the damage is too little, or too much"


@forks
def test_the_fork_server_tells_every_ending(tmp_path: Path) -> None:
    def fail() -> int:
        raise RuntimeError("unforeseen")

    def hang() -> int:
        time.sleep(60)
        return 0

    def fill() -> int:
        return len(np.ones(1 << 32))

    def kill() -> int:
        os.kill(os.getpid(), signal.SIGSEGV)
        return 0

    log = tmp_path / "log"
    assert run_forked(lambda: 3, log).trouble is None
    assert run_forked(fail, log).trouble == "fault"
    assert "unforeseen" in log.read_text()
    assert run_forked(hang, log, seconds=0.2).trouble == "hang"
    assert run_forked(kill, log).trouble == "crash (SIGSEGV)"
    assert run_forked(fill, log).trouble == "fault"


def test_a_seed_gives_the_same_file_again() -> None:
    corpus = Corpus([two_convs().SerializeToString(), perceptron().SerializeToString()])
    made = [corpus.damaged(random.Random(seed)) for seed in range(50)]
    assert made == [corpus.damaged(random.Random(seed)) for seed in range(50)]
    assert len(set(made)) > 40


@pytest.mark.parametrize("operator", ["Unsqueeze", "Reshape", "Expand"])
def test_more_axes_than_an_array_can_have(operator: str) -> None:
    """A size with 128 axes of one: it is no value that could be followed."""
    second = np.arange(128) if operator == "Unsqueeze" else np.ones(128)
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"]),
            node(operator, ["batch", "second"], ["deep"]),
            node("Neg", ["deep"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            "w1": weight("w1", 6, 8),
            "w2": weight("w2", 8, 4),
            "zero": np.array(0, np.int64),
            "second": second.astype(np.int64),
        },
    )
    assert onnxprune.plan(model).kept


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_whole_numbers_where_an_operator_takes_floats(name: str) -> None:
    """Such a convolution runs nowhere; planning looks at weights, and must not trip over them."""
    model = two_convs()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            whole = np.ones(tensor.dims, np.int32)
            tensor.CopyFrom(numpy_helper.from_array(whole, name))
    plan = onnxprune.plan(model)
    with pytest.raises(UnsupportedModel):
        onnxprune.apply(model, plan)


def test_a_size_below_zero() -> None:
    """An array of minus one elements: what is known of it is nothing."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
            node("ConstantOfShape", ["less"], ["none"]),
            node("Neg", ["none"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            "w1": weight("w1", 6, 8),
            "w2": weight("w2", 8, 4),
            "less": np.array([-1], np.int64),
        },
    )
    assert onnxprune.plan(model).kept


def test_a_size_that_no_tensor_has() -> None:
    """A Reshape to 2^40: nothing may list the positions of such an axis."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("MatMul", ["h", "w2"], ["y"]),
            node("Reshape", ["x", "long"], ["wide"]),
            node("MatMul", ["wide", "w3"], ["g"]),
            node("MatMul", ["g", "w4"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4], "z": None},  # type: ignore[dict-item]
        {
            "w1": weight("w1", 6, 8),
            "w2": weight("w2", 8, 4),
            "w3": weight("w3", 6, 8),
            "w4": weight("w4", 8, 4),
            "long": np.array([-1, 2**40, 6], np.int64),
        },
    )
    assert "w1" in onnxprune.plan(model).kept
    (why,) = [r for _, r in infer(load(model), built_in()).refused]
    assert "1099511627776 elements" in why
