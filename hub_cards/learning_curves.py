"""Learning curves of trained models: loss and dev EER by epoch with the chosen epoch marked, or the
log-likelihood of a Gaussian mixture by EM iteration. `python -m hub_cards.learning_curves --help`."""

import argparse
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from processing.files import write_figure

from .run_folder import RunFolder, read_runs


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A card shows a picture 700 to 800 pixels wide: 1600 stay sharp there, and 10 points become 13 pixels.
INCHES, DPI = 8, 200
MAX_RUNS = 7  # colours that the colour-blind tell apart
FEW_POINTS = 25  # are marked each
LOG_FROM_RATIO = 20  # of the highest to the lowest dev EER above 0
CLASSES = {"log_likelihood_bonafide": "bona fide", "log_likelihood_spoof": "spoof"}

FOLDER = "learning_curves"  # in the folder of a run

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Curves:
    """
    What is drawn of one run.

    Attributes:
        color: of all its lines.
        lines: points (epoch, value) by what they are: a key of the Trainer's log.
        chosen: the log's entry of the evaluation that the weights are of; `None` where none was chosen.
        summary: the run in the legend.
    """

    color: str
    lines: dict[str, Points]
    chosen: dict | None
    summary: str


def write_learning_curves(run: RunFolder, path: Path) -> None:
    """
    Write the PNG of one run, whole or not at all; its folder is made.

    Raises:
        ValueError, FileNotFoundError: see [`draw_learning_curves`].
    """
    _write(draw_learning_curves({run.system: run}), path)


def add_learning_curves(run: RunFolder) -> None:
    """Write the PNG of a run to where its card looks for it; where nothing can be drawn, say why."""
    try:
        write_learning_curves(run, run.folder / FOLDER / f"{run.system}.png")
    except (OSError, ValueError) as error:
        print(f"No learning curves of {run.system}: {error}")


