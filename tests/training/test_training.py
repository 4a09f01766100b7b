"""Fine-tuning, sparse training and pruning in trained stages, on the digits network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import onnxprune
from models import resnet
from onnxprune import schemas
from onnxprune.errors import CheckFailed, Interrupted, UsageError
from onnxprune.groups import find_groups
from onnxprune.importance import Importance
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.runtime import run, session
from onnxprune.tables import built_in
from onnxprune.training.settings import Settings

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits_cnn.onnx"
DATA = ROOT / "models" / "digits_test.npz"
QUICK = Settings(epochs=4, batch=32, threads=1, lr=1e-3)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The digits network, cut so far that it has something to regain; and its plan."""
    folder = tmp_path_factory.mktemp("cut")
    result = onnxprune.prune(DIGITS, ratio=0.8, round_to=1, benchmark=False)
    result.save(folder / "cut.onnx")
    result.plan.save(folder / "plan.json")
    return folder / "cut.onnx"


def weights(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def spread_of(model):
    """How far apart the channels of a group are in norm: the mean of largest over median."""
    network = infer(load(model), built_in())
    groups = find_groups(network)
    scores = Importance().scores(network, groups)
    return float(np.mean([np.sqrt(s.max() / np.median(s)) for s in scores]))


def test_fine_tuning_wins_back_what_pruning_lost(cut):
    result = onnxprune.finetune(
        cut, DIGITS, DATA, plan=cut.with_name("plan.json"), settings=QUICK, eval=str(DATA)
    )
    report = result.report
    before, after = report.training["before"], report.training["after"]
    assert after["distance"] < 0.7 * before["distance"]
    assert report.evaluation.after >= report.given.after
    assert report.training["features"]
    old, new = weights(onnx.load(cut)), weights(result.model)
    assert {n: x.shape for n, x in old.items()} == {n: x.shape for n, x in new.items()}
    assert any(not np.array_equal(old[name], new[name]) for name in old)


def test_labels_are_used_only_where_there_are_some(cut, tmp_path):
    bare = tmp_path / "bare.npz"
    np.savez(bare, images=np.load(DATA)["images"])
    without = onnxprune.finetune(cut, DIGITS, bare, settings=QUICK).report
    assert without.training["after"]["accuracy"] is None
    assert without.training["after"]["agreement"] is not None
    labelled = onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK).report
    assert labelled.training["after"]["accuracy"] is not None
    assert labelled.training["history"][0]["loss"] != without.training["history"][0]["loss"]


def test_a_model_is_never_made_worse(cut):
    reckless = Settings(epochs=2, batch=32, threads=1, lr=0.05)
    result = onnxprune.finetune(cut, DIGITS, DATA, settings=reckless)
    training = result.report.training
    assert training["after"]["accuracy"] >= training["before"]["accuracy"]
    if training["best"] == 0:
        for name, value in weights(onnx.load(cut)).items():
            np.testing.assert_array_equal(value, weights(result.model)[name])


def test_a_stopped_run_goes_on_to_the_same_end(cut, tmp_path, monkeypatch):
    whole = onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, checkpoint=tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    file = tmp_path / "b.pt"

    def stop(words: str) -> None:
        if words.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, checkpoint=file, progress=stop)
    resumed = onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, checkpoint=file, resume=True)
    assert [e["loss"] for e in resumed.report.training["history"]] == [
        e["loss"] for e in whole.report.training["history"]
    ]
    for name, value in weights(whole.model).items():
        np.testing.assert_array_equal(value, weights(resumed.model)[name])


def test_pruning_goes_on_where_its_training_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    given = dict(ratio=0.7, round_to=1, calibration=DATA, reconstruct=True, finetune=QUICK)
    given |= dict(benchmark=False, verify=False)
    told: list[str] = []

    def stop(words: str) -> None:
        if words.startswith("epoch 2/"):
            raise KeyboardInterrupt

    whole = onnxprune.prune(DIGITS, **given)
    with pytest.raises(Interrupted):
        onnxprune.prune(DIGITS, **given, progress=stop)
    resumed = onnxprune.prune(DIGITS, **given, resume=True, progress=told.append)
    assert [word.split(":")[0] for word in told if word.startswith("epoch")] == [
        "epoch 3/4",
        "epoch 4/4",
    ]
    for name, value in weights(whole.model).items():
        np.testing.assert_array_equal(value, weights(resumed.model)[name])


