"""Sweeps on a real dask.distributed cluster: lost workers, a killed driver, undisturbed timing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DIGITS, SAMPLES = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_test.npz"
SCORED = Path(__file__).with_name("scored.py")
WORKERS = 4

pytestmark = pytest.mark.cluster
distributed = pytest.importorskip("distributed")


@dataclass
class Cluster:
    """A scheduler and its workers, each a process of its own on loopback."""

    address: str
    folder: Path
    environment: dict[str, str]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def trace(self) -> list[list[str]]:
        """The notes of `scored.score`: word, pid, what, when."""
        path = Path(self.environment["ONNXPRUNE_TEST_TRACE"])
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def start(log: Path, environment: dict[str, str], *words: str) -> subprocess.Popen[bytes]:
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *words], stdout=file, stderr=file, env=environment
        )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    environment = {
        **os.environ,
        "ONNXPRUNE_TEST_TRACE": str(tmp_path / "trace"),
        "ONNXPRUNE_TEST_SAMPLES": str(SAMPLES),
        "ONNXPRUNE_TEST_SECONDS": "1.0",
        "ONNXPRUNE_CACHE": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    found = tmp_path / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    scheduler = start(
        tmp_path / "scheduler.log",
        environment,
        *("dask", "scheduler", *options, "--scheduler-file", str(found)),
    )
    running = [scheduler]
    try:
        until(found.exists, 60)
        address = json.loads(found.read_text())["address"]
        made = Cluster(address, tmp_path, environment)
        for i in range(WORKERS):
            # No nanny: a worker that is killed stays away.
            options = ["--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", f"w{i}"]
            options += ["--local-directory", str(tmp_path / f"w{i}")]
            worker = start(tmp_path / f"w{i}.log", environment, "dask", "worker", address, *options)
            made.workers.append(worker)
            running.append(worker)
        with distributed.Client(address, timeout=60) as client:
            client.wait_for_workers(WORKERS, timeout=60)
        yield made
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def until(true: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def sweep(cluster: Cluster, name: str, *words: str) -> subprocess.Popen[bytes]:
    command = ["onnxprune", "sweep", str(DIGITS), "--backend", "dask", "--scheduler"]
    journal = str(cluster.folder / "journal.jsonl")
    command += [cluster.address, "--eval", f"{SCORED}:score", "--journal", journal, *words]
    command += ["--json", str(cluster.folder / f"{name}.json")]
    return start(cluster.folder / f"{name}.log", cluster.environment, *command)


def finished(cluster: Cluster) -> list[dict[str, Any]]:
    """The lines of the journal that are whole, its head aside."""
    path = cluster.folder / "journal.jsonl"
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def document(
    cluster: Cluster, name: str, process: subprocess.Popen[bytes], codes: tuple[int, ...] = (0,)
) -> dict[str, Any]:
    """What a sweep has written, when it has ended."""
    log = cluster.folder / f"{name}.log"
    assert process.wait(300) in codes, log.read_text()
    found: dict[str, Any] = json.loads((cluster.folder / f"{name}.json").read_text())
    return found


def test_a_lost_worker_and_a_killed_driver(cluster: Cluster) -> None:
    """60 trials on 4 workers, one killed at trial 20, the driver at 40: each ends exactly once."""
    ratios = ",".join(f"{0.2 + 0.03 * i:.2f}" for i in range(20))
    words = ["--ratio", ratios, "--criterion", "group-l2,lamp,random:1", "--round-to", "1"]
    words += ["--scope", "global"]
    driver = sweep(cluster, "first", *words)
    until(lambda: len(finished(cluster)) >= 20 or driver.poll() is not None, 240)
    assert driver.poll() is None, (cluster.folder / "first.log").read_text()
    victim = in_a_trial(cluster)
    victim.kill()
    victim.wait()
    until(lambda: len(finished(cluster)) >= 40, 240)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    at_the_kill = len(finished(cluster))
    assert at_the_kill < 60
    report = document(cluster, "second", sweep(cluster, "second", *words, "--resume"))

    assert [each["status"] for each in report["trials"]] == ["done"] * 60
    names = [line["trial"] for line in finished(cluster)]
    assert len(names) == 60 and set(names) == {each["id"] for each in report["trials"]}
    # The original is scored once by each process; whatever else was scored is a trial.
    words_of = [note[:3] for note in cluster.trace()]
    ends = [what for word, _, what in words_of if word == "end"]
    starts = sum(word == "start" for word, *_ in words_of)
    processes = {pid for _, pid, _ in words_of}
    assert len(processes) == WORKERS
    assert len(ends) == 60 + WORKERS
    assert starts == len(ends) + 1, "the lost worker was in a trial, and only that was run again"
    hosts = Counter(each["host"] for each in report["trials"])
    assert len(hosts) == WORKERS, "every worker had some"
    # The files of the sweep came to each worker once, and were taken away at the end.
    for i in range(WORKERS):
        log = (cluster.folder / f"w{i}.log").read_text()
        assert log.count("Starting Worker plugin onnxprune-") == 1
    left = [path for path in cluster.folder.glob("w*/**/onnxprune-*") if path.is_dir()]
    lost = cluster.workers.index(victim)
    assert all(f"w{lost}" in path.parts for path in left)


def in_a_trial(cluster: Cluster) -> subprocess.Popen[bytes]:
    """A worker that has just begun to score a model, and has noted what was before."""
    while True:
        last = {int(pid): (word, float(when)) for word, pid, _, when in cluster.trace()}
        for worker in cluster.workers:
            word, when = last.get(worker.pid, ("", 0.0))
            if word == "start" and 0.2 < time.time() - when < 0.5:
                return worker
        time.sleep(0.02)


def test_ctrl_c_leaves_nothing_on_the_cluster(cluster: Cluster) -> None:
    driver = sweep(cluster, "stopped", "--ratio", "0.3,0.4,0.5,0.6,0.7", "--scope", "local,global")
    until(lambda: len(finished(cluster)) >= 3 or driver.poll() is not None, 120)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    said = (cluster.folder / "stopped.log").read_text().strip()
    assert "--resume" in said and len(said.splitlines()) == 1, said
    with distributed.Client(cluster.address) as client:
        assert not client.list_datasets()
    assert not [path for path in cluster.folder.glob("w*/**/onnxprune-*") if path.is_dir()]


def test_latency_is_measured_with_nothing_beside(cluster: Cluster) -> None:
    words = ["--ratio", "0.3,0.5,0.7", "--round-to", "8", "--cost", "latency"]
    # Whether anything is faster is not for a busy machine to say.
    report = document(cluster, "timed", sweep(cluster, "timed", *words), (0, 1))
    assert all(each["latency"]["b"]["median"] > 0 for each in report["trials"])
    spans = sorted(
        (line["result"]["started"], line["result"]["seconds"], line["trial"])
        for line in finished(cluster)
    )
    assert [name.endswith("latency") for *_, name in spans] == [False] * 3 + [True] * 3
    for (began, seconds, _), (next_began, _, name) in pairwise(spans):
        if name.endswith("latency"):
            assert next_began >= began + seconds - 0.01


def test_what_a_cluster_lacks_is_one_line(cluster: Cluster) -> None:
    with distributed.Client(cluster.address) as client:
        client.retire_workers(list(client.scheduler_info(n_workers=-1)["workers"]))
    process = sweep(cluster, "none", "--ratio", "0.5")
    assert process.wait(120) == 2
    said = (cluster.folder / "none.log").read_text().strip()
    assert "has no workers" in said and len(said.splitlines()) == 1
