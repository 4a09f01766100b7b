"""An LSTM on text that ships with Python: which module of the standard library a passage is from.

A passage is 24 words or signs in a row; blocks of 240 are learned from (passages that begin at each
12th), or judge, so that no passage of the test overlaps one that was seen. The text depends on
Python's version, which goes into the result.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .family import Arrays, Family, Labels, exported, fit

MODULES = (
    "argparse", "configparser", "difflib", "doctest", "imaplib", "inspect", "logging.handlers",
    "mailbox", "optparse", "pdb", "pickletools", "smtplib", "statistics", "subprocess", "tarfile",
    "typing",
)  # fmt: skip
LENGTH, BLOCK, VOCABULARY = 24, 240, 3000
EMBEDDED, HIDDEN = 48, 96
#: One block in so many judges.
TESTED = 4


class Reader(nn.Module):
    """Words `[n, length]` -> scores of modules `[n, modules]`: two layers, then the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY + 1, EMBEDDED)
        self.layers = nn.LSTM(EMBEDDED, HIDDEN, 2, batch_first=True, dropout=0.3)
        self.dropped = nn.Dropout(0.5)
        self.head = nn.Linear(HIDDEN, len(MODULES))

    def forward(self, words: Tensor) -> Tensor:
        states, _ = self.layers(self.dropped(self.embed(words)))
        scores: Tensor = self.head(self.dropped(states.amax(1)))
        return scores


def build(_: Path) -> Family:
    """Trained on three quarters of the text, and exported."""
    data, labels, test, test_labels = read()
    torch.manual_seed(0)
    net, words = Reader(), torch.from_numpy(data["words"])
    fit(net, words, torch.from_numpy(labels), 10, 3e-3, 0)
    model = exported(net, {"words": words[:2]}, "modules", {"words": {0: "n"}, "modules": {0: "n"}})
    return Family(
        model,
        data,
        labels,
        test,
        test_labels,
        {"words": (1, LENGTH)},
        10,
        1e-2,
        64,
        True,
        f"LSTM: the module that a passage of Python {platform.python_version()}'s sources is of",
    )


def read() -> tuple[Arrays, Labels, Arrays, Labels]:
    """Passages `[n, length]` as numbers of words, 0 for the rare, and labels: to learn, to test."""
    parts: dict[bool, list[tuple[list[str], int]]] = {False: [], True: []}
    for label, name in enumerate(MODULES):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8").lower()
        words = re.findall(r"[a-z]+|\d|[^\w\s]", text)
        for number, at in enumerate(range(0, len(words), BLOCK)):
            block = words[at : at + BLOCK]
            tested = number % TESTED == TESTED - 1
            for start in range(0, len(block) - LENGTH + 1, LENGTH if tested else LENGTH // 2):
                parts[tested].append((block[start : start + LENGTH], label))
    known = Counter(word for passage, _ in parts[False] for word in passage)
    numbers = {word: i + 1 for i, (word, _) in enumerate(known.most_common(VOCABULARY))}
    found: list[tuple[Arrays, Labels]] = []
    for part in parts.values():
        rows = [[numbers.get(word, 0) for word in passage] for passage, _ in part]
        found.append(({"words": np.array(rows)}, np.array([label for _, label in part])))
    return *found[0], *found[1]
