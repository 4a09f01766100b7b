"""Pages of Markdown, and their code blocks, run in order in a folder as a reader would run them.

- `sh` blocks run in bash, and stop at the first line that fails; `python` blocks share one module.
- A block with a title (```` ```toml title="ratios.toml" ````) is a file: it is written, not run.
- A `text` block is what the block before it printed: each of its lines must have been printed,
  but for those with figures that are another machine's next time (times, last bits) and `…`.
- `toml`, `json` and `yaml` blocks without a title must parse.

A comment ahead of a block says what else is to be known of it:

    <!-- test: needs torch -->        runs where these modules are; elsewhere a stand-in goes on
    <!-- test: exit 1 -->             fails, with this code
    <!-- test: figures vary -->       a `text` block that another run prints other figures of
    <!-- test: skip, the reason -->   nothing that a test could run
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent

_BLOCK = re.compile(
    r"(?:^ *<!-- test: (?P<test>.*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)(?P<rest>[^\n]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
#: Lines of output that differ from machine to machine, or from run to run; rules of tables.
_VARIES = re.compile(r"^─+$|\bms\b|×|e-\d\d|Timed|Certified|seconds|…")
#: Targets of time may be missed on a machine that is busy with other tests.
_SHIM = """#!/bin/sh
"{python}" -m onnxprune "$@"
code=$?
case "$*" in *latency=*|*speedup=*) [ $code = 1 ] && exit 0 ;; esac
exit $code
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    code: str
    line: int
    title: str = ""
    #: What the comment ahead of it says, or "".
    test: str = ""

    @property
    def needs(self) -> list[str]:
        """The modules that it can't run without."""
        return self.test.split()[1:] if self.test.startswith("needs ") else []

    @property
    def code_expected(self) -> int:
        """The exit code that it ends with."""
        return int(self.test.split()[1]) if self.test.startswith("exit ") else 0


def blocks(text: str, language: str = "") -> list[Block]:
    """The fenced blocks of a page, in order; of one language, if it is given."""
    found = [
        Block(
            match["language"],
            textwrap.dedent(match["code"]),
            text[: match.start("code")].count("\n") + 1,
            title[1] if (title := re.search(r'title="([^"]*)"', match["rest"])) else "",
            match["test"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
    return [block for block in found if language in ("", block.language)]


def missing(names: list[str]) -> list[str]:
    """Those of the modules that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def lay_out(folder: Path) -> None:
    """What a page may take for granted: the repository's folders, and commands on the path."""
    for name in ("models", "examples", "rules"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".tools").mkdir()
    for name, script in (
        ("pip", "#!/bin/sh\n"),  # what the tests run in is installed already
        ("onnxprune", _SHIM.format(python=sys.executable)),
        ("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'),
    ):
        path = folder / ".tools" / name
        path.write_text(script)
        path.chmod(0o755)


class Reader:
    """Somebody who follows a page in `folder`, block by block."""

    def __init__(self, folder: Path, stand_in: Callable[[Path], None] | None = None) -> None:
        self.folder = folder
        #: What writes the files that blocks write whose needs are not met.
        self.stand_in = stand_in
        self.printed = ""
        self.globals: dict[str, Any] = {"__name__": "__main__"}
        if not (folder / ".tools").exists():
            lay_out(folder)

    def follow(self, page: list[Block]) -> None:
        """Run the blocks in order. Raises AssertionError with the line that did not work."""
        exact = True
        for block in page:
            if block.test.startswith("skip"):
                continue
            if block.needs and self.stand_in is not None:
                # What follows works, with other figures.
                self.stand_in(self.folder)
                exact = False
                continue
            if block.title and block.language != "text":
                path = self.folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_with_snippets(block.code))
            elif block.language == "sh":
                self._shell(block)
            elif block.language == "python":
                self._python(block)
            elif block.language == "text" and exact and block.test != "figures vary":
                self._compare(block)
            else:
                parse(block)

    def _shell(self, block: Block) -> None:
        env = {
            **os.environ,
            "PATH": f"{self.folder / '.tools'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block.code],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        self.printed = done.stdout
        assert done.returncode == block.code_expected, (
            f"line {block.line}: exit code {done.returncode}\n{block.code}\n{done.stdout}"
        )

    def _python(self, block: Block) -> None:
        said = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.code, "page", "exec")
        with _inside(self.folder), contextlib.redirect_stdout(said):
            exec(code, self.globals)
        self.printed = said.getvalue()

    def _compare(self, block: Block) -> None:
        printed = {" ".join(line.split()) for line in self.printed.splitlines()}
        for line in block.code.splitlines():
            words = " ".join(line.split())
            assert words in printed or not words or _VARIES.search(words), (
                f"line {block.line}: this is not printed: {line}\nbut this is:\n{self.printed}"
            )


def _with_snippets(code: str) -> str:
    """The files that the documentation's builder puts in place of `--8<-- "PATH"`."""
    return re.sub(
        r'^--8<-- "(.*)"$', lambda m: (ROOT / m[1]).read_text().rstrip(), code, flags=re.MULTILINE
    )


def parse(block: Block) -> None:
    """A block of data is what its language says."""
    if block.language == "toml":
        tomllib.loads(block.code)
    elif block.language == "json":
        json.loads(block.code)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