def draw_learning_curves(runs: Mapping[str, RunFolder]) -> "Figure":
    """
    Loss and dev EER by epoch of runs on the same dev trials; of runs of EM, the log-likelihood by iteration.

    Args:
        runs: by their names in the legend.

    Raises:
        FileNotFoundError: a run without `trainer_state.json` or `training.json`.
        ValueError: no run, or too many; runs of different dev trials, or of EM beside others; a log without
            what is to be drawn.
    """
    from matplotlib.figure import Figure

    from metrics import plots  # loads torch, and matplotlib takes a second

    if not 1 <= len(runs) <= MAX_RUNS:
        raise ValueError(f"{len(runs)} runs: one figure shows 1 to {MAX_RUNS}. Draw several.")
    logs = {name: _log(run) for name, run in runs.items()}
    by_em = {name: any(key in entry for entry in log for key in CLASSES) for name, log in logs.items()}
    if len(set(by_em.values())) > 1:
        em, gradient = (next(name for name in by_em if by_em[name] is kind) for kind in (True, False))
        raise ValueError(
            f"{em} was trained by EM, whose iterations have a log-likelihood, and {gradient} by gradient "
            "descent, whose epochs have a loss: they have no axis in common. Draw them in two figures."
        )
    is_em = any(by_em.values())
    trials = _same_trials(runs, "train" if is_em else "dev")
    colors = (*plots.CURVES, "#e69f00", "#56b4e9", plots.LINE)
    of_run = _em_curves if is_em else _gradient_curves
    curves = [of_run(name, run, logs[name], colors[i]) for i, (name, run) in enumerate(runs.items())]

    height = (4.4 if is_em else 6.8) + 0.2 * len(runs)
    figure = Figure(figsize=(INCHES, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    title = textwrap.wrap(", ".join(runs), 75) + textwrap.wrap(trials, 85)
    figure.suptitle("\n".join(title), fontsize=11, parse_math=False)
    panels = figure.subplots(1 if is_em else 2, 1, sharex=True, squeeze=False)[:, 0]
    (_draw_em if is_em else _draw_gradient)(panels, curves)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e6e6")
        axes.tick_params(labelsize=10)
    _add_legend(figure, curves)
    return figure


def _log(run: RunFolder) -> list[dict]:
    path = run.folder / "trainer_state.json"
    if run.trainer_state is None:
        raise FileNotFoundError(
            f"There is no {path}, the log that learning curves are drawn from: train.py writes it beside the "
            "weights; a converted model has none."
        )
    log = run.trainer_state.get("log_history")
    if not log:
        raise ValueError(f"{path}: log_history is empty, so there is nothing to draw.")
    return log


def _same_trials(runs: Mapping[str, RunFolder], role: str) -> str:
    """Corpus, split and counts of the train or dev trials, which must be the same for all, in words."""
    described = {}
    for name, run in runs.items():
        path = run.folder / "training.json"
        if run.training is None:
            raise FileNotFoundError(f"There is no {path}, which says what the {role} trials are: train anew.")
        try:
            corpus, split = run.training["corpus"], run.training["splits"][role]
            counts = run.training["counts"][role]
            described[name] = f"{corpus} {split}: {counts['bonafide']:,} bona fide, {counts['spoof']:,} spoof"
        except KeyError as error:
            raise ValueError(
                f"{path} has no {error}: an older train.py wrote it, and what the {role} trials are is "
                "not known. Train anew."
            ) from None
    (first, text), *others = described.items()
    for name, other in others:
        if other != text:
            raise ValueError(
                f"The {role} trials of {first} are {text}; those of {name} are {other}. Curves of different "
                "trials can't be compared: draw them in two figures."
            )
    if any(run.is_demo for run in runs.values()):
        text += "; a synthetic demo corpus: its numbers mean nothing about real speech"
    return text


def _points(log: Sequence[dict], key: str) -> Points:
    return [(entry["epoch"], entry[key]) for entry in log if key in entry]


def _gradient_curves(name: str, run: RunFolder, log: Sequence[dict], color: str) -> _Curves:
    path = run.folder / "trainer_state.json"
    lines = {key: _points(log, key) for key in ("loss", "eval_loss", "eval_eer")}
    if not lines["eval_eer"]:
        raise ValueError(f"{path}: no entry of log_history has an eval_eer: there was no evaluation on dev.")
    lines["eval_eer"] = [(epoch, 100 * eer) for epoch, eer in lines["eval_eer"]]
    step = run.chosen_step
    if step is None:
        return _Curves(color, lines, None, f"{name} (no epoch chosen)")
    chosen = next((entry for entry in log if entry.get("step") == step and "eval_eer" in entry), None)
    if chosen is None:
        raise ValueError(f"{path}: best_global_step is {step}, but log_history has no evaluation there.")
    by = run.training.get("chosen_by", "eer")
    why = "" if by in ("eer", "eval_eer") else f" by {by}"
    summary = f"{name}, chosen{why}: epoch {chosen['epoch']:.3g}, dev EER {100 * chosen['eval_eer']:.3f} %"
    return _Curves(color, lines, chosen, summary)


def _em_curves(name: str, run: RunFolder, log: Sequence[dict], color: str) -> _Curves:
    lines = {key: _points(log, key) for key in CLASSES}
    if missing := [key for key, points in lines.items() if not points]:
        raise ValueError(
            f"{run.folder / 'trainer_state.json'}: no entry of log_history has a {missing[0]}: both classes "
            "must have been trained."
        )
    summary = f"{name}, after iteration {max(epoch for points in lines.values() for epoch, _ in points)}"
    dev = run.evaluation(run.training["corpus"], run.training["splits"]["dev"])
    eer = "not measured" if dev is None else f"{100 * dev.results['eer']:.3f} %"
    return _Curves(color, lines, None, f"{summary}: dev EER {eer}")


def _draw_gradient(panels: Sequence["Axes"], curves: Sequence[_Curves]) -> None:
    loss, eer = panels
    for of_run in curves:
        _line(loss, of_run, "loss", "-")
        _line(loss, of_run, "eval_loss", "--")
        _line(eer, of_run, "eval_eer", "-")
        if of_run.chosen:
            _mark(loss, of_run, of_run.chosen.get("eval_loss"))
            _mark(eer, of_run, 100 * of_run.chosen["eval_eer"])
    loss.set_ylabel("Loss", fontsize=11)
    _name_styles(loss, curves, {"loss": ("training loss", "-"), "eval_loss": ("dev loss", "--")})
    _scale_of_eer(eer, [value for of_run in curves for _, value in of_run.lines["eval_eer"]])
    eer.set_xlabel("Epoch", fontsize=11)
    _whole_epochs(eer)


def _draw_em(panels: Sequence["Axes"], curves: Sequence[_Curves]) -> None:
    (axes,) = panels
    styles = dict(zip(CLASSES, ("-", "--"), strict=True))
    for of_run in curves:
        for key, style in styles.items():
            _line(axes, of_run, key, style)
    axes.set_ylabel("Log-likelihood per training frame (nats)", fontsize=11)
    _name_styles(axes, curves, {key: (CLASSES[key], style) for key, style in styles.items()})
    axes.set_xlabel("EM iteration", fontsize=11)
    _whole_epochs(axes)


def _line(axes: "Axes", curves: _Curves, key: str, style: str) -> None:
    """One line, with a dot at each point where they are few; its gid says what it is."""
    points = curves.lines[key]
    if not points:
        return
    marker = "o" if len(points) <= FEW_POINTS else ""
    axes.plot(*zip(*points, strict=True), style, color=curves.color, linewidth=1.8, gid=key)
    axes.lines[-1].set(marker=marker, markersize=4)


def _mark(axes: "Axes", curves: _Curves, value: float | None) -> None:
    """The chosen epoch: a dotted line and, where there is a value, a diamond."""
    epoch = curves.chosen["epoch"]
    axes.axvline(epoch, color=curves.color, linestyle=":", linewidth=1.2, zorder=1)
    if value is not None:
        axes.plot(epoch, value, gid="chosen", zorder=3, clip_on=False, **_diamond(curves.color))


def _diamond(color: str) -> dict:
    return {"marker": "D", "markersize": 9, "color": color, "markeredgecolor": "black", "linewidth": 0}


def _name_styles(axes: "Axes", curves: Sequence[_Curves], styles: Mapping[str, tuple[str, str]]) -> None:
    """A legend of what solid and dashed lines are, of those that are there."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color="#333333", linestyle=style, linewidth=1.8, label=name)
        for key, (name, style) in styles.items()
        if any(of_run.lines[key] for of_run in curves)
    ]
    axes.legend(handles=handles, fontsize=10, loc="best", handlelength=3, framealpha=0.9)


def _add_legend(figure: "Figure", curves: Sequence[_Curves]) -> None:
    """The runs and their chosen epochs, below everything."""
    from matplotlib.lines import Line2D

    handles = []
    for of_run in curves:
        style = _diamond(of_run.color) | {"linewidth": 2.2}
        handles.append(
            Line2D([], [], **(style if of_run.chosen else {"color": of_run.color, "linewidth": 2.2}))
        )
    # Names are set last: matplotlib hides a label that begins with "_", and takes "$" for a formula.
    legend = figure.legend(
        handles, range(len(handles)), loc="outside lower center", fontsize=10, frameon=False
    )
    for text, of_run in zip(legend.get_texts(), curves, strict=True):
        text.set(text="\n".join(textwrap.wrap(of_run.summary, 80)), parse_math=False)


def _scale_of_eer(axes: "Axes", percentages: Sequence[float]) -> None:
    """From 0, or logarithmic where a linear axis would show a flat line."""
    from matplotlib.ticker import FuncFormatter

    lowest = min((value for value in percentages if value > 0), default=0)
    name = "Dev EER (%)"
    if lowest and max(percentages) > LOG_FROM_RATIO * lowest:
        name += ", log scale"
        if min(percentages) > 0:
            axes.set_yscale("log")
        else:  # 0 has its place below the decade of the lowest
            axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(lowest)), linscale=0.4)
            axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(0, None if lowest else 1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel(name, fontsize=11)


def _whole_epochs(axes: "Axes") -> None:
    """Ticks at whole epochs where there are some."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=high - low > 2))


def _write(figure: "Figure", path: Path) -> None:

    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png, and a PNG is written.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(path, figure, dpi=DPI)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m hub_cards.learning_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a trained model.")
    parser.add_argument(
        "--output", type=Path, required=True, help="PNG, e.g. learning_curves/MODEL_baseline_vs_improved.png"
    )
    args = parser.parse_args(argv)
    try:
        _write(draw_learning_curves(read_runs(args.runs)), args.output.expanduser())
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"Learning curves: {args.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
