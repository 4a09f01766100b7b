"""`sweep`: which trials there are, what is chosen of them, that none is lost or done twice."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

import onnxprune
from onnxprune import CheckFailed, UsageError, api
from onnxprune.cli import main
from onnxprune.sweeps import pareto
from onnxprune.sweeps.backends import Task, backend_of
from onnxprune.sweeps.cargo import pack, placed, unpack
from onnxprune.sweeps.grid import DEFAULT, OPTIONS, Trial, read_grid, trials_of
from onnxprune.sweeps.results import SweepReport, TrialResult, choose, collect
from onnxprune.sweeps.setting import Setting
from onnxprune.sweeps.trial import perform

ROOT = Path(__file__).resolve().parent.parent
DIGITS, SAMPLES = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_test.npz"
SETTING = Setting(str(DIGITS), str(SAMPLES))


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def options_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(trial.options) for trial in trials_of(table)]


# -- the grid ------------------------------------------------------------------------------------


def test_every_budget_with_every_option() -> None:
    table = {"ratio": [0.3, 0.5], "target": "macs=0.5", "criterion": ["group-l2", "lamp"]}
    assert options_of(table) == [
        {"target": "macs=0.5"},
        {"target": "macs=0.5", "criterion": "lamp"},
        {"ratio": 0.3},
        {"ratio": 0.3, "criterion": "lamp"},
        {"ratio": 0.5},
        {"ratio": 0.5, "criterion": "lamp"},
    ]
    assert len(options_of(DEFAULT)) == 14


def test_further_tables_are_by_themselves() -> None:
    table = {"ratio": [0.3], "grid": [{"scope": ["local", "global"]}, {"round-to": [1, 8]}]}
    assert options_of(table) == [
        {"ratio": 0.3},
        {"ratio": 0.3, "scope": "global"},
        {"ratio": 0.3, "round_to": 1},
        {"ratio": 0.3, "round_to": 8},
    ]


def test_lists_are_values_of_what_takes_lists() -> None:
    assert options_of({"exclude": ["a*", "b*"]}) == [{"exclude": ["a*", "b*"]}]
    assert options_of({"exclude": [[], ["a*"]]}) == [{}, {"exclude": ["a*"]}]
    assert options_of({"exclude": "a*"}) == [{"exclude": ["a*"]}]


def test_equal_trials_are_one() -> None:
    assert len(trials_of({"ratio": [0.3, 0.3], "scope": ["local"], "steps": 1})) == 1
    one, other = Trial({"ratio": 0.3, "scope": "global"}), Trial({"scope": "global", "ratio": 0.3})
    assert one.id == other.id != Trial({"ratio": 0.3}).id


def test_its_options_are_those_of_prune() -> None:
    import inspect

    parameters = inspect.signature(api.prune).parameters
    for name, default in OPTIONS.items():
        assert parameters[name].default == default, name


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"ratoi": 0.3}, "nearest: ratio"),
        ({"ratio": [1.5]}, "outside"),
        ({"ratio": []}, "no value"),
        ({"ratio": "much"}, "a number was expected"),
        ({"criterion": "best"}, "best"),
        ({"criterion": "wanda"}, "calibration"),
        ({"criterion": 3}, "word"),
        ({"target": ["speed=2"]}, "speed"),
        ({"scope": "everywhere"}, "everywhere"),
        ({"reconstruct": 1}, "true or false"),
        ({"eval": "x.npz"}, "--eval"),
        ({"exclude": 3}, "names"),
        ({"ratios": {"conv1": "half"}}, "number"),
        ({"grid": {"ratio": 0.3}}, "list of tables"),
    ],
)
def test_what_can_not_be_is_said_before_anything_runs(table: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        trials_of(table)


def test_a_grid_of_a_file(tmp_path: Path) -> None:
    toml, yaml = tmp_path / "grid.toml", tmp_path / "grid.yaml"
    toml.write_text('ratio = [0.3, 0.5]\nround-to = 8\n[[grid]]\nscope = "global"\n')
    found = read_grid(toml)
    assert [t.options["round_to"] for t in trials_of(found)] == [8, 8]
    pytest.importorskip("yaml")
    yaml.write_text("ratio: [0.3, 0.5]\nround-to: 8\ngrid:\n- scope: global\n")
    assert read_grid(yaml) == found
    yaml.write_text("a: [")
    with pytest.raises(UsageError, match="not YAML"):
        read_grid(yaml)
    yaml.write_text("- a\n")
    with pytest.raises(UsageError, match="table"):
        read_grid(yaml)


def test_yaml_where_it_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "grid.yml"
    path.write_text("ratio: 0.3\n")
    result = invoke("sweep", DIGITS, "--grid", path)
    assert result.exit_code == 2 and "PyYAML" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('target = ["macs=0.5"]\nround-to = [1, 4]\ncriterion = "lamp"\n')
    words = ["--ratio", "0.4,0.5", "--round-to", "8", "--jobs", "1", "--json", "-"]
    result = invoke("sweep", DIGITS, "--eval", SAMPLES, "--grid", path, *words)
    assert result.exit_code == 0, result.stderr
    assert [each["options"] for each in json.loads(result.stdout)["trials"]] == [
        {"ratio": ratio, "criterion": "lamp", "round_to": 8} for ratio in (0.4, 0.5)
    ]


# -- the front -----------------------------------------------------------------------------------

numbers = st.floats(0, 10, allow_nan=False) | st.just(math.inf)


@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_the_front_is_what_no_other_beats(points: list[tuple[float, float]]) -> None:
    found = pareto.front(points)
    finite = [i for i, point in enumerate(points) if all(map(math.isfinite, point))]
    for i in finite:
        beaten = any(
            a <= points[i][0] and b <= points[i][1] and (a, b) != points[i]
            for a, b in (points[j] for j in finite)
        )
        equal = any(points[j] == points[i] for j in found if j != i)
        assert (i in found) == (not beaten and not equal)
    assert found == sorted(found, key=lambda i: points[i])


def test_the_knee() -> None:
    bend = [(0.1, 60.0), (0.3, 6.0), (0.5, 3.0), (0.8, 0.5)]
    assert pareto.knee(bend, (1.0, 0.0)) == 1
    straight = [(0.25, 7.5), (0.5, 5.0)]
    assert pareto.knee(straight, (1.0, 0.0)) == 1  # nothing bends: the least loss
    free = [(0.5, 0.0), (0.2, 0.0)]
    assert pareto.knee(free, (1.0, 0.0)) == 1
    assert pareto.knee([(1.2, -1.0)], (1.0, 0.0)) is None  # costs more than the original
    assert pareto.knee([], (1.0, 0.0)) is None


def test_the_best_within_bounds() -> None:
    points = [(0.1, 60.0), (0.3, 6.0), (0.5, 3.0), (0.8, 0.5), (math.inf, 0.0), (0.2, math.nan)]
    assert pareto.best(points, most_loss=3.0) == 2
    assert pareto.best(points, most_cost=0.5) == 2
    assert pareto.best(points, most_loss=10.0, most_cost=0.4) == 1
    assert pareto.best(points, most_loss=0.1) is None


def test_the_original_is_on_the_front() -> None:
    """What costs more and loses something is beaten by it."""
    found = api.sweep(DIGITS, {"ratio": [0.5, 0.7]}, eval=str(SAMPLES), cost="bytes", jobs=1)
    size = {"parameters": 1, "macs": 1, "bytes": 1}
    lost = {**found.trials[0].evaluation, "before": 0.9, "after": 0.8}  # type: ignore[dict-item]
    del lost["drop"]
    result = {"status": "done", "seconds": 0.0, "host": "", "before": size, "evaluation": lost}
    worse = {**result, "after": {**size, "bytes": 2}}
    fine = {**result, "after": {**size, "bytes": 0.5}}
    trials = [Trial({"ratio": 0.1}), Trial({"ratio": 0.2})]
    made = dict(zip((each.id for each in trials), (worse, fine), strict=True))
    again = collect("m", trials, made, {}, "bytes", "")
    assert [each.on_front for each in again.trials] == [False, True]


def report(*points: tuple[float, float, float]) -> SweepReport:
    """A report of trials of these costs, drops and ms."""
    trials = [
        TrialResult(
            str(i), {}, "done", cost=cost, drop=drop, latency={"b": {"median": ms}, "speedup": 1.0}
        )
        for i, (cost, drop, ms) in enumerate(points)
    ]
    return SweepReport("m", "latency", "top-1", True, "", {}, trials, [])


def test_a_bound_in_ms() -> None:
    found = report((0.3, 5.0, 3.0), (0.5, 2.0, 5.0), (0.7, 1.0, 7.0))
    choose(found, None, None, 5.0)
    assert found.chosen == "1" and found.rule == "at most 5 ms" and found.trials[1].chosen
    found = report((1.01, 0.0, 3.0), (0.9, 4.0, 4.0))
    choose(found, 9.0, None, None)
    assert found.chosen == "1"  # not what costs more than the original
    found = report((0.3, 5.0, 3.0))
    choose(found, 1.0, None, 5.0)
    assert found.chosen is None and found.unmet is not None and "5.00 points" in found.unmet
    found = report((1.2, 0.5, 3.0))
    choose(found, 1.0, None, None)
    assert found.unmet == "no trial is cheaper than the original in latency"


# -- trials --------------------------------------------------------------------------------------


def test_a_trial_is_prune() -> None:
    made = perform("prune", SETTING, {"ratio": 0.5})
    same = onnxprune.prune(DIGITS, ratio=0.5, eval=str(SAMPLES), benchmark=False, provenance=False)
    assert made["status"] == "done" and made["after"] == same.report.after.to_dict()  # type: ignore[union-attr]
    evaluation = same.report.evaluation
    assert evaluation is not None
    assert made["evaluation"]["after"] == evaluation.after
    assert made["evaluation"]["agreement"] == evaluation.agreement
    assert json.loads(json.dumps(made)) == made  # plain values, wherever it ran
    timed = perform("time", SETTING, made["plan"])
    assert timed["status"] == "done" and timed["latency"]["speedup"] > 0


def test_what_a_trial_can_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    made = perform("prune", SETTING, {"ratio": 0.01})
    assert made["status"] == "failed" and "no group loses" in made["reason"]

    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(onnxprune, "prune", fault)
    made = perform("prune", SETTING, {"ratio": 0.5})
    assert made["status"] == "fault" and made["reason"] == "ZeroDivisionError: one two"


def test_agreement_without_labels_and_errors_without_classes(tmp_path: Path) -> None:
    found = perform("prune", Setting(str(DIGITS)), {"ratio": 0.7})["evaluation"]
    assert found["metric"] is None and 0 <= found["agreement"] < 1 and found["samples"] == 128
    model = onnx.load(DIGITS)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["inner" if each == name else each for each in node.output]
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([-1, 10, 1, 1], np.int64), "image")
    )
    model.graph.node.append(onnx.helper.make_node("Reshape", ["inner", "image"], [name]))
    onnx.save(model, tmp_path / "values.onnx")
    found = perform("prune", Setting(str(tmp_path / "values.onnx")), {"ratio": 0.7})["evaluation"]
    assert found["metric"] == "relative-error" and found["before"] == 0 < found["after"]


def test_files_travel_and_are_found(tmp_path: Path) -> None:
    data = tmp_path / "here" / "set.npz"
    data.parent.mkdir()
    data.write_bytes(SAMPLES.read_bytes())
    model = tmp_path / "here" / "model.onnx"
    onnx.save(
        onnx.load(DIGITS), model, save_as_external_data=True, location="w.data", size_threshold=0
    )
    rules = tmp_path / "here" / "own.toml"
    rules.write_text('["own.Magic"]\naxes = "n -> n"\n')
    setting = Setting(
        str(model), f"{data}:labels", calibration=str(data.parent), rules=(str(rules),)
    )
    cargo = pack(setting)
    folder = unpack(cargo, tmp_path / "there")
    assert unpack(cargo, tmp_path / "there") == folder
    data.unlink(), model.unlink(), rules.unlink(), model.with_name("w.data").unlink()
    there = placed(cargo.setting, folder)
    assert perform("prune", there, {"ratio": 0.5})["evaluation"]["before"] == 0.988
    assert {path.name for path in Path(str(there.calibration)).iterdir()} >= {"set.npz"}
    assert Path(there.rules[0]).read_text().startswith('["own')
    assert pack(SETTING).name != cargo.name
    assert placed(pack(Setting(str(DIGITS), "package.module:score")).setting, folder).eval == (
        "package.module:score"
    )


# -- the whole -----------------------------------------------------------------------------------

QUICK = ["--eval", SAMPLES, "--ratio", "0.4,0.7", "--scope", "local,global", "--jobs", "1"]


def test_the_chosen_model_and_all_results(tmp_path: Path) -> None:
    names = ["out.onnx", "all.json", "all.csv", "front.svg", "page.html"]
    out, *files = (tmp_path / name for name in names)
    flags = ["--json", files[0], "--csv", files[1], "--plot", files[2], "--report", files[3]]
    result = invoke("sweep", DIGITS, "-o", out, *QUICK, *flags)
    assert result.exit_code == 0, result.stderr
    assert "Chosen (knee): ratio 0.7, global" in result.stdout
    assert "Certified" in result.stderr
    found = json.loads(files[0].read_text())
    chosen = next(each for each in found["trials"] if each["chosen"])
    assert found["chosen"] == chosen["id"] and chosen["on_front"] and found["output"] == str(out)
    # What is said to make it does.
    words = found["command"].split()[1:]
    again = tmp_path / "again.onnx"
    words[words.index("-o") + 1] = str(again)
    assert invoke(*words).exit_code == 0
    assert again.read_bytes() == out.read_bytes()
    with open(files[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [each["id"] for each in found["trials"]]
    assert [row["chosen"] for row in rows].count("True") == 1
    assert float(rows[-1]["top-1"]) == found["trials"][-1]["evaluation"]["after"]
    page = files[3].read_text()
    assert 'class="chosen"' in page and "onnxprune prune" in page


def test_max_drop_and_max_cost() -> None:
    def chosen(*words: str) -> Any:
        result = invoke("sweep", DIGITS, *QUICK, "--resume", "--json", "-", *words)
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        return next(each for each in found["trials"] if each["chosen"])

    assert chosen("--max-drop", "10")["options"] == {"ratio": 0.7}
    assert chosen("--max-drop", "0.1")["drop"] <= 0.1
    assert chosen("--max-cost", "0.2")["options"] == {"ratio": 0.7, "scope": "global"}


def test_where_nothing_is_within_the_bounds_results_are_written(tmp_path: Path) -> None:
    out, table = tmp_path / "out.onnx", tmp_path / "all.csv"
    words = ["--max-cost", "0.01", "-o", out, "--csv", table]
    result = invoke("sweep", DIGITS, *QUICK, *words)
    assert result.exit_code == 1 and "at most 1 %" in result.stderr and "ratio 0.7" in result.stdout
    assert table.exists() and not out.exists()


def test_where_no_trial_comes_to_a_model() -> None:
    result = invoke("sweep", DIGITS, "--ratio", "0.01", "--jobs", "1")
    assert result.exit_code == 1 and "no group loses" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_bad_input_is_said_before_any_trial(tmp_path: Path, cache: Path) -> None:
    labels = tmp_path / "few.npz"
    np.savez(labels, x=np.zeros((2, 3)), labels=np.zeros(5))
    for words, code, said in (
        (["--eval", labels], 2, "unlike numbers"),
        (["--scheduler", "tcp://x:1"], 2, "--backend"),
        (["--backend", "dask", "--jobs", "2"], 2, "--jobs"),
        (["--max-latency", "3"], 2, "--cost latency"),
        (["--criterion", "wanda"], 2, "calibration"),
        (["--round-to", "few"], 2, "auto"),
    ):
        result = invoke("sweep", DIGITS, *words)
        assert result.exit_code == code and said in result.stderr, result.stderr
    assert invoke("sweep", tmp_path / "none.onnx").exit_code == 4
    assert not cache.exists()


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module, hint in (("dask", "distributed", "[cluster]"), ("ray", "ray", "pip install")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, f"onnxprune.sweeps.backends.{name}_cluster", raising=False)
        with pytest.raises(UsageError) as error:
            backend_of(name, SETTING, "", jobs=None, address="tcp://127.0.0.1:1")
        assert hint in str(error.value)


# -- lost, killed, resumed -----------------------------------------------------------------------


def test_processes_of_all_cores() -> None:
    tasks = [Task(str(i), "prune", {"ratio": 0.3 + 0.1 * i}) for i in range(4)]
    with backend_of("local", SETTING, "", jobs=2, address=None) as backend:
        found = dict(backend.side_by_side(tasks))
    assert {key: each["status"] for key, each in found.items()} == dict.fromkeys("0123", "done")


_MORTAL = """
import os, signal
from pathlib import Path