def test_a_checkpoint_of_another_run_is_refused(cut, tmp_path):
    file = tmp_path / "c.pt"

    def stop(words: str) -> None:
        if words.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, checkpoint=file, progress=stop)
    other = Settings(epochs=4, batch=32, threads=1, lr=2e-3)
    with pytest.raises(UsageError, match="another run"):
        onnxprune.finetune(cut, DIGITS, DATA, settings=other, checkpoint=file, resume=True)
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="no checkpoint"):
        onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, checkpoint=file, resume=True)


def test_gradients_of_small_pieces_add_up_to_those_of_a_batch(cut):
    def first_loss(**more):
        settings = Settings(epochs=2, batch=32, threads=1, augment="none", **more)
        history = onnxprune.finetune(cut, DIGITS, DATA, settings=settings).report.training
        return [epoch["loss"] for epoch in history["history"]]

    np.testing.assert_allclose(first_loss(), first_loss(micro_batch=8), rtol=1e-4)


def test_two_workers_do_what_one_does(cut, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import json, os, sys, onnxprune\n"
        "from onnxprune.training.settings import Settings\n"
        "s = Settings(epochs=2, batch=32, threads=1, augment='none')\n"
        "cut, digits, data, out = sys.argv[1:]\n"
        "r = onnxprune.finetune(cut, digits, data, settings=s)\n"
        "if os.environ.get('RANK', '0') == '0':\n"
        "    json.dump(r.report.training['history'], open(out, 'w'))\n"
    )
    histories = []
    for count in (1, 2):
        out = tmp_path / f"{count}.json"
        run = [sys.executable, str(script)]
        if count > 1:
            run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            run += ["--nproc-per-node", "2", str(script)]
        subprocess.run(
            [*run, str(cut), str(DIGITS), str(DATA), str(out)],
            check=True,
            cwd=ROOT,
            timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        histories.append(json.loads(out.read_text()))
    one, two = ([epoch["loss"] for epoch in history] for history in histories)
    np.testing.assert_allclose(one, two, rtol=2e-3)


def test_a_teacher_of_another_kind_is_refused(cut, tmp_path):
    other = onnx.load(DIGITS)
    other.graph.output[0].name = "another"
    for node in other.graph.node:
        for i, name in enumerate(node.output):
            if name == onnx.load(DIGITS).graph.output[0].name:
                node.output[i] = "another"
    with pytest.raises(UsageError, match="outputs"):
        onnxprune.finetune(cut, other, DATA, settings=QUICK)


def test_a_gate_without_data_is_refused_before_anything_is_trained(cut):
    with pytest.raises(UsageError, match="--eval"):
        onnxprune.prune(DIGITS, ratio=0.5, calibration=DATA, finetune=QUICK, max_drop=1.0)
    with pytest.raises(UsageError, match="--eval"):
        onnxprune.finetune(cut, DIGITS, DATA, settings=QUICK, max_drop=1.0)


def test_max_drop_is_a_gate(cut):
    nothing = Settings(epochs=1, batch=32, threads=1, lr=1e-12)
    with pytest.raises(CheckFailed, match="points"):
        onnxprune.finetune(cut, DIGITS, DATA, settings=nothing, eval=str(DATA), max_drop=0.1)


@pytest.mark.parametrize("sparse", ["group", "growing"])
def test_sparse_training_parts_channels_and_keeps_the_function(sparse):
    model = resnet.build(0)
    x = np.random.default_rng(0).standard_normal((96, 3, 32, 32)).astype(np.float32)
    settings = Settings(epochs=6, batch=16, threads=1, lr=1e-2, augment="none")
    result = onnxprune.train(model, x, sparse=sparse, strength=6.0, settings=settings)
    before, after = (spread_of(each) for each in (model, result.model))
    assert before < 1.2 and after > 1.1 * before
    assert result.report.training["after"]["distance"] < 0.1

    def error(each):
        pruned = onnxprune.prune(each, ratio=0.3, round_to=1, benchmark=False, lossless=False)
        live = [session(model, optimize=False) for model in (each, pruned.model)]
        a, b = (next(iter(run(one, {"images": x}).values())) for one in live)
        return np.square(a - b).sum() / np.square(a).sum()

    assert error(result.model) < error(model)


def test_batch_norm_scales_become_zero_and_only_where_there_are_some():
    model = resnet.build(0)
    names = {node.input[1] for node in model.graph.node if node.op_type == "BatchNormalization"}
    x = np.random.default_rng(0).standard_normal((64, 3, 32, 32)).astype(np.float32)
    if not names:
        pytest.skip("the model has none")
    settings = Settings(epochs=3, batch=16, threads=1, lr=3e-3, augment="none")
    result = onnxprune.train(model, x, sparse="bn-scale", strength=50.0, settings=settings)
    values = np.concatenate([weights(result.model)[name] for name in sorted(names)])
    assert (values == 0).any()
    assert not (values == 0).all()


def test_pruning_and_training_in_stages_is_one_certified_cut():
    result = onnxprune.prune(
        DIGITS,
        target="macs=0.4",
        round_to=1,
        calibration=DATA,
        reconstruct=True,
        finetune=Settings(epochs=2, batch=32, threads=1),
        steps=2,
        benchmark=False,
        eval=str(DATA),
    )
    report = result.report
    assert report.target.met
    assert report.certificate is not None and report.certificate.ok
    assert report.training["epochs"] == 2
    again = onnxprune.apply(DIGITS, result.plan, benchmark=False)
    shapes = [{n: x.shape for n, x in weights(each.model).items()} for each in (again, result)]
    assert {n: s for n, s in shapes[1].items() if n in shapes[0]} == shapes[0]


def test_rewinding_takes_the_weights_of_the_checkpoint():
    init = onnx.load(DIGITS)
    for tensor in init.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(value * 0.5, tensor.name))
    result = onnxprune.prune(DIGITS, ratio=0.5, rewind=init, benchmark=False)
    plain = onnxprune.prune(DIGITS, ratio=0.5, benchmark=False)
    assert result.plan.kept.keys() == plain.plan.kept.keys()
    mine, theirs = weights(result.model), weights(plain.model)
    changed = [name for name in theirs if theirs[name].dtype == np.float32]
    assert changed
    for name in changed:
        np.testing.assert_allclose(mine[name], 0.5 * theirs[name], rtol=1e-6)


