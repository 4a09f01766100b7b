"""`sensitivity`: what is measured is what the cut does; trials are noted, and not repeated."""

from __future__ import annotations

import json
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
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import UsageError, api
from onnxprune.calibration import open_calibration
from onnxprune.cli import main
from onnxprune.evaluation import evaluate
from onnxprune.sensitivities import Sensitivity, width_of
from onnxprune.trials.forecast import Forecast, duration
from onnxprune.trials.journal import Journal
from tests.graphs import two_convs

ROOT = Path(__file__).resolve().parent.parent
DIGITS, SAMPLES = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_test.npz"


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# -- what is measured ----------------------------------------------------------------------------


def test_it_is_what_pruning_this_group_alone_does() -> None:
    found = api.sensitivity(DIGITS, at=[0.5], eval=str(SAMPLES), include=["conv1*"])
    (curve,) = found.groups
    alone = onnxprune.prune(
        DIGITS,
        ratio=0.5,
        round_to=1,
        lossless=False,
        include=["conv1*"],
        eval=str(SAMPLES),
        verify=False,
        benchmark=False,
    ).report
    assert alone.evaluation is not None
    (point,) = curve.points
    assert point.kept == next(g.kept for g in alone.groups if g.name == curve.name) == 8
    assert found.value(point.cut) == alone.evaluation.after
    assert found.measure == "top-1" and found.original == alone.evaluation.before
    assert found.loss(point.cut) > 0


def test_without_labels_the_error_of_the_outputs() -> None:
    inputs = {k: v for k, v in np.load(SAMPLES).items() if k != "labels"}
    found = api.sensitivity(DIGITS, at=[0.25, 0.75], calibration=inputs)
    assert found.measure == "relative-error" and not found.higher_is_better
    worst = found.most_sensitive()[0]
    values = [found.value(point.cut) for point in worst.points]
    assert values == sorted(values) and values[-1] > 0.01
    # The same by hand, for one group.
    name = worst.name
    cut = onnxprune.prune(
        DIGITS, ratio=0.75, round_to=1, lossless=False, include=[name], benchmark=False
    )
    others = [g.name for g in cut.plan.groups if g.name != name]
    if not others:
        expected = evaluate(cut.reference, cut.model, str(SAMPLES), Path(".")).relative_error
        assert values[-1] == pytest.approx(expected, rel=1e-4)


def test_refitting_mends_and_is_measured_on_other_samples() -> None:
    found = api.sensitivity(
        DIGITS, at=[0.75], calibration=SAMPLES, reconstruct=True, include=["conv1*"]
    )
    point = found.groups[0].points[0]
    cut, refitted = found.value(point.cut), found.value(point.refitted)
    assert cut is not None and refitted is not None and refitted < 0.5 * cut
    assert found.samples == 125 and "a quarter" in found.data


def test_without_data_the_means_go_into_biases() -> None:
    found = api.sensitivity(DIGITS, at=[0.75], reconstruct=True, include=["conv1*"])
    assert found.groups[0].points[0].refitted is not None
    assert "synthetic" in found.data


def test_split_takes_each_sample_once() -> None:
    model = two_convs()
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    for count in (2, 3, 5, 64, 97):
        data = np.arange(count, dtype=np.float32).reshape(-1, *[1] * len(shape))
        data = np.broadcast_to(data, (count, *shape)).copy()
        fitted, held = open_calibration(data, model).split(4)
        parts = [
            [float(x.flat[0]) for feeds, real in part.padded(8) for x in feeds["x"][:real]]
            for part in (fitted, held)
        ]
        assert sorted(parts[0] + parts[1]) == list(range(count))
        assert len(parts[0]) == fitted.samples and len(parts[1]) == held.samples
        assert parts[1], count


def test_widths_are_whole_channels() -> None:
    assert [width_of(16, share) for share in (0.1, 0.25, 0.5, 0.99)] == [15, 12, 8, 1]
    assert width_of(4, 0.1) == 4  # less than one channel: there is nothing to measure
    found = api.sensitivity(two_convs(), at=[0.05, 0.5])
    assert [point.ratio for point in found.groups[0].points] == [0.5]
    assert found.groups[0].at(0.05) is None and found.groups[0].at(0.5) is not None


