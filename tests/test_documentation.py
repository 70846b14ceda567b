"""What the READMEs say by links and Python holds."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".", "hub_cards", "metrics", "modeling", "processing", "tests/benchmarks")
PAGES = [page for folder in FOLDERS for page in sorted((ROOT / folder).glob("[A-Z]*.md"))]
PAGES += sorted((ROOT / "metrics").glob("[a-z]*.md"))
PAGES = {page.relative_to(ROOT).as_posix(): page for page in PAGES}


def read_prose(page: str) -> str:
    """The page without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[page].read_text(), flags=re.DOTALL)


def find_anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_files_and_headings(page):
    links = re.findall(r"\]\(([^)\s]+)\)", read_prose(page))

    broken = []
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (PAGES[page].parent / path) if path else PAGES[page]
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_compiles(page):
    for code in re.findall(r"```python\n(.*?)```", PAGES[page].read_text(), re.DOTALL):
        compile(code, page, "exec")


@pytest.mark.parametrize("page", ["metrics/README.md"])
def test_python_of_a_page_prints_what_its_comments_say(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for code in re.findall(r"```python\n(.*?)```", PAGES[page].read_text(), re.DOTALL):
        exec(code, {})

        expected = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == expected != []
