"""A real browser that drops files on the page of hub_cards.demo."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def open_browser() -> Iterator:
    """A Chromium with a microphone, and no background traffic of its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    flags = "no-sandbox disable-gpu use-fake-device-for-media-stream use-fake-ui-for-media-stream"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=[f"--{f}" for f in flags.split()])
        yield browser
        browser.close()


def drop(tab, address: str, file: Path) -> None:
    """Open the page and drop a file."""
    if tab.url != address:
        tab.goto(address)
    tab.set_input_files("input[type=file]", file)


def wait_for_answer(tab, name: str, seconds: float = 60) -> str:
    """The words of the answer on the file with this name."""
    tab.locator(".answer .file", has_text=name).wait_for(timeout=1000 * seconds)
    return " ".join(tab.inner_text(".answer").split())
