"""The command line: every verb, what goes where, and what bad input leads to."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper

import onnxprune
from onnxprune import saving, work
from onnxprune.cli import main
from onnxprune.words import counted, near
from tests.graphs import assert_same, make, node, perceptron, shapes, two_convs, weight
from tests.test_selection import tiny

IMAGE = {"x": weight("image", 2, 3, 8, 8)}
#: Faster: nothing that is tested here depends on times.
QUICK = ["--no-benchmark"]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def execute(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real thing, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "onnxprune", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    """All files in a folder and below."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(result: Any, code: int, words: str) -> None:
    """The exit code, one clear line on stderr, nothing on stdout, no traceback."""
    status = result.exit_code if isinstance(result, Result) else result.returncode
    lines = result.stderr.strip().splitlines()
    assert status == code, result.stderr
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.stderr and "a fault of" not in result.stderr
    assert not result.stdout
    if lines[0].startswith("Usage:"):
        # click's own: the usage, a hint, an empty line, and one line with the reason.
        assert lines[-1].startswith("Error: ") and len(lines) <= 4
    else:
        assert len(lines) == 1 and lines[0].startswith("onnxprune: ")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(two_convs(), path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where outputs go: a folder of their own, so that what is left behind is seen."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "pruned.onnx"


# -- what each verb does -------------------------------------------------------------------------


def test_prune(model: Path, out: Path) -> None:
    result = invoke("prune", model, "-o", out, *QUICK)
    assert result.exit_code == 0
    assert not result.stdout
    for words in ("parameters", "MACs", "bytes", "1 of 1 group pruned", "Certified", str(out)):
        assert words in result.stderr
    assert shapes(onnx.load(out))["w1"] == (4, 3, 3, 3)
    assert list(contents(out.parent)) == ["pruned.onnx"]


def test_prune_measures_latency(model: Path, out: Path) -> None:
    result = invoke("prune", model, "-o", out)
    assert result.exit_code == 0
    assert "latency, median" in result.stderr and "paired rounds" in result.stderr


def test_options_mean_what_they_mean_in_python(model: Path, out: Path) -> None:
    plan = out.with_name("plan.json")
    arguments = ["--ratio", "0.3", "--round-to", "2", "--criterion", "group-l1", "--scope"]
    arguments += ["global", "--reduction", "max", "--normalizer", "sum", "--max-ratio", "0.9"]
    arguments += ["--include", "w*", "--exclude", "b2", "--only", "channels", "--exact-only"]
    # b2 belongs to the last layer: its input, the only group, stays as it is.
    refused(invoke("plan", model, "-o", plan, *arguments), 3, "--exclude")
    arguments = [each for each in arguments if each not in ("--exclude", "b2")]
    assert invoke("plan", model, "-o", plan, *arguments).exit_code == 0
    expected = onnxprune.plan(
        model,
        **{"ratio": 0.3, "round_to": 2, "criterion": "group-l1", "scope": "global"},
        **{"reduction": "max", "normalizer": "sum", "max_ratio": 0.9, "include": ["w*"]},
        **{"only": ["channels"], "exact_only": True},
    )
    assert plan.read_text() == expected.to_json()


def test_plan_and_apply_are_prune(model: Path, out: Path) -> None:
    plan, other = out.with_name("plan.json"), out.with_name("other.onnx")
    made = invoke("plan", model, "-o", plan)
    assert made.exit_code == 0 and not made.stdout and "w1" in made.stderr
    applied = invoke("apply", model, plan, "-o", other, *QUICK)
    assert applied.exit_code == 0 and not applied.stdout and "Certified" in applied.stderr
    again = out.with_name("again.json")
    assert invoke("prune", model, "-o", out, "--plan-out", again, *QUICK).exit_code == 0
    assert again.read_bytes() == plan.read_bytes()
    assert other.read_bytes() == out.read_bytes()


def test_inspect(model: Path) -> None:
    result = invoke("inspect", model)
    assert result.exit_code == 0 and not result.stderr
    for words in ("w1", "channels", "exact", "model's output"):
        assert words in result.stdout
    assert invoke("inspect", model, "--all").exit_code == 0


def test_compare(model: Path, out: Path) -> None:
    onnx.save(onnxprune.permute(model), out)
    same = invoke("compare", model, out)
    assert same.exit_code == 0 and "same" in same.stdout
    onnx.save(two_convs(6), out)
    differs = invoke("compare", model, out)
    assert differs.exit_code == 1 and "differs" in differs.stdout
    assert invoke("compare", model, out, "--atol", "1e9").exit_code == 0
    onnx.save(perceptron(), out)
    foreign = invoke("compare", model, out, "--json")
    assert foreign.exit_code == 1 and json.loads(foreign.stdout)["interface"]


def test_bench(model: Path) -> None:
    alone = invoke("bench", model, "--seconds", "0.05")
    assert alone.exit_code == 0 and "median" in alone.stdout
    pair = invoke("bench", model, model, "--seconds", "0.05", "--input-shapes", "x:2,3,8,8")
    assert pair.exit_code == 0 and "paired ratio" in pair.stdout


def test_rules(model: Path, tmp_path: Path) -> None:
    everything = invoke("rules")
    assert everything.exit_code == 0
    assert "LayerNormalization" in everything.stdout and "com.microsoft." in everything.stdout
    one = invoke("rules", "Conv")
    assert one.exit_code == 0 and "(g o) i" in one.stdout
    missing = invoke("rules", "--missing", model)
    assert missing.exit_code == 0 and "every operator" in missing.stdout
    refused(invoke("rules", "Convolution"), 2, "Convolution")


def test_rules_coverage() -> None:
    """Also the test that fails when onnx or onnxruntime knows an operator that no table has."""
    shown = invoke("rules", "--coverage")
    assert shown.exit_code == 0 and "com.microsoft" in shown.stdout
    assert "unknown:" not in shown.stdout, shown.stdout
    found = json.loads(invoke("rules", "--coverage", "--json").stdout)
    assert {"ai.onnx", "ai.onnx.ml", "com.microsoft"} <= found.keys()
    assert "Conv" in found["ai.onnx"]["pattern"] and found["ai.onnx"]["operators"] >= 200
    for domain, counts in found.items():
        assert counts["unknown"] == [], domain


def foreign() -> ModelProto:
    """The first layer is of an operator that nobody knows."""
    model = two_convs(domains={"own": 1})
    model.graph.node[0].domain, model.graph.node[0].op_type = "own", "Magic"
    del model.graph.node[0].attribute[:]
    return model


def test_rules_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    onnx.save(foreign(), path)
    assert "own.Magic: 1 node\n" in invoke("rules", "--missing", path).stdout
    table = tmp_path / "own.toml"
    table.write_text('["own.Magic"]\naxes = "n i *s, o i *k, o -> n o *s"\nscore = [1]\n')
    assert "every operator" in invoke("rules", "--missing", path, "--rules", table).stdout
    assert "n i *s" in invoke("rules", "own.Magic", "--rules", table).stdout
    table.write_text('["own.Magic"]\naxes = "n i *s, o i *k"\n')
    refused_table = invoke("inspect", path, "--rules", table)
    assert refused_table.exit_code == 2 and "own.Magic" in refused_table.stderr
    refused(invoke("inspect", path, "--rules", tmp_path / "none.toml"), 2, "none.toml")


@pytest.mark.parametrize("verb", ["", *main.commands])
def test_help(verb: str) -> None:
    for flag in ("-h", "--help"):
        result = invoke(*[verb][: bool(verb)], flag)
        assert result.exit_code == 0 and "Usage:" in result.stdout and not result.stderr
    if verb:
        assert f"onnxprune {verb}" in result.stdout  # the example
    else:
        assert "Exit codes" in result.stdout


def test_no_verb_and_unknown_ones(model: Path) -> None:
    assert invoke().exit_code in (0, 2)
    assert invoke("shrink", model).exit_code == 2
    assert invoke("prune", model).exit_code == 2
    assert invoke("prune", model, "-o").exit_code == 2


def test_the_version() -> None:
    assert invoke("--version").stdout.strip() == f"onnxprune, version {onnxprune.__version__}"


# -- streams -------------------------------------------------------------------------------------


def verbs(model: Path, out: Path) -> dict[str, list[str | Path]]:
    plan = out.with_name("made.json")
    onnxprune.plan(model).save(plan)
    return {
        "prune": ["prune", model, "-o", out, *QUICK],
        "plan": ["plan", model, "-o", out.with_name("plan.json")],
        "apply": ["apply", model, plan, "-o", out.with_name("applied.onnx"), *QUICK],
        "inspect": ["inspect", model],
        "compare": ["compare", model, model],
        "bench": ["bench", model, "--seconds", "0.05"],
        "rules": ["rules", "Conv"],
        "missing": ["rules", "--missing", model],
        "coverage": ["rules", "--coverage"],
    }


def test_json_is_one_document_on_stdout_and_nothing_else(model: Path, out: Path) -> None:
    for name, arguments in verbs(model, out).items():
        result = invoke(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        assert not result.stderr
        document = json.loads(result.stdout)
        # What is JSON for Python need not be JSON: NaN and Infinity are none.
        json.dumps(document, allow_nan=False)
        if name in ("prune", "apply"):
            assert document["output"] and document["certificate"]["ok"]
            assert 0 < document["parameters_left"] < 1


def test_json_in_a_real_process_is_not_disturbed_by_the_runtime(tmp_path: Path) -> None:
    """onnxruntime warns of this model: an initializer is unused, a shape declared wrongly."""
    model = two_convs()
    model.graph.value_info.append(helper.make_tensor_value_info("r", 1, ["N", 9, 8, 8]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight("idle", 3), "idle"))
    onnx.save(model, tmp_path / "model.onnx")
    result = execute(
        "prune", tmp_path / "model.onnx", "-o", tmp_path / "out.onnx", *QUICK, "--json"
    )
    assert result.returncode in (0, 3), result.stderr
    if result.returncode == 0:
        assert json.loads(result.stdout)["output"] == str(tmp_path / "out.onnx")
        assert not result.stderr


def test_json_has_no_infinity(tmp_path: Path, model: Path) -> None:
    """A difference that is infinite is null, and still a difference."""
    broken = two_convs()
    value = np.full((4,), np.inf, np.float32)
    broken.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(value, "b2"))
    onnx.save(broken, tmp_path / "inf.onnx")
    result = invoke("compare", model, tmp_path / "inf.onnx", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["ok"] is False


def test_errors_leave_stdout_empty_with_json(out: Path) -> None:
    refused(invoke("prune", out.with_name("none.onnx"), "-o", out, "--json"), 4, "no such file")


def test_tables_go_to_stderr_where_a_file_is_the_result(model: Path, out: Path) -> None:
    for name, arguments in verbs(model, out).items():
        result = invoke(*arguments)
        assert result.exit_code == 0
        if name in ("prune", "plan", "apply"):
            assert not result.stdout and result.stderr
        else:
            assert result.stdout and not result.stderr


def on_terminal(arguments: Sequence[str], **environment: str) -> str:
    """What a terminal of 100 columns would be sent, stdout and stderr alike."""
    pty = pytest.importorskip("pty")
    first, second = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxprune", *arguments],
        stdout=second,
        stderr=second,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    os.close(second)
    sent = b""
    while True:
        try:
            more = os.read(first, 65536)
        except OSError:  # Linux's way of saying that the other end is closed
            break
        if not more:
            break
        sent += more
    os.close(first)
    assert process.wait(60) == 0, sent
    return sent.decode()


def test_no_color(model: Path, out: Path) -> None:
    arguments = ["inspect", str(model)]
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    colours = re.compile(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7]|38;[0-9;]*)m")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment)
        assert "\x1b[" in on_terminal(arguments)
        assert not colours.search(on_terminal(arguments, NO_COLOR="1"))
        shown = on_terminal(["prune", str(model), "-o", str(out), *QUICK], NO_COLOR="1")
    assert not colours.search(shown)
    assert "Certified" in shown


def test_a_pipe_gets_no_escapes_and_no_folded_lines(model: Path) -> None:
    result = execute("inspect", model)
    assert result.returncode == 0 and "\x1b" not in result.stdout


def test_a_closed_pipe_is_no_error(model: Path) -> None:
    command = f"{sys.executable} -m onnxprune rules | head -1"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert not shown.stderr


# -- bad input -----------------------------------------------------------------------------------


def prune_refused(folder: Path, source: str | Path, code: int, words: str, *more: str) -> None:
    """Refused, the input as it was, and nothing new anywhere in the folder."""
    before = contents(folder)
    output = folder / "out.onnx"
    refused(invoke("prune", source, "-o", output, *QUICK, *more), code, words)
    assert contents(folder) == before
    assert not [each for each in folder.iterdir() if each.name.startswith(".onnxprune")]


@pytest.mark.parametrize("verb", ["prune", "plan", "apply", "inspect", "compare", "bench", "rules"])
@pytest.mark.parametrize("kind", ["missing", "directory", "text"])
def test_a_model_that_is_none_is_4_for_every_verb(
    model: Path, out: Path, verb: str, kind: str
) -> None:
    bad = out.with_name("bad.onnx")
    if kind == "directory":
        bad.mkdir()
    elif kind == "text":
        bad.write_text("not a model")
    plan = out.with_name("plan.json")
    onnxprune.plan(model).save(plan)
    before = contents(out.parent)
    words = {"missing": "no such file", "directory": "directory", "text": "not a readable ONNX"}
    arguments: dict[str, list[str | Path]] = {
        "apply": ["apply", bad, plan, "-o", out],
        "compare": ["compare", model, bad],
        "bench": ["bench", bad],
        "inspect": ["inspect", bad],
        "rules": ["rules", "--missing", bad],
    }
    result = invoke(*arguments.get(verb, [verb, bad, "-o", out]))
    refused(result, 4, words[kind])
    assert "bad.onnx" in result.stderr
    assert contents(out.parent) == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"PK\x03\x04\x14\0\0\0\x08\0",
        b"This is no model.\n" * 100,
        b"\x80\x04\x95 pickled",
        b"\0" * 1000,
        b"\xff" * 1000,
        b"\x08\x0a",
        b"<html></html>",
    ],
    ids=["empty", "png", "zip", "text", "pickle", "zeros", "ones", "version", "html"],
)
def test_files_that_are_not_onnx(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    prune_refused(tmp_path, tmp_path / "model.onnx", 4, "model.onnx")


def test_a_model_without_a_graph_or_an_opset(tmp_path: Path) -> None:
    for field in ("graph", "opset_import"):
        model = two_convs()
        model.ClearField(field)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        prune_refused(tmp_path, tmp_path / "model.onnx", 4, "not an ONNX model")


def test_a_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = tiny().SerializeToString()
    for end in range(0, len(data), 3):
        path.write_bytes(data[:end])
        prune_refused(tmp_path, path, 4, "model.onnx")


def test_a_larger_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    data = two_convs().SerializeToString()
    rng = random.Random(0)
    for end in [len(data) - 1, len(data) // 2, *rng.sample(range(len(data)), 20)]:
        path.write_bytes(data[:end])
        prune_refused(tmp_path, path, 4, "model.onnx")


@pytest.mark.parametrize("build", [tiny, perceptron])
def test_flipped_bits(tmp_path: Path, build: Callable[[], ModelProto]) -> None:
    """Whatever a flip makes of the file: a documented exit, and nothing written unless it is 0.

    1 is one of them: a weight that is infinite now makes outputs that are not numbers, and no
    certificate.
    """
    path, output = tmp_path / "model.onnx", tmp_path / "out.onnx"
    data = build().SerializeToString()
    seen = set()
    for seed in range(150):
        rng = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 5])):
            bit = rng.randrange(8 * len(data))
            damaged[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(damaged)
        result = invoke("prune", path, "-o", output, *QUICK)
        seen.add(result.exit_code)
        assert result.exit_code in (0, 1, 3, 4), (seed, result.stderr)
        assert "a fault of" not in result.stderr, (seed, result.stderr)
        assert path.read_bytes() == damaged
        left = {each.name for each in tmp_path.iterdir()} - {"model.onnx"}
        assert left == ({"out.onnx"} if result.exit_code == 0 else set()), seed
        output.unlink(missing_ok=True)
    assert {0, 3, 4} <= seen


def test_names_that_are_not_text(tmp_path: Path) -> None:
    data = two_convs().SerializeToString().replace(b"conv1", b"con\xf9\x31")
    (tmp_path / "model.onnx").write_bytes(data)
    prune_refused(tmp_path, tmp_path / "model.onnx", 4, "not text")


def test_an_unknown_domain(tmp_path: Path) -> None:
    onnx.save(foreign(), tmp_path / "model.onnx")
    prune_refused(tmp_path, tmp_path / "model.onnx", 3, "own.*Magic|Magic.*own")
    # Where the rest of the model can be pruned, onnxruntime still has no such operator.
    model = foreign()
    model.graph.output.append(helper.make_tensor_value_info("z", 1, ["N", 4, 8, 8]))
    model.graph.node.extend(
        [
            node("Conv", ["y", "w3"], ["h"], name="conv3"),
            node("Conv", ["h", "w4"], ["z"], name="conv4"),
        ]
    )
    for name, shape in (("w3", (8, 4, 1, 1)), ("w4", (4, 8, 1, 1))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight(name, *shape), name))
    onnx.save(model, tmp_path / "model.onnx")
    prune_refused(tmp_path, tmp_path / "model.onnx", 3, "Magic")


