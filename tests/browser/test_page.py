"""Reports in a real browser: Debian's Chromium, at the widths of a phone and of a desktop."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from models import vit
from onnxprune.cli import main

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"),
]
MODELS = Path(__file__).resolve().parent.parent.parent / "models"
DIGITS, DATA = MODELS / "digits_cnn.onnx", MODELS / "digits_test.npz"

#: What each report is made by, in a folder with `vit.onnx`, `plan.json` and the pruned `o.onnx`.
RUNS: dict[str, list[object]] = {
    "prune": ["prune", DIGITS, "-o", "o.onnx", "--eval", DATA, "--plan-out", "plan.json"],
    # Names that are long, groups that are many, some of them statistical.
    "transformer": ["prune", "vit.onnx", "-o", "v.onnx", "--ratio", "0.3"],
    "apply": ["apply", DIGITS, "plan.json", "-o", "a.onnx"],
    "bench": ["bench", DIGITS, "o.onnx", "--seconds", "1"],
    "compare": ["compare", DIGITS, DIGITS],
    "sensitivity": ["sensitivity", DIGITS, "--eval", DATA, "--at", "0.25,0.75"],
    "sweep": ["sweep", DIGITS, "--eval", DATA, "--ratio", "0.3,0.6"],
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report of each run."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        onnx.save(vit.build(), "vit.onnx")
        for name, arguments in RUNS.items():
            done = CliRunner().invoke(
                main, [*map(str, arguments), "--report", f"{name}.html"], catch_exceptions=False
            )
            assert done.exit_code == 0, done.output
    return {name: folder / f"{name}.html" for name in RUNS}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        live = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if root else []
        )
        yield live
        live.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", RUNS)
def test_it_is_readable(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert said == [] and asked == [pages[name].as_uri()]
    # Nothing is wider than the screen, closed tables included.
    page.eval_on_selector_all("details", "all => all.forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.evaluate("getComputedStyle(document.body).color") != ground
    light = sum(int(part) for part in ground.strip("rgba()").split(",")[:3]) > 3 * 128
    assert light == (scheme == "light")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_what_is_drawn_can_be_seen(
    browser: Any, pages: dict[str, Path], width: int, scheme: str
) -> None:
    """Every bar has a size, and a colour that is not the ground's."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(pages["prune"].as_uri())
    page.eval_on_selector_all("details", "all => all.forEach(each => each.open = true)")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    fills = page.eval_on_selector_all(
        ".plot svg path[style*='--after'], .groups svg path[style*='--kept']",
        "all => all.map(e => [getComputedStyle(e).fill, e.getBoundingClientRect().width])",
    )
    assert fills and all(fill not in (ground, "none") and wide > 0 for fill, wide in fills)
    text = page.locator(".plot svg text").first
    assert text.is_visible() and text.bounding_box()["height"] >= 9
    page.close()


@pytest.mark.parametrize("name", RUNS)
def test_the_figures_are_those_of_the_json(browser: Any, pages: dict[str, Path], name: str) -> None:
    page = browser.new_page()
    page.goto(pages[name].as_uri())
    document = json.loads(page.text_content("#report"))
    shown = page.eval_on_selector_all(
        "data[data-key]", "all => all.map(e => [e.dataset.key, +e.value, e.textContent])"
    )
    assert shown
    for key, value, text in shown:
        assert value == at(document, key), key
        assert text.strip(), key
    if name == "prune":
        keys = {key for key, _, _ in shown}
        assert {"before.parameters", "after.macs", "latency.b.median", "evaluation.after"} <= keys
    page.close()


def at(document: Any, key: str) -> Any:
    """What stands at `a.0.b` in a JSON document."""
    for part in key.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document