def test_shares_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="outside"):
        api.sensitivity(two_convs(), at=[1.5])
    result = invoke("sensitivity", DIGITS, "--at", "0.5,many")
    assert result.exit_code == 2 and "no number" in result.stderr
    with pytest.raises(onnxprune.NotPrunable, match="larger"):
        api.sensitivity(two_convs(), at=[0.01])


# -- the command ---------------------------------------------------------------------------------


def test_table_json_plot_and_page(tmp_path: Path) -> None:
    table = tmp_path / "curves.json"
    files = ["--json", table, "--plot", tmp_path / "a.png", "--report", tmp_path / "a.html"]
    result = invoke("sensitivity", DIGITS, "--eval", SAMPLES, *files)
    assert result.exit_code == 0, result.stderr
    for words in ("top-1 of 500 samples", "-75 %", "92.8 %", "Most sensitive: conv1.weight"):
        assert words in result.stdout
    found = json.loads(table.read_text())
    assert len(found["groups"]) == 9
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a.html").read_text()
    value = found["groups"][0]["points"][-1]["cut"]["after"]
    assert f'data-key="groups.0.points.3.cut.after">{100 * value:.1f} %' in page
    assert "<svg" in page and "http" not in page.split("<script")[0].replace("http-equiv", "")
    assert invoke("sensitivity", DIGITS, *files).exit_code == 2  # they are there already


def test_json_on_stdout_is_all_there_is_on_it() -> None:
    result = invoke("sensitivity", DIGITS, "--at", "0.5", "--json", "-")
    assert json.loads(result.stdout)["measure"] == "relative-error" and not result.stderr


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_a_plot_is_the_same_each_time(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / f"{i}.{kind}" for i in range(2)]
    for path in paths:
        words = ["--calibration", SAMPLES, "--reconstruct", "--include", "conv1*", "--resume"]
        assert invoke("sensitivity", DIGITS, *words, "--plot", path).exit_code == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_plot_of_no_known_kind(tmp_path: Path) -> None:
    result = invoke("sensitivity", DIGITS, "--plot", tmp_path / "a.gif")
    assert result.exit_code == 2 and ".png" in result.stderr


# -- the journal ---------------------------------------------------------------------------------


def stopped_after(count: int, **options: Any) -> None:
    """Measure until so many trials are done, then be interrupted as by Ctrl-C."""

    def told(done: int, total: int, left: str) -> None:
        if done == count:
            raise KeyboardInterrupt

    with pytest.raises(onnxprune.errors.Interrupted, match="--resume"):
        api.sensitivity(DIGITS, told=told, **options)


def test_it_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal.jsonl"
    options: dict[str, Any] = {"at": [0.5, 0.75], "eval": str(SAMPLES), "journal": journal}
    stopped_after(7, **options)
    with open(journal, "ab") as file:
        file.write(b'{"trial": "torn')  # what a crash leaves of a line
    made: list[Any] = []
    cut = api.measure_groups.__globals__["rewrite"]
    monkeypatch.setitem(
        api.measure_groups.__globals__, "rewrite", lambda *a: made.append(a) or cut(*a)
    )
    seen: list[int] = []
    found = api.sensitivity(DIGITS, resume=True, told=lambda n, *_: seen.append(n), **options)
    assert len(made) == 18 - 7 and seen == list(range(7, 19))
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    names = [line["trial"] for line in lines[1:]]
    assert len(names) == len(set(names)) == 18
    assert found.to_dict() == api.sensitivity(DIGITS, **{**options, "journal": False}).to_dict()


@pytest.mark.parametrize(
    "changed", [{"criterion": "group-l1"}, {"seed": 1}, {"metric": "top-5"}, {"eval": None}]
)
def test_a_journal_of_another_job_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    options: dict[str, Any] = {"at": [0.5], "eval": str(SAMPLES), "journal": tmp_path / "j.jsonl"}
    stopped_after(2, **options)
    with pytest.raises(UsageError, match="another job"):
        api.sensitivity(DIGITS, resume=True, **{**options, **changed})