def score(session):
    once = Path({once!r})
    if not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 0.5
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """As the kernel does it where memory runs out."""
    script = tmp_path / "mortal.py"
    script.write_text(_MORTAL.format(once=str(tmp_path / "once")))
    setting = Setting(str(DIGITS), f"{script}:score")
    tasks = [Task(str(i), "prune", {"ratio": 0.3 + 0.1 * i}) for i in range(4)]
    with backend_of("local", setting, "", jobs=2, address=None) as backend:
        keys = [key for key, result in backend.side_by_side(tasks) if result["status"] == "done"]
    assert sorted(keys) == list("0123")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    """No trial is lost, and none that was finished is run again."""
    journal, table = tmp_path / "j.jsonl", tmp_path / "all.json"
    ratios = ",".join(f"{0.2 + 0.03 * i:.2f}" for i in range(20))
    options = ["--ratio", ratios, "--round-to", "1", "--jobs", "2", "--eval", str(SAMPLES)]
    command = [sys.executable, "-m", "onnxprune", "sweep", str(DIGITS), *options]
    command += ["--journal", str(journal), "--json", str(table)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, env=environment, stderr=file, stdout=file, start_new_session=True
        )
    end = time.monotonic() + 120
    while not journal.exists() or len(journal.read_bytes().splitlines()) < 6:
        assert time.monotonic() < end and process.poll() is None, log.read_text()
        time.sleep(0.01)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does it
        assert process.wait(60) == 130
        said = log.read_text().strip()
        assert "--resume" in said and len(said.splitlines()) == 1, said
    else:
        process.send_signal(how)
        process.wait(60)
    before = [line for line in journal.read_bytes().split(b"\n")[1:] if line.endswith(b"}")]
    assert 5 <= len(before) < 20
    done = subprocess.run([*command, "--resume"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = journal.read_bytes().splitlines()[1:]
    assert after[: len(before)] == before
    names = [json.loads(line)["trial"] for line in after]
    found = json.loads(table.read_text())["trials"]
    assert len(names) == len(set(names)) == 20 == len(found)
    assert {each["status"] for each in found} == {"done"}


def test_a_fault_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"eval": str(SAMPLES), "jobs": 1, "journal": tmp_path / "j.jsonl"}
    prune = onnxprune.prune

    def sometimes(*arguments: Any, **words: Any) -> Any:
        if words["ratio"] == 0.6:
            raise MemoryError
        return prune(*arguments, **words)

    monkeypatch.setattr(onnxprune, "prune", sometimes)
    found = api.sweep(DIGITS, {"ratio": [0.5, 0.6, 0.01]}, **options)
    assert [each.status for each in found.trials] == ["done", "fault", "failed"]
    monkeypatch.undo()
    seen: list[int] = []
    again = api.sweep(
        DIGITS,
        {"ratio": [0.5, 0.6, 0.01]},
        resume=True,
        told=lambda n, *_: seen.append(n),
        **options,
    )
    assert [each.status for each in again.trials] == ["done", "done", "failed"]
    assert seen == [2, 3]


def test_nothing_at_all_can_be_pruned(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="no model came of 1 trial: "):
        api.sweep(DIGITS, {"ratio": 0.01}, jobs=1)


def test_measured_latency_is_what_is_weighed() -> None:
    found = api.sweep(
        DIGITS, {"ratio": [0.7]}, eval=str(SAMPLES), cost="latency", max_drop=50, jobs=1
    )
    (trial,) = found.trials
    assert trial.latency is not None and trial.cost is not None
    assert (found.chosen == trial.id) == (trial.cost < 1)
    assert trial.cost == pytest.approx(1 / trial.latency["speedup"])
    assert found.original["ms"] == trial.latency["a"]["median"]