def external(folder: Path, location: str) -> Path:
    """A model whose first weight is in the file `location`."""
    model = two_convs(64)
    onnx.save_model(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    entries = model.graph.initializer[0].external_data
    next(each for each in entries if each.key == "location").value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("gone.bin", "missing"),
        ("w.bin/../gone.bin", "missing|leaves"),
        ("../w.bin", "leaves the model's folder"),
        ("link.bin", "leaves the model's folder"),
        ("link/w.bin", "leaves the model's folder"),
        ("ABSOLUTE", "leaves the model's folder"),
        ("", "leaves the model's folder"),
        ("folder", "missing"),
    ],
)
@pytest.mark.parametrize("verb", ["prune", "inspect", "bench"])
def test_external_data_that_is_missing_or_outside(
    tmp_path: Path, location: str, words: str, verb: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "folder").mkdir()
    outside = tmp_path / "w.bin"
    location = str(outside) if location == "ABSOLUTE" else location
    path = external(folder, location)
    outside.write_bytes((folder / "w.bin").read_bytes())
    (folder / "link.bin").symlink_to(outside)
    (folder / "link").symlink_to(tmp_path)
    before = contents(tmp_path)
    output = ["-o", folder / "out.onnx"] if verb == "prune" else []
    refused(invoke(verb, path, *output), 4, words)
    assert contents(tmp_path) == before