def test_other_shares_find_what_is_there(tmp_path: Path) -> None:
    options: dict[str, Any] = {"eval": str(SAMPLES), "journal": tmp_path / "j.jsonl"}
    api.sensitivity(DIGITS, at=[0.5], **options)
    seen: list[int] = []
    api.sensitivity(
        DIGITS, at=[0.5, 0.75], resume=True, told=lambda n, *_: seen.append(n), **options
    )
    assert seen[0] == 9


def test_data_with_other_contents_is_another_job(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    arrays = dict(np.load(SAMPLES))
    np.savez(data, **arrays)
    options: dict[str, Any] = {"at": [0.5], "eval": str(data), "journal": tmp_path / "j.jsonl"}
    stopped_after(2, **options)
    np.savez(data, **{**arrays, "labels": arrays["labels"][::-1]})
    with pytest.raises(UsageError, match="another job"):
        api.sensitivity(DIGITS, resume=True, **options)


def test_no_other_file_is_taken_for_a_journal(tmp_path: Path) -> None:
    for text in ("mine\n", '{"schema": 7}\n', "[1]\n", '{"schema": 1}\n{"no": 1}\n', "torn"):
        path = tmp_path / "mine.txt"
        path.write_text(text)
        result = invoke("sensitivity", DIGITS, "--at", "0.5", "--journal", path)
        assert result.exit_code == 2 and "no journal" in result.stderr
        assert path.read_text() == text


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, "sweep", "x", {}, resume=False) as first:
        first.add("a", {})
        with (
            pytest.raises(UsageError, match="another run"),
            Journal(path, "sweep", "x", {}, resume=True),
        ):
            pass
    with Journal(path, "sweep", "x", {}, resume=True) as second:
        assert second.finished == {"a": {}}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_is_one_line_and_130(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    command = ["sensitivity", DIGITS, "--calibration", SAMPLES, "--reconstruct"]
    words = [sys.executable, "-m", "onnxprune", *map(str, command), "--journal", str(journal)]
    process = subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 3:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and not out
    assert len(err.strip().splitlines()) == 1 and str(journal) in err and "--resume" in err


# -- the time left -------------------------------------------------------------------------------


def test_the_forecast_is_of_kinds() -> None:
    forecast = Forecast(["cut"] * 10 + ["refitted"] * 10)
    assert forecast.text() == ""
    forecast.done("cut", 1.0)
    assert forecast.left() == (9.0, False) and forecast.text() == "more than 9 s left"
    forecast.done("refitted", 20.0)
    assert forecast.left() == (9.0 + 180.0, True) and forecast.text() == "about 3 min left"


def test_the_forecast_knows_what_runs_side_by_side() -> None:
    forecast = Forecast(["a"] * 9, {"a": 4})
    forecast.done("a", 10.0)
    assert forecast.left() == (20.0, True)
    for _ in range(7):
        forecast.done("a", 10.0)
    assert forecast.left() == (10.0, True)  # the last one takes as long as any
    forecast.done("a", 10.0)
    assert forecast.left() == (0.0, True)


def test_durations() -> None:
    given = (0.2, 8.4, 59.9, 61, 600, 5399, 9000)
    said = ["1 s", "8 s", "60 s", "1 min", "10 min", "90 min", "2.5 h"]
    assert [duration(seconds) for seconds in given] == said


def test_what_can_not_be_run_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fail: int) -> Callable[..., onnx.ModelProto]:
        made = 0
        cut = api.measure_groups.__globals__["rewrite"]

        def rewrite(*arguments: Any) -> onnx.ModelProto:
            nonlocal made
            made += 1
            if made == fail:
                raise onnxprune.UnsupportedModel("no such model")
            found: onnx.ModelProto = cut(*arguments)
            return found

        return rewrite

    monkeypatch.setitem(api.measure_groups.__globals__, "rewrite", broken(3))
    found: Sensitivity = api.sensitivity(DIGITS, at=[0.5])
    failed = [point.failed for curve in found.groups for point in curve.points]
    assert failed == [None, None, "no such model", *[None] * 6]
