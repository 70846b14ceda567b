"""What of a run's folder is published: an explicit list of files, checked before anything leaves the
machine."""

import ast
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from huggingface_hub import get_token

from .recipe import RECIPE_NAME
from .run_folder import CONVERSION_NAME, Evaluation, RunFolder


MANIFEST = (
    "published.json"  # the names of what was published, by which the next publication finds what is stale
)
PNG = b"\x89PNG\r\n\x1a\n"
STATE_NAME = "trainer_state.json"
TEXT = {".json", ".md", ".py", ".txt", ".yaml"}  # what is searched for paths and tokens


def files_to_publish(run: RunFolder) -> dict[str, Path]:
    """
    The files of a run that are published as they are, by their path in the repository: those named here, and
    no others that the folder may hold.

    Raises:
        FileNotFoundError: a file is missing without which the model does not load or a result is not proved.
        ValueError: a link out of the folder.
    """
    folder = run.folder
    required = [*run.weight_files, folder / "config.json", folder / "preprocessor_config.json"]
    required += [folder / name for name in _code_files(run)]
    optional = [folder / "model.safetensors.index.json", folder / RECIPE_NAME, folder / "training.json"]
    optional += [folder / STATE_NAME, folder / CONVERSION_NAME]
    optional += sorted((folder / "learning_curves").glob("*.png"))
    for evaluation in run.evaluations:
        required += [evaluation.folder / "results.json", evaluation.folder / "scores.txt"]
        optional += evaluation.plots
    for path in required:
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {path.relative_to(folder)}, which belongs to the model or to its "
                "results. Train or evaluate again, or copy the missing file there."
            )
    files = {path.relative_to(folder).as_posix(): path for path in (*required, *optional) if path.is_file()}
    files = {name: path for name, path in files.items() if not re.search(r"(^|/)\.", name)}  # hidden
    for path in files.values():
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{path} is a link to {path.resolve()}, outside of the run: put the file there.")
        if path.suffix == ".png" and not path.read_bytes().startswith(PNG):
            raise ValueError(f"{path} is no PNG picture: remove it.")
    for evaluation in run.evaluations:
        _check_scores(evaluation)
    return files


def _check_scores(evaluation: Evaluation) -> None:
    """
    Raises:
        ValueError: a score file that is not the one that the results are of.
    """
    path = evaluation.folder / "scores.txt"
    lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    keys = Counter(fields[2] if len(fields) == 4 else "?" for fields in lines)
    expected = {key: evaluation.results[f"num_{key}"] for key in ("bonafide", "spoof")}
    if {**dict.fromkeys(expected, 0), **keys} != expected:
        raise ValueError(
            f"{path} has {dict(keys)} lines of `utterance_id attack key score`, but results.json beside it "
            f"has {expected} trials: evaluate the model anew by eval.py --overwrite."
        )


def _code_files(run: RunFolder) -> list[str]:
    """
    The modules that `auto_map` of the configs names, and what they import of their siblings.

    Raises:
        FileNotFoundError, ValueError: one of them is missing, lies elsewhere, or is not Python.
    """
    waiting, found = [], []
    for name, config in (("config.json", run.config), ("preprocessor_config.json", run.feature_extractor)):
        for reference in (config.get("auto_map") or {}).values():
            if "--" in str(reference):
                raise ValueError(f"{run.folder / name}, auto_map: {reference} is code of another repository.")
            waiting.append((str(reference).split(".")[0] + ".py", f"{name}, auto_map"))
    while waiting:
        name, why = waiting.pop()
        if name in found:
            continue
        found.append(name)
        path = run.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{run.folder} holds no {name}, which {why} asks for: the model would not load elsewhere. "
                "Copy it there from modeling/."
            )
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a Python module: {error}") from None
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                modules = [node.module] if node.module else [alias.name for alias in node.names]
                waiting += [(f"{module.split('.')[0]}.py", name) for module in modules]
    return sorted(found)


@contextmanager
def prepared(run: RunFolder, repo_id: str, revision: str | None = None) -> Iterator[dict[str, Path]]:
    """
    Everything that is to be published, checked, by its path in the repository. Files of the run are links to
    it; what is made for the publication (the card, the learning curves where the run has none, and the
    Trainer's log without the folder's path) lies in a temporary folder, and the run's folder stays as it is.

    Raises:
        FileNotFoundError, ValueError: see [`files_to_publish`], or a path of this machine or a token in a
            text, or a card that is not valid.
    """
    from .card import render_card
    from .checks import check_card
    from .learning_curves import add_learning_curves

    with TemporaryDirectory(prefix="publish-") as temporary:
        # By the name of the run's folder, which is the system's name where there is no recipe.
        folder = Path(temporary) / run.folder.resolve().name
        for name, path in files_to_publish(run).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())
        state = run.trainer_state
        if state and (best := state.get("best_model_checkpoint")):
            state = {**state, "best_model_checkpoint": Path(best).name}
            (folder / STATE_NAME).unlink()
            (folder / STATE_NAME).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
        evaluations = [
            Evaluation(folder / found.folder.relative_to(run.folder), found.results)
            for found in run.evaluations
        ]
        staged = dataclasses.replace(run, folder=folder, trainer_state=state, evaluations=evaluations)
        curves = folder / "learning_curves" / f"{run.system}.png"
        if state and state.get("log_history") and not curves.is_file():
            add_learning_curves(staged)
        card = str(render_card(staged, repo_id, revision))
        (folder / "README.md").write_text(card, encoding="utf-8")
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        (folder / MANIFEST).write_text(json.dumps(sorted([*names, MANIFEST]), indent=2) + "\n")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        check_card(card, files)
        _check_texts(run, files)
        yield files


def _check_texts(run: RunFolder, files: dict[str, Path]) -> None:
    """
    Raises:
        ValueError: a path of this machine or a token in a text that is to be published.
    """
    from .checks import check_text, local_values

    problems = []
    for name, path in files.items():
        if path.suffix not in TEXT:
            continue
        text = path.read_text(encoding="utf-8")
        found = check_text(name, text)
        if not found and path.suffix in (".json", ".yaml"):
            content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
            found = [f"{name}: a path of a machine, {value}" for value in local_values(content)]
        if not found and str(run.folder.resolve()) in text:
            found = [f"{name}: the path of the run, {run.folder.resolve()}"]
        if (token := get_token()) and token in text:
            found = [*found, f"{name}: the token that you are logged in by"]
        problems += found
    if problems:
        raise ValueError(
            f"{run.folder} is not published, for it would tell what is not for others:\n  "
            + "\n  ".join(problems)
            + "\nRemove that from the files. A token that was written down is to be revoked, too."
        )


def left_behind(folder: Path, files: Collection[str]) -> dict[str, int]:
    """Size of what is in a run's folder and not published, by file, or by folder where it is all of it."""
    sizes: dict[str, int] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
        relative = path.relative_to(folder)
        if relative.as_posix() in files:
            continue
        parents = [parent.as_posix() + "/" for parent in reversed(relative.parents[:-1])]
        whole = (parent for parent in parents if not any(name.startswith(parent) for name in files))
        name = next(whole, relative.as_posix())
        sizes[name] = sizes.get(name, 0) + path.lstat().st_size
    return sizes
