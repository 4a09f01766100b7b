"""What is damaged, and what is done with it."""

from __future__ import annotations

import atexit
import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import onnxprune
from models import FAMILIES
from onnxprune.cli import main
from tests.conftest import corpus_folder
from tests.damage.forkserver import Outcome, run_forked
from tests.damage.mutations import mutate
from tests.graphs import perceptron, two_convs

#: Files above this (bytes) are left out: time goes to damage, not to weights.
_LARGEST = 400_000


@dataclass
class Corpus:
    """Files to damage."""

    files: list[bytes]
    #: External data of some of them, by name.
    data: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def gathered(cls, largest: int = _LARGEST) -> Corpus:
        """The small files of the real models, where there are any, and models made here."""
        made = [two_convs(), perceptron(), *(family(0) for family in FAMILIES.values())]
        files = [model.SerializeToString() for model in made]
        folder = corpus_folder()
        for path in sorted((folder / "models").glob("*.onnx")) if folder else ():
            if path.stat().st_size <= largest:
                files.append(path.read_bytes())
        outside = (folder / "models").glob("*.onnx.data") if folder else ()
        data = {path.name: path.read_bytes() for path in outside}
        return cls([each for each in files if len(each) <= largest], data)

    def damaged(self, rng: random.Random) -> bytes:
        """One of the files, damaged."""
        return mutate(rng.choice(self.files), self.files, rng)


def execute(corpus: Corpus, seed: int, folder: Path, *, command: bool = False) -> Outcome:
    """Damage a file, and prune it in a process of its own."""
    path, output = folder / "model.onnx", folder / "out.onnx"
    path.write_bytes(corpus.damaged(random.Random(seed)))
    for name, data in corpus.data.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(data)
    for left in (output, output.with_name("out.onnx.data")):
        left.unlink(missing_ok=True)

    def whole() -> int:
        atexit._clear()  # the temporary folder is another process's to remove
        # Without arguments of its own it runs as from a shell: in a process that it looks after.
        sys.argv = ["onnxprune", "prune", str(path), "-o", str(output), "--no-benchmark"]
        main()
        return 0

    def quick() -> int:
        plan = onnxprune.plan(path)
        again = onnxprune.Plan.from_dict(json.loads(plan.to_json()))
        result = onnxprune.apply(path, again, verify=False, benchmark=False)
        result.save(output)
        return 0

    outcome = run_forked(whole if command else quick, folder / "log", seconds=30 if command else 10)
    if command and "a fault of onnxprune" in outcome.text:
        return Outcome(70, None, outcome.seconds, outcome.memory, outcome.text)
    return outcome
