"""Learning curves of trained models: loss and dev EER by epoch with the chosen epoch marked, or the
log-likelihood of a Gaussian mixture by EM iteration. `python -m hub_cards.learning_curves --help`."""

import argparse
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from metrics.names import METRICS, format_value
from processing.corpus_names import DEMO_NOTE
from processing.files import write_figure

from .run_folder import RunFolder
from .several_runs import describe_trials, find_common_trials, read_runs


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "learning_curves"  # in the folder of a run
# A card shows a picture 700 to 800 pixels wide: 1600 stay sharp there, and 10 points become 13 pixels.
INCHES, DPI = 8, 200
DIAMOND = {"marker": "D", "markersize": 9, "markeredgecolor": "black"}  # at the chosen epoch
STYLES = ("-", "--")  # of the lines of one run in one panel
FEW_POINTS = 25  # are marked each
LOG_FROM_RATIO = 20  # of the highest to the lowest dev EER above 0


@dataclass(frozen=True)
class Panel:
    """One of the plots of a figure."""

    title: str  # of its vertical axis
    lines: dict[str, str]  # keys of the Trainer's log and what they are; the last has the diamond
    is_rate: bool = False  # fractions are drawn as per cent


CLASSES = {"log_likelihood_bonafide": "bona fide", "log_likelihood_spoof": "spoof"}
BY_ITERATION = (Panel("Log-likelihood per training frame (nats)", CLASSES),)
BY_EPOCH = (
    Panel("Loss", {"loss": "training loss", "eval_loss": "dev loss"}),
    Panel(f"Dev {METRICS['eer'].title} (%)", {"eval_eer": "dev EER"}, is_rate=True),
)


def draw_learning_curves(runs: Mapping[str, RunFolder]) -> "Figure":
    """
    Loss and dev EER by epoch of runs on the same dev trials, by their names in the legend; of runs of EM, the
    log-likelihood by iteration. FileNotFoundError: a run without `trainer_state.json` or `training.json`.
    ValueError: runs that have no axis or no trials in common, or a log without what is drawn.
    """
    from matplotlib.figure import Figure  # takes half a second

    from metrics.plots import CURVES

    logs = {name: _read_log(run) for name, run in runs.items()}
    is_em = any(run.log_likelihoods for run in runs.values())
    if not all(bool(run.log_likelihoods) == is_em for run in runs.values()):
        raise ValueError(
            "Iterations of EM and epochs of gradient descent have no axis in common: draw two figures."
        )
    panels, role = (BY_ITERATION, "train") if is_em else (BY_EPOCH, "dev")
    title = [", ".join(runs), describe_trials(find_common_trials(runs, [role]), role)]
    title += [DEMO_NOTE] if any(run.is_demo for run in runs.values()) else []
    colors = dict(zip(runs, cycle(CURVES), strict=False))

    height = 2 + 2.4 * len(panels) + 0.2 * len(runs)
    figure = Figure(figsize=(INCHES, height), layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)
    figure.suptitle("\n".join(textwrap.fill(part, 75) for part in title), fontsize=11, parse_math=False)
    plots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(plots, panels, strict=True):
        for name, run in runs.items():
            _draw_run(axes, panel, logs[name], run.chosen_evaluation, colors[name])
        _finish_panel(axes, panel)
    axes.set_xlabel("EM iteration" if is_em else "Epoch", fontsize=11)
    first, last = axes.get_xlim()
    axes.locator_params("x", nbins=10, integer=last - first > 2)  # whole epochs, where there are some

    markers = {name: DIAMOND if run.chosen_evaluation else {} for name, run in runs.items()}
    handles = [axes.plot([], [], color=colors[name], linewidth=2.2, **markers[name])[0] for name in runs]
    # Names are set last: matplotlib hides a label that begins with "_", and takes "$" for a formula.
    legend = figure.legend(handles, [""] * len(runs), loc="outside lower center", fontsize=10, frameon=False)
    for text, (name, run) in zip(legend.get_texts(), runs.items(), strict=True):
        summary = name + (_describe_em(run) if is_em else _describe_epochs(run))
        text.set(text=textwrap.fill(summary, 80), parse_math=False)
    return figure


def _read_log(run: RunFolder) -> list[dict]:
    path = run.folder / "trainer_state.json"
    if not run.trainer_state:
        raise FileNotFoundError(
            f"{path} not found, the log that learning curves are drawn from: train.py writes it beside the "
            "weights; a converted model has none."
        )
    log = run.trainer_state.get("log_history", [])
    for key in CLASSES if run.log_likelihoods else ["eval_eer"]:
        if not any(key in entry for entry in log):
            raise ValueError(f"{path}: log_history has no {key}, so there is nothing to draw.")
    return log


