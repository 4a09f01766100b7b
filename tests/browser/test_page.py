"""Reports in a real browser: Debian's Chromium, at the widths of a phone and of a desktop."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from onnxprune.cli import main

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)"),
]
MODELS = Path(__file__).resolve().parent.parent.parent / "models"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    arguments = ["prune", MODELS / "digits_cnn.onnx", "-o", folder / "o.onnx"]
    arguments += ["--eval", MODELS / "digits_test.npz", "--report", folder / "report.html"]
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return folder / "report.html"


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
def test_it_is_readable(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == [] and asked == [page_file.as_uri()]
    # Nothing is wider than the screen, closed tables included.
    page.eval_on_selector_all("details", "all => all.forEach(each => each.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is drawn can be seen: every bar has a size, and a colour that is not the ground's.
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.evaluate("getComputedStyle(document.body).color") != ground
    fills = page.eval_on_selector_all(
        ".plot svg path[style*='--after'], .groups svg path[style*='--kept']",
        "all => all.map(e => [getComputedStyle(e).fill, e.getBoundingClientRect().width])",
    )
    assert fills and all(fill not in (ground, "none") and wide > 0 for fill, wide in fills)
    text = page.locator(".plot svg text").first
    assert text.is_visible() and text.bounding_box()["height"] >= 9
    page.close()


def test_the_figures_are_those_of_the_json(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    document = json.loads(page.inner_text("#report") or page.text_content("#report"))
    shown = page.eval_on_selector_all(
        "data[data-key]", "all => Object.fromEntries(all.map(e => [e.dataset.key, +e.value]))"
    )
    assert shown["before.parameters"] == document["before"]["parameters"]
    assert shown["after.macs"] == document["after"]["macs"]
    assert shown["latency.b.median"] == document["latency"]["b"]["median"]
    assert shown["evaluation.after"] == document["evaluation"]["after"]
    page.close()
