"""An ONNX graph under torch's FSDP: two processes hold half of each weight, and train as one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import resnet

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parent.parent.parent
#: Two steps on a batch of which each process has its part; the first process writes the model.
SCRIPT = """
import sys
import onnx, torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from onnxprune.gradients import Differentiable

source, target = sys.argv[1:]
distributed.init_process_group("gloo")
rank, count = distributed.get_rank(), distributed.get_world_size()
function = Differentiable(source)
whole = sum(p.numel() for p in function.parameters())
fully_shard(function, mesh=init_device_mesh("cpu", (count,)))
held = sum(p.to_local().numel() for p in function.parameters())
assert held < 0.6 * whole if count == 2 else held == whole, (held, whole)
optimizer = torch.optim.SGD(function.parameters(), lr=0.01)
x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)).chunk(count)[rank]
for _ in range(2):
    (logits,) = function({function.inputs[0]: x}).values()
    optimizer.zero_grad()
    logits.log_softmax(1)[:, 0].mean().backward()
    optimizer.step()
full = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in function.state_dict().items()}
if rank == 0:
    alone = Differentiable(source)
    alone.load_state_dict(full)
    onnx.save(alone.write(), target)
distributed.destroy_process_group()
"""


def trained(folder: Path, source: Path, processes: int) -> dict[str, np.ndarray]:
    (folder / "run.py").write_text(SCRIPT)
    target = folder / f"{processes}.onnx"
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    subprocess.run(
        [sys.executable, *run, str(folder / "run.py"), str(source), str(target)],
        check=True,
        cwd=ROOT,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    tensors = onnx.load(target).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def test_two_processes_with_half_of_the_weights_each_train_as_one(tmp_path: Path) -> None:
    model = resnet.build(0)
    onnx.save(model, source := tmp_path / "model.onnx")
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    one, two = (trained(tmp_path, source, count) for count in (1, 2))
    moved = [name for name, value in one.items() if not np.array_equal(value, before[name])]
    assert len(moved) > 10
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-6, err_msg=name)
    off = max(np.abs(one[name] - before[name]).max() for name in moved)
    assert off > 1e-3