def _draw_run(axes: "Axes", panel: Panel, log: Sequence[dict], chosen: dict | None, color: str) -> None:
    """The lines of one run, with a dot at each point where they are few; a gid says what a line is."""
    scale = 100 if panel.is_rate else 1
    for key, style in zip(panel.lines, STYLES, strict=False):
        points = [(entry["epoch"], scale * entry[key]) for entry in log if key in entry]
        marker = "o" if len(points) <= FEW_POINTS else ""
        if points:
            axes.plot(*zip(*points, strict=True), style, color=color, linewidth=1.8, gid=key)
            axes.lines[-1].set(marker=marker, markersize=4, clip_on=False)
    if chosen:
        axes.axvline(chosen["epoch"], color=color, linestyle=":", linewidth=1.2, zorder=1)
        marked = list(panel.lines)[-1]
        if marked in chosen:
            at = chosen["epoch"], scale * chosen[marked]
            axes.plot(*at, color=color, linewidth=0, gid="chosen", zorder=3, clip_on=False, **DIAMOND)


def _finish_panel(axes: "Axes", panel: Panel) -> None:
    """Scale, names and legend, once all lines are drawn."""
    axes.margins(y=0.1)  # room for a diamond
    axes.set_ylabel(panel.title, fontsize=11)
    if panel.is_rate:
        _scale_rates(axes)
    if len(panel.lines) > 1:
        drawn = {line.get_gid() for line in axes.lines}
        for (key, label), style in zip(panel.lines.items(), STYLES, strict=True):
            if key in drawn:
                axes.plot([], [], style, color="#333333", linewidth=1.8, label=label)
        axes.legend(fontsize=10, loc="best", handlelength=3, framealpha=0.9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6")
    axes.tick_params(labelsize=10)


def _scale_rates(axes: "Axes") -> None:
    """From 0, and logarithmic where a linear axis would show a flat line."""
    rates = [rate for line in axes.lines if line.get_gid() == "eval_eer" for rate in line.get_ydata()]
    lowest = min((rate for rate in rates if rate > 0), default=0)
    if lowest and max(rates) > LOG_FROM_RATIO * lowest:
        # 0 has its place below the decade of the lowest.
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(lowest)), linscale=0.4)
        axes.set_ylabel(f"{axes.get_ylabel()}, log scale", fontsize=11)
    axes.set_ylim(0, None if lowest else 1)
    axes.yaxis.set_major_formatter("{x:g}")


def _describe_epochs(run: RunFolder) -> str:
    if run.is_average:
        of = run.training["averaging"]
        return f", average of {len(of['steps'])} checkpoints: dev EER {format_value('eer', of['eer'])}"
    if (chosen := run.chosen_evaluation) is None:
        return " (no epoch chosen)"
    by = run.training.get("chosen_by", "eer")
    why = "" if by in ("eer", "eval_eer") else f" by {by}"
    return f", chosen{why}: epoch {chosen['epoch']:.3g}, dev EER {format_value('eer', chosen['eval_eer'])}"


def _describe_em(run: RunFolder) -> str:
    last = max(entry["epoch"] for entry in run.trainer_state["log_history"] if CLASSES.keys() & entry.keys())
    dev = run.evaluation(*run.trials_of("dev"))
    eer = format_value("eer", dev.results["eer"]) if dev else "not measured"
    return f", after iteration {last}: dev EER {eer}"


def write_learning_curves(runs: Mapping[str, RunFolder], path: Path) -> None:
    """Write the PNG of [`draw_learning_curves`], whole or not at all; its folder is made. ValueError: another
    ending than .png."""
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png, and a PNG is written.")
    write_figure(path, draw_learning_curves(runs), dpi=DPI)


def add_learning_curves(run: RunFolder) -> None:
    """Write the PNG of a run to where its card looks for it; where nothing can be drawn, say why."""
    try:
        write_learning_curves({run.system: run}, run.folder / FOLDER / f"{run.system}.png")
    except (OSError, ValueError) as error:
        print(f"No learning curves of {run.system}: {error}")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("python -m hub_cards.learning_curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Folder of a trained model.")
    parser.add_argument(
        "--output", type=Path, required=True, help="PNG, e.g. learning_curves/MODEL_baseline_vs_improved.png"
    )
    args = parser.parse_args(argv)
    try:
        write_learning_curves(read_runs(args.runs), args.output.expanduser())
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    print(f"Learning curves: {args.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