def test_a_location_that_is_not_text(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    path.write_bytes(path.read_bytes().replace(b"w.bin", b"w\xf9bin"))
    prune_refused(tmp_path, path, 4, "not text")


def test_external_data_that_is_too_short(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-1])
    prune_refused(tmp_path, path, 4, "does not hold")


def test_the_input_s_data_file_is_never_the_output_s(tmp_path: Path) -> None:
    """An output of that name would have its data beside it: where the input's data is."""
    folder = tmp_path / "in"
    folder.mkdir()
    onnx.save_model(
        two_convs(64),
        folder / "model.onnx",
        **{"save_as_external_data": True, "location": "out.onnx.data", "size_threshold": 0},
    )
    for more in ([], ["--force"]):
        prune_refused(folder, folder / "model.onnx", 2, "out.onnx.data", *more)


def test_an_output_is_never_the_input_s_data_file(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    weights, plan = tmp_path / "w.bin", tmp_path / "plan.json"
    onnxprune.plan(path).save(plan)
    before = contents(tmp_path)
    for arguments in (
        ["prune", path, "-o", weights, *QUICK],
        ["prune", path, "-o", tmp_path / "out.onnx", "--plan-out", weights, *QUICK],
        ["plan", path, "-o", weights],
        ["apply", path, plan, "-o", weights],
    ):
        refused(invoke(*arguments, "--force"), 2, "the output is an input")
    with pytest.raises(onnxprune.UsageError, match="the output is an input"):
        onnxprune.prune(path, benchmark=False).save(weights, force=True)
    refused(
        invoke("prune", path, "-o", tmp_path / "o", "--plan-out", tmp_path / "o.data"),
        2,
        "one file",
    )
    assert contents(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_an_output_that_is_no_ordinary_file(model: Path, out: Path) -> None:
    """`-o /dev/null --force` as root would put a file in its place."""
    os.mkfifo(out)
    refused(invoke("prune", model, "-o", out, "--force", *QUICK), 2, "device or a pipe")
    assert out.is_fifo()


def test_a_data_file_that_is_there_is_replaced_with_force_only(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (tmp_path / "out.onnx.data").write_text("precious")
    prune_refused(tmp_path, path, 2, "out.onnx.data.*--force")
    assert invoke("prune", path, "-o", tmp_path / "out.onnx", *QUICK, "--force").exit_code == 0
    assert_same(str(tmp_path / "out.onnx"), onnxprune.prune(path).model, IMAGE, rtol=0)


# -- bad options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        *((["--ratio", value], value) for value in ("0", "1", "-1", "nan", "2", "inf")),
        (["--ratio", "half"], "half"),
        (["--scope", "isomorph"], "isomorph"),
        (["--criterion", "magic"], "magic"),
        (["--reduction", "median"], "median"),
        (["--normalizer", "l1"], "l1"),
        (["--only", "layers"], "layers.*heads"),
        (["--round-to", "0"], "round-to"),
        (["--max-ratio", "0"], "max-ratio"),
        (["--max-ratio", "1.5"], "max-ratio"),
        (["--threads", "0"], "threads"),
        (["--input-shapes", "x"], "NAME:"),
        (["--input-shapes", "x:2,-3"], "NAME:"),
        (["--input-shapes", "x:"], "NAME:"),
        (["--input-shapes", "z:1,3,8,8"], "'z'"),
        (["--input-shapes", "x:1,3,9,8"], "'x'|x"),
        (["--exclude", "w9"], "'w9'.*nearest: .*w1"),
        (["--include", "konv*"], "konv.*conv1"),
        (["--rules", "none.toml"], "none.toml"),
        (["--eval", "none.npz"], "none.npz"),
        (["--no-such-option"], "no-such-option"),
        (["extra"], "extra"),
    ],
    ids=str,
)
def test_options_that_can_not_be(model: Path, more: list[str], words: str) -> None:
    prune_refused(model.parent, model, 2, words, *more)


def test_the_output_is_never_the_input(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model.parent
    (folder / "link.onnx").symlink_to(model)
    (folder / "folder").symlink_to(folder)
    os.link(model, folder / "hard.onnx")
    monkeypatch.chdir(folder)
    before = model.read_bytes()
    names = [model, "model.onnx", "./model.onnx", "link.onnx", "folder/model.onnx", "hard.onnx"]
    for verb in ("prune", "plan"):
        for output in names:
            for more in ([], ["--force"]):
                refused(invoke(verb, model, "-o", output, *more), 2, "is an input")
        refused(invoke(verb, "link.onnx", "-o", "model.onnx", "--force"), 2, "is an input")
    for plan in names:
        options = ["-o", "out.onnx", "--plan-out", plan, "--force"]
        refused(invoke("prune", model, *options), 2, "is an input")
    assert model.read_bytes() == before
    assert {each.name for each in folder.iterdir()} == {
        *("model.onnx", "link.onnx", "hard.onnx", "folder")
    }


def test_a_plan_that_is_applied_is_never_the_output(model: Path, out: Path) -> None:
    plan = out.with_name("plan.json")
    onnxprune.plan(model).save(plan)
    before = plan.read_bytes()
    refused(invoke("apply", model, plan, "-o", plan, "--force"), 2, "is an input")
    assert plan.read_bytes() == before


def test_an_output_that_exists_is_replaced_with_force_only(model: Path, out: Path) -> None:
    out.write_text("precious")
    plan = out.with_name("plan.json")
    plan.write_text("precious, too")
    refused(invoke("prune", model, "-o", out, *QUICK), 2, "--force")
    refused(invoke("plan", model, "-o", plan), 2, "--force")
    fresh = out.with_name("fresh.onnx")
    refused(invoke("prune", model, "-o", fresh, "--plan-out", plan, *QUICK), 2, "--force")
    assert out.read_text() == "precious" and plan.read_text() == "precious, too"
    assert sorted(contents(out.parent)) == ["plan.json", "pruned.onnx"]
    done = invoke("prune", model, "-o", out, "--plan-out", plan, *QUICK, "--force")
    assert done.exit_code == 0
    assert onnxprune.Plan.load(plan).groups
    assert shapes(onnx.load(out))["w1"] == (4, 3, 3, 3)


def test_outputs_that_can_not_be_written_to(model: Path) -> None:
    folder = model.parent
    before = contents(folder)
    for output in (folder / "none" / "out.onnx", model / "out.onnx"):
        refused(invoke("prune", model, "-o", output), 2, "no such directory")
    refused(invoke("prune", model, "-o", folder), 2, "directory")
    refused(invoke("prune", model, "-o", folder / "a", "--plan-out", folder / "a"), 2, "one file")
    refused(
        invoke("prune", model, "-o", folder / "a", "--plan-out", folder / "none" / "b"),
        2,
        "no such directory",
    )
    assert contents(folder) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_is_read_only(model: Path, out: Path) -> None:
    out.parent.chmod(0o555)
    try:
        refused(invoke("prune", model, "-o", out, *QUICK), 1, "can't be written")
        assert not list(out.parent.iterdir())
    finally:
        out.parent.chmod(0o755)


def test_names_that_no_file_can_have(model: Path, out: Path) -> None:
    long = "m" * 300
    refused(invoke("prune", model, "-o", out.with_name(long)), 1, "can't be written")
    refused(invoke("prune", out.with_name(long), "-o", out), 4, "can't be read")
    refused(invoke("inspect", out.with_name(long)), 4, "can't be read")
    refused(invoke("apply", model, out.with_name("plan.json"), "-o", out), 2, "can't be read")
    assert not list(out.parent.iterdir())


def test_a_plan_of_another_model(model: Path, out: Path) -> None:
    plan = out.with_name("plan.json")
    onnxprune.plan(perceptron()).save(plan)
    before = contents(out.parent)
    refused(invoke("apply", model, plan, "-o", out), 2, "'w1'.*another model")
    plan.write_text("{}")
    refused(invoke("apply", model, plan, "-o", out), 2, "not a plan")
    plan.unlink()
    refused(invoke("apply", model, plan, "-o", out), 2, r"plan\.json")
    before.pop("plan.json")
    assert contents(out.parent) == before


# -- models that can't be pruned -----------------------------------------------------------------


def test_a_model_that_is_all_interface_says_so(tmp_path: Path) -> None:
    model = make(
        [node("MatMul", ["x", "w"], ["y"], name="only")],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w": weight("w", 6, 4)},
    )
    onnx.save(model, tmp_path / "model.onnx")
    prune_refused(tmp_path, tmp_path / "model.onnx", 3, "an axis of the model's (input|output)")


def test_a_model_of_positions_says_so(tmp_path: Path) -> None:
    """Softmax over the hidden width: its positions matter, and that is the reason given."""
    model = perceptron()
    model.graph.node[2].op_type = "Softmax"
    onnx.save(model, tmp_path / "model.onnx")
    prune_refused(tmp_path, tmp_path / "model.onnx", 3, "(?i)softmax")


def test_a_model_without_weights_says_so(tmp_path: Path) -> None:
    model = make([node("Relu", ["x"], ["y"])], {"x": ["N", 6]}, {"y": ["N", 6]})
    onnx.save(model, tmp_path / "model.onnx")
    prune_refused(tmp_path, tmp_path / "model.onnx", 3, "no operator of this model has weights")


def test_filters_that_leave_nothing(model: Path) -> None:
    prune_refused(model.parent, model, 3, "--only", "--only", "heads")
    prune_refused(model.parent, model, 3, "larger --ratio", "--ratio", "0.01")


# -- things that go wrong on the way -------------------------------------------------------------


def wrong_weights(*arguments: Any, **options: Any) -> ModelProto:
    """What a faulty rewrite might give: valid, but with the channels of a layer in disorder."""
    pruned = rewrite(*arguments, **options)
    tensor = pruned.graph.initializer[0]
    value = onnx.numpy_helper.to_array(tensor)[::-1]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
    return pruned


rewrite = work.rewrite


def test_a_failed_certificate_writes_nothing(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "rewrite", wrong_weights)
    plan = out.with_name("plan.json")
    refused(invoke("prune", model, "-o", out, "--plan-out", plan, *QUICK), 1, "certificate failed")
    assert not list(out.parent.iterdir())
    # An output that was there before is still what it was.
    out.write_text("precious")
    refused(invoke("prune", model, "-o", out, *QUICK, "--force"), 1, "certificate failed")
    assert contents(out.parent) == {"pruned.onnx": b"precious"}


def test_a_file_that_the_checker_refuses_is_not_left(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invalid(pruned: ModelProto, _: Path) -> None:
        pruned.graph.node[1].output[0] = pruned.graph.node[0].output[0]

    # The last step before writing, so after all the checks of the model in memory.
    monkeypatch.setattr(saving, "inline_all", invalid)
    refused(invoke("prune", model, "-o", out, *QUICK), 1, "checker refuses")
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("moment", ["write", "sync", "move"])
@pytest.mark.parametrize("where", ["inline", "external"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, moment: str, where: str
) -> None:
    path = external(tmp_path, "w.bin") if where == "external" else tmp_path / "model.onnx"
    if where == "inline":
        onnx.save(two_convs(), path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if moment == "write":
        monkeypatch.setattr(saving, "open", full, raising=False)
    elif moment == "sync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    plan = out.with_name("plan.json")
    before = contents(tmp_path)
    result = invoke("prune", path, "-o", out, "--plan-out", plan, *QUICK)
    refused(result, 1, "No space left")
    refused(invoke("plan", path, "-o", plan), 1, "No space left")
    assert contents(tmp_path) == before
    assert not list(out.parent.iterdir())


def test_a_file_size_limit_leaves_nothing(tmp_path: Path, out: Path) -> None:
    """The real thing, as near as can be: the kernel refuses to write more than 8 kB."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "model.onnx"
    onnx.save(two_convs(64), path)
    result = execute(
        *("prune", path, "-o", out, *QUICK),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
    )
    refused(result, 1, "can't be written")
    assert not list(out.parent.iterdir())


INTERRUPTED = """
import os, signal, sys
from onnxprune import saving, work
from onnxprune.cli import main

def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(10**7))  # the signal is delivered between two instructions

target = {"certify": (work, "certify"), "write": (saving, "sync"), "load": (work, "load")}
setattr(*target[sys.argv.pop(1)], interrupt)
main()
"""


@pytest.mark.parametrize("moment", ["load", "certify", "write"])
def test_ctrl_c_leaves_nothing(model: Path, out: Path, moment: str) -> None:
    arguments = ["prune", model, "-o", out, "--plan-out", out.with_name("plan.json"), *QUICK]
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, moment, *map(str, arguments)],
        capture_output=True,
        text=True,
        # A process started in the background would ignore the signal.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        timeout=60,
    )
    refused(result, 130, "interrupted")
    assert not list(out.parent.iterdir())


def test_a_fault_is_one_line_and_with_vv_a_traceback(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("something\nunheard of")

    monkeypatch.setattr(work, "certify", fault)
    for flags in ([], ["-v"]):
        result = invoke(*flags, "prune", model, "-o", out, *QUICK)
        assert result.exit_code == 1
        assert len(result.stderr.strip().splitlines()) == 1
        assert "RuntimeError" in result.stderr and "-vv" in result.stderr
        assert "Traceback" not in result.stderr
    assert isinstance(invoke("-vv", "prune", model, "-o", out, *QUICK).exception, RuntimeError)
    assert not list(out.parent.iterdir())


def test_vv_shows_where_an_error_came_from(out: Path) -> None:
    result = execute("-vv", "prune", out.with_name("none.onnx"), "-o", out)
    assert result.returncode == 4
    assert "Traceback" in result.stderr and "BrokenModel" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("onnxprune: ")


# -- terminals -----------------------------------------------------------------------------------

EVIL = "\x1b[31m\x1b]0;title\x07\x9b2J\r\x08\u202e"


def evil() -> ModelProto:
    """Names that would colour, clear or retitle a terminal, and markup for rich."""
    model = two_convs(domains={"own": 1})
    for each in model.graph.node:
        each.name = f"{each.name}{EVIL}[bold]"
        each.input[:] = [f"{n}{EVIL}[/]" if n[0] in "wb" else n for n in each.input]
    for tensor in model.graph.initializer:
        tensor.name = f"{tensor.name}{EVIL}[/]"
    return model


def assert_harmless(text: str) -> None:
    found = {c for c in text if not c.isprintable() and c != "\n"}
    assert not found, ascii(found)


@pytest.mark.parametrize("json_too", [False, True])
def test_control_characters_never_reach_a_terminal(
    tmp_path: Path, out: Path, json_too: bool
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(evil(), path)
    for arguments in verbs(path, out).values():
        result = invoke(*arguments, *["--json"][:json_too])
        assert result.exit_code == 0, result.stderr
        assert_harmless(result.stdout)
        assert_harmless(result.stderr)
    assert_harmless(invoke("inspect", path, "--all").stdout)


def test_control_characters_in_errors(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "model.onnx"
    model = evil()
    model.graph.node[0].domain, model.graph.node[0].op_type = "own", f"Magic{EVIL}"
    del model.graph.node[0].attribute[:]
    onnx.save(model, path)
    plan = tmp_path / "plan.json"
    onnxprune.plan(two_convs()).save(plan)
    for arguments in (
        ["prune", path, "-o", out],
        ["rules", "--missing", path],
        ["inspect", path],
        ["apply", path, plan, "-o", out],
        ["prune", path, "-o", out, "--exclude", f"w{EVIL}"],
        ["prune", str(path) + EVIL, "-o", out],
    ):
        result = invoke(*arguments)
        assert_harmless(result.stdout)
        assert_harmless(result.stderr)


def test_error_lines_stay_one_line(tmp_path: Path, out: Path) -> None:
    """Line breaks in names, which a message quotes, do not make more of them."""
    model = perceptron()
    model.graph.node[0].input[0] = "r"
    model.graph.node[0].name = "first\nonnxprune: all is well"
    onnx.save(model, tmp_path / "model.onnx")
    refused(invoke("prune", tmp_path / "model.onnx", "-o", out), 4, "cycle")


# -- odds and ends -------------------------------------------------------------------------------


def test_python_m_and_the_script_are_the_same(model: Path, out: Path) -> None:
    assert execute("--version").stdout == f"onnxprune, version {onnxprune.__version__}\n"
    result = execute("prune", model, "-o", out.name, *QUICK, "--json", cwd=out.parent)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["output"] == out.name
    assert sorted(contents(out.parent)) == ["pruned.onnx"]


def test_file_modes_are_those_of_new_files(model: Path, out: Path) -> None:
    """Not those of a temporary file, which nobody else may read."""
    previous = os.umask(0o022)
    try:
        plan = out.with_name("plan.json")
        assert invoke("prune", model, "-o", out, "--plan-out", plan, *QUICK).exit_code == 0
        assert [path.stat().st_mode & 0o777 for path in (out, plan)] == [0o644, 0o644]
    finally:
        os.umask(previous)


def test_file_names_with_spaces_and_other_alphabets(tmp_path: Path) -> None:
    path = tmp_path / "мой модуль [1].onnx"
    onnx.save(two_convs(), path)
    output = tmp_path / "меньше [bold] .onnx"
    result = invoke("prune", path, "-o", output, *QUICK)
    assert result.exit_code == 0 and output.name in result.stderr
    assert output.exists()


def test_eval_reports_accuracy(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(perceptron(), path)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz",
        x=rng.standard_normal((20, 6)).astype(np.float32),
        labels=rng.integers(0, 4, 20),
    )
    data = str(tmp_path / "data.npz")
    result = invoke("prune", path, "-o", out, *QUICK, "--eval", data, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["evaluation"]
    assert found["samples"] == 20 and 0 <= found["after"] <= 1
    table = invoke("prune", path, "-o", out, "--force", *QUICK, "--eval", data)
    assert "top-1 of 20" in table.stderr


def test_integer_inputs_and_dynamic_sizes(tmp_path: Path, out: Path) -> None:
    model = make(
        [
            node("Gather", ["table", "ids"], ["e"]),
            node("MatMul", ["e", "w"], ["y"]),
        ],
        {"ids": ["N", "T"]},
        {"y": ["N", "T", 4]},
        {"table": weight("table", 32, 8), "w": weight("w", 8, 4)},
    )
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, tmp_path / "model.onnx")
    result = invoke(
        *("prune", tmp_path / "model.onnx", "-o", out, *QUICK, "--json"),
        *("--input-shapes", "ids:2,5"),
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["certificate"]["ok"]


def test_counts() -> None:
    assert counted(1, "node") == "1 node" and counted(0, "node") == "0 nodes"
    assert counted(2048, "more node") == "2,048 more nodes"
    assert counted(1.0, "point") == "1 point" and counted(0.5, "point") == "0.5 points"


@pytest.mark.parametrize(
    ("given", "known", "suggested"),
    [
        ("cnv", ["Conv", "Relu"], "; nearest: Conv"),
        ("conv", ["Concat", "Conv"], "; nearest: Conv, Concat"),
        ("*conv1*", ["/layer1/layer1.0/Conv1/Conv", "/fc/Gemm"], "/layer1/layer1.0/Conv1/Conv"),
        ("zorblax", ["Conv", "Relu"], ""),
        ("w", ["weight"], ""),
        ("", ["weight"], ""),
    ],
)
def test_names_that_may_have_been_meant(given: str, known: list[str], suggested: str) -> None:
    found = near(given, known)
    assert found.endswith(suggested) and bool(found) == bool(suggested)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rules", "Cnv"], "no rule for 'Cnv'; nearest: Conv"),
        (["rules", "conv"], "nearest: Conv,"),
        (["rules", "Zorblax"], "called like com.microsoft.FusedConv"),
        (["prnue", "m.onnx"], "there is no verb 'prnue'; nearest: prune"),
        (["bench", "m.onnx", "--treads", "2"], "there is no option --treads; nearest: --threads"),
        (["bench", "m.onnx", "--threads", "two"], "'two'; write a whole number of 1 and more"),
        (["bench", "m.onnx", "--threads", "1.5"], "'1.5'; write a whole number of 1 and more"),
        (["bench", "m.onnx", "--seconds", "nan"], "'nan'; write a number above 0"),
        (["sweep", "m.onnx", "--max-cost", "2"], "'2'; write a number above 0 and up to 1"),
        (["prune", "m.onnx", "--ratio", "half"], "'half'; write a number (see"),
    ],
    ids=str,
)
def test_plain_words_on_what_can_not_be(arguments: list[str], words: str) -> None:
    refused(invoke(*arguments), 2, re.escape(words))


@pytest.mark.parametrize("verb", ["prune", "bench", "compare", "sweep", "sensitivity"])
def test_a_report_is_called_html(model: Path, out: Path, verb: str) -> None:
    places = {"compare": [model], "prune": ["-o", out]}.get(verb, [])
    page = out.with_name("r.txt")
    refused(invoke(verb, model, *places, "--report", page), 2, "ends in .html")
    assert not page.exists() and not out.exists()


def test_summaries_are_not_cut() -> None:
    assert "..." not in invoke("--help").stdout.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("verb", "option", "typed", "offered"),
    [
        ("prune", "--criterion", "group-l", {"group-l1", "group-l2", "group-lp:"}),
        ("sweep", "--criterion", "lamp,bn", {"lamp,bn-scale"}),
        ("sweep", "--scope", "g", {"global"}),
        ("prune", "--scope", "g", {"global"}),
        ("prune", "--metric", "top", {"top-1", "top-5"}),
    ],
)
def test_the_shell_completes_names(verb: str, option: str, typed: str, offered: set[str]) -> None:
    complete = ShellComplete(main, {}, "onnxprune", "_ONNXPRUNE_COMPLETE")
    assert {each.value for each in complete.get_completions([verb, option], typed)} == offered


def test_called_with_arguments_it_runs_in_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that calls `main([...])` gets the words in its own streams, and SystemExit."""
    with pytest.raises(SystemExit) as left:
        main(["rules", "Conv"])
    assert left.value.code == 0 and "Conv" in capsys.readouterr().out


def test_called_without_arguments_it_ends_by_system_exit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The fork must not end the process that called it by any other way."""
    monkeypatch.setattr(sys, "argv", ["onnxprune", "rules", "Conv"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0 and "Conv" in capfd.readouterr().out
