"""Spaces of the Hub, each staged with all the files that it runs from: the page of demo.py with a published
model, and a metric in the form of `evaluate`."""

import configparser
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import SpaceCard

from processing.files import write_json, write_text

from .card import CARD_NAME
from .staging import MANIFEST
from .templates import render_template


ROOT = Path(__file__).parents[1]
ROOMS = ("hub_cards", "metrics", "modeling", "processing")
SDK = {
    "sdk": "gradio",
    "sdk_version": "6.31.0",
    "python_version": "3.11",
    "app_file": "app.py",
    "pinned": False,
}
# The modules of `evaluate` in metrics/, each with arguments that its page starts with.
KEYS = {"references": ["bonafide", "bonafide", "spoof", "spoof"]}
TANDEM_KEYS = {"references": ["target", "target", "nontarget", "spoof"]}
SCORES = {"predictions": [2.0, 0.5, 1.0, -1.0]}
METRICS = {
    "eer": SCORES | KEYS,
    "min_tdcf": SCORES | KEYS | {"p_miss_asv": 0.025, "p_fa_asv": 0.025, "p_fa_spoof_asv": 0.76},
    "asvspoof5": SCORES | KEYS,
    "a_dcf": SCORES | TANDEM_KEYS,
    "t_eer": SCORES | TANDEM_KEYS | {"asv_scores": [3.0, 2.0, 0.5, 3.5]},
}


@contextmanager
def stage_page(space: str, model: str, commit: str) -> Iterator[dict[str, Path]]:
    """
    The files of the page with a commit of a model, by their names in the Space: what is rendered, and all
    code of this checkout, which is no package that a Space could install.
    """
    from .case_report import find_commit  # imports torch

    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    code += [*(ROOT / "hub_cards").glob("*.html"), ROOT / "LICENSE"]
    values = {"space": space, "model": model, "commit": commit, "code": find_commit(), "sdk": SDK}
    with TemporaryDirectory(prefix="publish-") as temporary:
        folder = Path(temporary)
        for name, template in (("app.py", "space_app.txt"), (CARD_NAME, "space_card.md")):
            _render(folder / name, template, **values)
        write_text(folder / "requirements.txt", _list_requirements())
        yield _add_code(folder, {path.relative_to(ROOT).as_posix(): path for path in code})


@contextmanager
def stage_metric(name: str, space: str) -> Iterator[dict[str, Path]]:
    """The files of a metric of [`METRICS`], by their names in the Space, where `evaluate.load` finds it."""
    from transformers.dynamic_module_utils import get_relative_import_files  # takes half a second

    module = ROOT / "metrics" / f"{name}.py"
    code = [module, *map(Path, get_relative_import_files(module)), ROOT / "LICENSE"]
    card = SpaceCard.load(module.with_suffix(".md"))
    for key, value in SDK.items():
        card.data[key] = value
    card.text = card.text.replace(f"metrics/{name}.py", space)
    example = ",\n  ".join(f'"{key}": {json.dumps(value)}' for key, value in METRICS[name].items())
    values = {"module": name, "space": space, "title": card.data.title, "example": example}
    with TemporaryDirectory(prefix="publish-") as temporary:
        folder = Path(temporary)
        card.save(folder / CARD_NAME)
        _render(folder / "app.py", "space_metric.txt", **values)
        write_text(folder / "requirements.txt", _list_requirements("evaluate|gradio|numpy|scipy"))
        yield _add_code(folder, {path.name: path for path in code})


def _render(path: Path, template: str, **values) -> None:
    where, remedy = "the Space", "publish it again"
    write_text(path, render_template(template, where=where, remedy=remedy, **values) + "\n")


def _list_requirements(pattern: str = ".*") -> str:
    """Those of this checkout and of the page, a line each, whose names match the pattern."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings["options"]["install_requires"] + settings["options.extras_require"]["demo"]
    return "".join(f"{line}\n" for line in lines.split() if re.match(rf"({pattern})\W", f"{line} "))


def _add_code(folder: Path, code: Mapping[str, Path]) -> dict[str, Path]:
    """The code, what was rendered into the folder, and the manifest of all, by their names."""
    files = {**code, **{path.name: path for path in folder.iterdir()}, MANIFEST: folder / MANIFEST}
    write_json(folder / MANIFEST, sorted(files))
    return dict(sorted(files.items()))