def test_the_commands(cut, tmp_path):
    from onnxprune.cli import main

    out = tmp_path / "tuned.onnx"
    arguments = ["finetune", str(cut), "--teacher", str(DIGITS), "--data", str(DATA), "-o", out]
    given = [*map(str, arguments), "--epochs", "2", "--threads", "1", "--json"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["training"]["epochs"] == 2
    schema = schemas.schema("finetune")
    jsonschema.Draft202012Validator(schema).validate(document)
    onnx.checker.check_model(str(out))
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2 and "--force" in done.stderr
    sparse = tmp_path / "sparse.onnx"
    arguments = ["train", str(DIGITS), "--sparse", "group", "--data", str(DATA), "-o", str(sparse)]
    done = CliRunner().invoke(main, [*arguments, "--epochs", "1", "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "nearly gone" in done.stderr
    whole = tmp_path / "whole.onnx"
    arguments = ["prune", str(DIGITS), "-o", str(whole), "--ratio", "0.5", "--no-benchmark"]
    arguments += ["--calibration", str(DATA), "--finetune", "2"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "trained for 2 epochs" in " ".join(done.stderr.split())
    done = CliRunner().invoke(main, [*arguments[:-1], "soon", "--force"])
    assert done.exit_code == 2 and "20min" in done.stderr
