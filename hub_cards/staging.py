"""What of a run's folder is published: an explicit list of files, checked before anything leaves this
machine."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from jinja2.filters import do_filesizeformat

from processing.files import write_json
from processing.validation_set import VALIDATION_NAME

from .card import CARD_NAME, render_card
from .checks import find_leaks
from .learning_curves import FOLDER as CURVES
from .learning_curves import add_learning_curves
from .recipe import RECIPE_NAME
from .run_folder import CONVERSION_NAME, RunFolder, read_run


MANIFEST = "published.json"  # names what was published; of that, the next publication deletes what is stale
RECORDS = (RECIPE_NAME, "training.json", "trainer_state.json", CONVERSION_NAME)
TEXT = {".json", ".md", ".py", ".txt", ".yaml"}  # what is searched for paths and tokens


@contextmanager
def stage_files(run: RunFolder, repo_id: str, revision: str | None = None) -> Iterator[dict[str, Path]]:
    """
    Everything that is to be published, checked, by its path in the repository. Files of the run are links to
    it; what is made for the publication (the card, and the learning curves where the run has none) lies in a
    temporary folder, and the run's folder stays as it is.
    Errors: see [`find_files`] and [`~hub_cards.card.render_card`]; ValueError: a path of this machine or a
    token in a text.
    """
    with TemporaryDirectory(prefix="publish-") as temporary:
        # By the name of the run's folder, which is the system's name where there is no recipe.
        folder = Path(temporary) / run.folder.resolve().name
        for name, path in find_files(run).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())
        staged = read_run(folder)
        if staged.trainer_state and not (folder / CURVES / f"{run.system}.png").is_file():
            add_learning_curves(staged)
        (folder / CARD_NAME).write_text(str(render_card(staged, repo_id, revision)), encoding="utf-8")
        (folder / MANIFEST).touch()
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        write_json(folder / MANIFEST, list(files))
        leaks = []
        for name, path in files.items():
            if path.suffix in TEXT:
                leaks += find_leaks(name, path.read_text(encoding="utf-8"), run.folder.resolve())
        if leaks:
            raise ValueError(
                f"{run.folder} contains private paths or a token, so it is not published:\n  "
                + "\n  ".join(leaks)
                + "\nRemove that from the files. Revoke a token that was written down."
            )
        yield files


def find_files(run: RunFolder) -> dict[str, Path]:
    """
    The files of a run that are published as they are, by their path in the repository: those named here, and
    no others that the folder may hold. FileNotFoundError: one is missing without which the model does not
    load or a result is not proved. ValueError: scores that the results beside them are not of.
    """
    folder = run.folder
    required = [*run.weight_files, folder / "config.json", folder / "preprocessor_config.json"]
    required += find_code(run)
    optional = [
        *(folder / name for name in ("model.safetensors.index.json", *RECORDS)),
        *folder.glob(f"{CURVES}/*.png"),
    ]
    if run.config.get("calibration"):
        optional.append(folder / VALIDATION_NAME)
    for evaluation in run.evaluations:
        required += [evaluation.folder / "results.json", evaluation.folder / "scores.txt"]
        optional += [*evaluation.files, *evaluation.plots]
        under = evaluation.results.get("conditions", ())
        optional += [evaluation.folder / "conditions" / name / "scores.txt" for name in under]
    for path in required:
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no {path.relative_to(folder)}, which the model or its results need. Train "
                "or evaluate again, or copy the missing file there (code from modeling/ or processing/)."
            )
    for path in (*required, *optional):
        if folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{path} leads out of {folder}, so it is not published: copy its content there.")
    files = {path.relative_to(folder).as_posix(): path for path in (*required, *optional) if path.is_file()}
    files = {name: path for name, path in files.items() if "/." not in f"/{name}"}  # hidden
    for evaluation in run.evaluations:
        _ = evaluation.scores  # an error, if they are not what the results are of
    return files


def find_code(run: RunFolder) -> set[Path]:
    """The modules that `auto_map` in the configs names and those beside them that they import, as far as the
    first that is missing."""
    from transformers.dynamic_module_utils import get_relative_import_files  # takes half a second

    auto_maps = [config.get("auto_map") or {} for config in (run.config, run.feature_extractor)]
    references = [reference for auto_map in auto_maps for reference in auto_map.values()]
    names = {reference.split(".")[0] for reference in references}
    modules = {run.folder / f"{name}.py" for name in names}
    try:
        return modules.union(*(map(Path, get_relative_import_files(module)) for module in modules))
    except FileNotFoundError as error:
        return {Path(error.filename)}


def describe_files(run: RunFolder, files: dict[str, Path]) -> str:
    """What would be published, with sizes and where it comes from, and what would stay behind."""
    width = max(map(len, files))
    lines = []
    for name, path in files.items():
        origin = "from the run" if path.is_symlink() else "rendered"
        lines.append(f"  {name:<{width}}  {format_total_size(path):>9}  {origin}")
    lines.append(f"{len(files)} files, {format_total_size(*files.values())}")
    if left := find_unpublished(run.folder, files):
        lines.append(f"Not published: {', '.join(left)}")
    return "\n".join(lines)


def find_unpublished(folder: Path, files: Collection[str]) -> list[str]:
    """Files of a run's folder that are not published, and folders of which nothing is, with their sizes."""
    parents = {parent for name in files for parent in PurePath(name).parents}
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parent in parents and name not in parents and name.as_posix() not in files:
            inside = [file for file in (path, *path.rglob("*")) if file.is_file()]
            found.append(f"{name}{'/' if path.is_dir() else ''} ({format_total_size(*inside)})")
    return found


def format_total_size(*paths: Path) -> str:
    """How large files are together."""
    return do_filesizeformat(sum(path.stat().st_size for path in paths))
