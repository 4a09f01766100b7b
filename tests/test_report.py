"""`--report`: what the page says is what the JSON says, and no model can write into it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxprune import profiling, saving
from onnxprune.cli import main
from onnxprune.errors import WriteFailed
from onnxprune.html import plots
from onnxprune.html.replay import command
from tests.graphs import make, node, perceptron, weight

pytest.importorskip("jinja2", reason="the extra `report` is not installed")
pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

MODELS = Path(__file__).resolve().parent.parent / "models"
DIGITS = MODELS / "digits_cnn.onnx"
HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(2)>&$\\frac$\u202e'


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


class Page(HTMLParser):
    """The elements of a page, its <data> and its JSON document."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, float] = {}
        self.groups: dict[str, float] = {}
        self.json = ""
        self.words = ""
        self._in_script = self._in_style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self._in_script, self._in_style = tag == "script", tag == "style"
        if tag == "data" and "data-key" in given:
            self.data[str(given["data-key"])] = float(given["value"] or "nan")
        elif tag == "data":
            self.groups[str(given["data-group"])] = float(given["value"] or "nan")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.json += data
        elif not self._in_style:
            self.words += data


def at(document: Any, key: str) -> Any:
    """`before.parameters` of a JSON document."""
    for part in re.split(r"\.(?=\D|\d+(?:\.|$))", key):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a pruned model with its report, and what went to stdout."""
    folder = tmp_path_factory.mktemp("report")
    done = invoke(
        *("prune", DIGITS, "-o", folder / "out.onnx", "--eval", MODELS / "digits_test.npz"),
        *("--report", folder / "report.html", "--plan-out", folder / "plan.json", "--json"),
    )
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_figures_are_those_of_the_json(digits: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = digits
    page = read(folder / "report.html")
    document = json.loads(page.json)
    assert document == printed
    for key, value in page.data.items():
        assert value == at(document, key), key
    for key in (
        *("before.parameters", "after.parameters", "before.macs", "after.macs", "after.bytes"),
        *("latency.a.median", "latency.b.median", "evaluation.before", "evaluation.after"),
        *("evaluation.agreement", "profile.operators.0.before", "profile.operators.0.after"),
    ):
        assert key in page.data, key
    assert page.groups == {group["name"]: group["kept"] for group in document["groups"]}


def test_what_locks_no_weight_has_no_row(digits: tuple[Path, dict[str, Any]]) -> None:
    text = (digits[0] / "report.html").read_text(encoding="utf-8")
    section = text.partition("What could not be removed")[2].partition("</section>")[0]
    rows = re.findall(r'<td class="reason">([^<]*)</td><td class="n">([^<]*)</td>', section)
    assert rows and all(count != "0" for _, count in rows), rows
    (others,) = re.findall(r"lock none: ([^<]*)\.</p>", section)
    assert "kernel" in others and not {reason for reason, _ in rows} & set(others.split("; "))


def test_hashes_are_those_of_the_files(digits: tuple[Path, dict[str, Any]]) -> None:
    folder, printed = digits
    files = {"model": DIGITS, "output": folder / "out.onnx", "plan": folder / "plan.json"}
    assert printed["sha256"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }
    words = read(folder / "report.html").words
    assert all(digest in words for digest in printed["sha256"].values())


def test_one_file_that_asks_for_nothing(digits: tuple[Path, dict[str, Any]]) -> None:
    text = (digits[0] / "report.html").read_text(encoding="utf-8")
    assert len(text) < 2_000_000
    assert not re.search(r"(?i)\b(https?|ftp|file|data):", text)
    assert not re.search(r"(?i)@import|url\((?!#)", text)
    for tag, attributes in Page(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert tag != "script" or attributes["type"] == "application/json"
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_the_command_makes_the_plan_again(
    digits: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    options = [
        *("--ratio", "0.3", "--scope", "global", "--criterion", "group-l1", "--round-to", "4"),
        *("--exclude", "*stages.2.1*", "--max-ratio", "0.6", "--steps", "2", "--no-lossless"),
    ]
    first, again = tmp_path / "first.json", tmp_path / "again.json"
    page = tmp_path / "report.html"
    quick = ["--no-benchmark", "--no-verify"]
    done = invoke(
        *("prune", DIGITS, "-o", tmp_path / "a.onnx", "--plan-out", first, "--report", page),
        *(options + quick),
    )
    assert done.exit_code == 0, done.output
    line = next(line for line in read(page).words.splitlines() if "onnxprune prune" in line)
    words = shlex.split(line)[1:]
    done = invoke(*words, "--plan-out", again, "--force", *quick)
    assert done.exit_code == 0, done.output
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("ratio", [[], ["--ratio", "0.5"], ["--ratio", "0.25"]])
def test_a_ratio_beside_lossless_is_said(ratio: list[str], tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    done = invoke(
        *("prune", DIGITS, "-o", tmp_path / "o.onnx", "--report", page, "--lossless", *ratio),
        *("--no-benchmark", "--no-verify", "--round-to", "1"),
    )
    if done.exit_code == 3:  # nothing is empty in it, and nothing else was to be removed
        assert not ratio
        return
    assert done.exit_code == 0, done.output
    line = next(line for line in read(page).words.splitlines() if "onnxprune prune" in line)
    assert line.count("--ratio") == len(ratio) // 2 and "--lossless" in line


def test_a_command_says_what_needs_a_file() -> None:
    line, notes = command({"ratios": {"a*": 0.3}, "normalizer": "sum"}, "a b.onnx", "o.onnx")
    assert line == "onnxprune prune 'a b.onnx' -o o.onnx --normalizer sum --ratios ratios.json"
    assert notes == ['ratios.json: {"a*": 0.3}']


def test_hostile_names_are_text(tmp_path: Path) -> None:
    model = perceptron()
    for i, each in enumerate(model.graph.node):
        each.name = f"{HOSTILE}{i}"
    renamed = {name: HOSTILE + name for name in (t.name for t in model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = renamed[tensor.name]
    for each in model.graph.node:
        for i, name in enumerate(each.input):
            each.input[i] = renamed.get(name, name)
    onnx.save(model, tmp_path / "a.onnx")
    done = invoke(
        *("prune", tmp_path / "a.onnx", "-o", tmp_path / "b.onnx", "--report", tmp_path / "r.html")
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "\u202e" not in text
    assert HOSTILE[:-1] in page.words  # it is there, as text
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    assert any(HOSTILE in group["name"] for group in json.loads(page.json)["groups"])


def test_a_plot_takes_any_name() -> None:
    times = [profiling.OperatorTime(f"{HOSTILE}{i}", 1.0 + i, 2.0, 1, 1) for i in range(12)]
    svg = plots.operators(times)
    page = Page(svg)
    assert "script" not in [tag for tag, _ in page.tags]
    assert "5 others" in page.words


@pytest.mark.parametrize(
    ("kept", "removed"),
    [([1.0], [1.0]), ([0.0], [0.0]), ([1e3, 1e-9], [0.0, 1e-12]), ([-2.0, 3.0], [-5.0])],
)
def test_scores_of_any_kind_have_a_histogram(kept: list[float], removed: list[float]) -> None:
    svg, words = plots.histogram(kept, removed)
    assert svg.startswith("<svg ") and svg.rstrip().endswith("</svg>") and " to " in words
    assert "nan" not in svg


def test_scores_that_are_no_numbers_have_none() -> None:
    assert plots.histogram([1.0], [float("inf")]) == ("", "")
    assert plots.histogram([], []) == ("", "")


def test_without_the_extra_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = invoke("prune", DIGITS, "-o", tmp_path / "o.onnx", "--report", tmp_path / "r.html")
    assert done.exit_code == 2
    assert "pip install 'onnxprune[report]'" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_both_files_or_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise WriteFailed("disk full")

    monkeypatch.setattr(saving, "save", full)
    done = invoke(
        *("prune", DIGITS, "-o", tmp_path / "o.onnx", "--report", tmp_path / "r.html"),
        "--no-benchmark",
    )
    assert done.exit_code == 1 and not list(tmp_path.iterdir())


def test_the_report_is_an_output(tmp_path: Path) -> None:
    out, page = tmp_path / "o.onnx", tmp_path / "r.html"
    page.write_text("mine")
    done = invoke("prune", DIGITS, "-o", out, "--report", page)
    assert done.exit_code == 2 and "--force" in done.stderr and page.read_text() == "mine"
    same = tmp_path / "same.html"
    done = invoke("prune", DIGITS, "-o", same, "--report", same)
    assert done.exit_code == 2 and "one file" in done.stderr
    done = invoke("bench", DIGITS, "--report", page, "--seconds", "0.1")
    assert done.exit_code == 2 and "--force" in done.stderr


def test_apply_has_one(digits: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    plan, page = digits[0] / "plan.json", tmp_path / "r.html"
    done = invoke(
        *("apply", DIGITS, plan, "-o", tmp_path / "o.onnx", "--report", page, "--no-benchmark")
    )
    assert done.exit_code == 0, done.output
    found = read(page)
    assert f"onnxprune apply {DIGITS} {plan}" in found.words
    assert "Where the time goes" not in found.words  # --no-benchmark: no profile either


def test_bench_and_compare_have_one(digits: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other, page = digits[0] / "out.onnx", tmp_path / "r.html"
    done = invoke("bench", DIGITS, other, "--seconds", "0.1", "--report", page)
    assert done.exit_code == 0, done.output
    found = read(page)
    document = json.loads(found.json)
    assert {"a.median", "b.median", "profile.operators.0.after"} <= set(found.data)
    assert all(value == at(document, key) for key, value in found.data.items())

    done = invoke("bench", DIGITS, "--seconds", "0.1", "--report", page, "--force")
    assert done.exit_code == 0, done.output
    assert "b.median" not in read(page).data

    done = invoke("compare", DIGITS, other, "--report", page, "--force")
    assert done.exit_code == 1, done.output
    found = read(page)
    assert "The models differ" in found.words
    assert found.data["outputs.0.max_rel"] == json.loads(found.json)["outputs"][0]["max_rel"]


def kernel(operator: str, ts: int, dur: int) -> dict[str, Any]:
    name = f"{operator}_kernel_time"
    return {"cat": "Node", "name": name, "ts": ts, "dur": dur, "args": {"op_name": operator}}


def test_kernels_are_summed_by_operator() -> None:
    runs = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 90} for ts in (0, 100, 200)]
    kernels = [
        *(kernel("Conv", ts, 30) for ts in (1, 101, 131, 201, 231)),
        # What an If runs inside of it is not counted twice.
        *(each for ts in (161, 261) for each in (kernel("Relu", ts + 2, 5), kernel("If", ts, 20))),
    ]
    found, counted = profiling.by_kernel([*runs, *kernels], 1)
    assert counted == 2
    assert profiling.by_operator(found) == {"Conv": (0.06, 2), "If": (0.015, 1), "Relu": (0.005, 1)}
    assert profiling.by_kernel([]) == ({}, 0)


def test_a_profile_of_two_models() -> None:
    w = weight("w", 64, 64)
    one = make([node("MatMul", ["x", "w"], ["y"])], {"x": [8, 64]}, {"y": [8, 64]}, {"w": w})
    found = profiling.profile(one, one)
    assert [each.operator for each in found.operators] == ["MatMul"]
    only = found.operators[0]
    assert only.nodes_before == only.nodes_after == 1 and len(found.runs) == 2
    assert profiling.profile(one).operators[0].after is None


def test_the_command_says_where_weights_came_from(tmp_path: Path) -> None:
    """Rewound weights are not refitted: the line that makes the model again has to say which."""
    for name in ("model.onnx", "early.onnx"):
        onnx.save(perceptron(), tmp_path / name)
    model, early, out, page = (
        str(tmp_path / name) for name in ("model.onnx", "early.onnx", "out.onnx", "r.html")
    )
    arguments = ["prune", model, "-o", out, "--ratio", "0.5", "--rewind", early, "--no-benchmark"]
    result = CliRunner().invoke(main, [*arguments, "--report", page])
    assert result.exit_code == 0, result.output
    line = next(x for x in read(Path(page)).words.splitlines() if "onnxprune prune" in x)
    assert f"--rewind {early}" in line and "--reconstruct" not in line
