"""Plots of scores and error rates. Each function returns a matplotlib figure, which a notebook shows."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.special import ndtr, ndtri

from .det import det_curve, equal_error_rate


BONAFIDE, SPOOF, LINE = "#0072b2", "#d55e00", "#333333"  # told apart by the colour-blind, too
CURVES = (BONAFIDE, SPOOF, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", LINE)  # of the systems
NOTE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}  # box of a text over a plot
RATE_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
MARKER = {"color": LINE, "markerfacecolor": "none", "linewidth": 0, "clip_on": False, "zorder": 3}
MARKER_SIZE = 7
MAX_POINTS = 4000  # of a DET curve; more are not seen


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold that is marked on a DET curve."""

    name: str
    threshold: float


def plot_det(
    systems: Mapping[str, tuple[np.ndarray, np.ndarray]],
    points: Mapping[str, Sequence[OperatingPoint]] | None = None,
    *,
    title: str = "",
) -> Figure:
    """
    Detection error trade-off on normal deviate axes, of (bona fide scores, spoof scores) and operating points
    by the name of a system. The curve of a system without errors is hidden by the axes, so a text says so.
    Errors: see [`metrics.det.check_scores`].
    """
    figure, axes = make_axes(6.4, 6.4, title)
    lowest, highest = 0.05, 0.6
    drawn, without_errors = [], []
    for (name, scores), color in zip(systems.items(), itertools.cycle(CURVES), strict=False):
        frr, far, thresholds = det_curve(*scores)
        eer, _ = equal_error_rate(*scores)
        if eer == 0:
            without_errors.append(name)
        lowest = min(lowest, 0.5 / max(map(len, scores)))
        highest = max(highest, 0.99 if eer > 0.35 else 0)
        kept = _find_corners(frr, far)
        drawn += axes.plot(far[kept], frr[kept], color=color, label=name, linewidth=1.8)
        for i, point in enumerate((points or {}).get(name, ())):
            at = max(int(np.searchsorted(thresholds, point.threshold, side="right")) - 1, 0)
            if max(far[at], frr[at]) > highest:
                highest = 1  # of which the scale below makes a finite edge
            size = MARKER_SIZE + 4 * i  # points that coincide stay visible, one around the other
            drawn += axes.plot(far[at], frr[at], "osD"[i % 3], label=point.name, markersize=size, **MARKER)
    lowest, highest = max(lowest, RATE_TICKS[0]), min(highest, 1 - lowest)
    axes.plot([lowest, 0.5], [lowest, 0.5], color="#bbbbbb", linewidth=1, linestyle="--", zorder=0)
    if without_errors:
        note = "\n".join(
            f"No errors: EER 0 % ({name}); the curve lies on the axes." for name in without_errors
        )
        axes.text(0.08, 0.04, note, transform=axes.transAxes, bbox=NOTE, fontsize=9, parse_math=False)
    _set_rate_scale(axes, lowest, highest)
    axes.set_xlabel("False acceptance rate: spoof taken for bona fide (%)")
    axes.set_ylabel("False rejection rate: bona fide taken for spoof (%)")
    axes.grid(color="#e6e6e6")
    # Names are set last: matplotlib hides a label that begins with "_", and takes "$" for a formula.
    legend = axes.legend(drawn, range(len(drawn)), loc="upper right", framealpha=0.9, fontsize=9)
    for text, handle, of in zip(legend.get_texts(), legend.legend_handles, drawn, strict=True):
        text.set(text=of.get_label(), parse_math=False)
        handle.set_markersize(MARKER_SIZE)
    return figure


def plot_score_histograms(
    bonafide_scores, spoof_scores, *, threshold: float | None = None, title: str = ""
) -> Figure:
    """Share of each class's trials by score, so that classes of different size compare; marks a threshold."""
    figure, axes = make_axes(7.2, 4.2, title)
    draw_histograms(axes, bonafide_scores, spoof_scores)
    if threshold is not None:
        axes.axvline(threshold, color=LINE, linestyle="--", linewidth=1.2, label="EER threshold")
    axes.set(xlabel="Score (higher = more bona fide)", ylabel="Share of the class's trials (%)")
    axes.legend(frameon=False, fontsize=9)
    return figure


def draw_histograms(axes: Axes, bonafide_scores, spoof_scores) -> None:
    """Share of each class's trials in bins that both have, in per cent."""
    bonafide, spoof = np.asarray(bonafide_scores, float), np.asarray(spoof_scores, float)
    everything = np.concatenate([bonafide, spoof])
    num_bins = int(np.clip(2 * min(len(bonafide), len(spoof)) ** 0.5, 12, 100))
    if everything.min() == everything.max():  # constant scores: one bar
        edges = everything[0] + np.array([-0.5, 0.5])
    else:
        edges = np.linspace(everything.min(), everything.max(), num_bins + 1)
    for name, scores, color in (("bona fide", bonafide, BONAFIDE), ("spoof", spoof, SPOOF)):
        shares = np.full(len(scores), 100 / len(scores))
        style = {"color": color, "alpha": 0.55, "edgecolor": color, "linewidth": 0.6}
        axes.hist(scores, edges, weights=shares, label=f"{name} ({len(scores):,})", **style)


def plot_breakdown(
    groups: Mapping[str, Mapping],
    *,
    pooled_eer: float,
    title: str = "",
    name: str = "",
    pooled_name: str = "all",
) -> Figure:
    """
    EER of each group of trials as a bar, and the pooled EER of all trials as a line; rates are fractions.

    Args:
        groups: by group `eer`, `num_spoof` and, for its confidence interval, `eer_interval`; a group whose
            `eer` is `None` has one class only, and says so instead of a bar.
        name: what the groups are: "attack", "codec".
        pooled_name: what the line is called.
    """
    figure, axes = make_axes(min(max(5.5, 1.6 + 0.62 * len(groups)), 60), 4.4, title)
    highest = pooled_eer
    for position, values in enumerate(groups.values()):
        if values["eer"] is None:
            axes.text(position, 0, "one class\nonly", ha="center", va="bottom", fontsize=7, color=LINE)
            continue
        height = 100 * values["eer"]
        axes.bar(position, height, color=SPOOF, alpha=0.8, width=0.7)
        top = height
        if interval := values.get("eer_interval"):
            low, top = 100 * interval[0], max(100 * interval[1], height)
            axes.plot([position, position], [low, top], color=LINE, linewidth=1.2)
        highest = max(highest, top)
        axes.text(position, top, f"{height:.3g}", ha="center", va="bottom", fontsize=8, bbox=NOTE)
    axes.axhline(100 * pooled_eer, color=BONAFIDE, linestyle="--", linewidth=1.2, zorder=2.5)
    beside = axes.get_yaxis_transform()
    note = f"{pooled_name}\n{100 * pooled_eer:.3g}"
    axes.text(1.005, 100 * pooled_eer, note, transform=beside, color=BONAFIDE, fontsize=8, va="center")
    labels = [f"{group}\n({values['num_spoof']:,})" for group, values in groups.items()]
    slanted = {"rotation": 45, "ha": "right"} if max(map(len, groups), default=0) > 8 else {}
    axes.set_xticks(range(len(groups)), labels, fontsize=8, parse_math=False, **slanted)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.margins(y=0.12)
    axes.set_ylim(0, None if highest > 0 else 1)  # without errors there is nothing to scale by
    axes.set(xlabel=f"{name} (number of spoofed trials)", ylabel="EER (%)")
    return figure


def plot_timeline(
    starts: Sequence[float],
    scores: Sequence[float],
    *,
    window_seconds: float,
    threshold: float | None = None,
    segments: Sequence[tuple[float, float]] | None = None,
    title: str = "",
) -> Figure:
    """
    Score of each window over the time of a recording: start in seconds and score, (num_windows,) both, drawn
    over the window's middle, and the decision threshold of single crops. With `segments`, start and end in
    seconds, which are shaded, the scores are LLRs, and the threshold is the level of an alarm.
    """
    figure, axes = make_axes(10, 3.4, title)
    starts, scores = np.asarray(starts, float), np.asarray(scores, float)
    long = starts[-1] + window_seconds > 600
    unit, per_unit = ("minutes", 60) if long else ("seconds", 1)
    middle = (starts + window_seconds / 2) / per_unit
    name, of = ("Score", "threshold of single crops") if segments is None else ("LLR", "level of alarm")
    axes.plot(middle, scores, color=LINE, linewidth=0.8, zorder=1)
    if threshold is None:
        axes.scatter(middle, scores, s=10, color=LINE, zorder=2)
    else:
        for label, chosen, color in (
            (f"above the {of.split()[0]}", scores > threshold, BONAFIDE),
            (f"below the {of.split()[0]}", scores <= threshold, SPOOF),
        ):
            axes.scatter(middle[chosen], scores[chosen], s=12, color=color, label=label, zorder=2)
        axes.axhline(threshold, color=LINE, linestyle="--", linewidth=1, label=of)
    for at, (start, end) in enumerate(segments or ()):
        label = "_" if at else "segments"  # each would be one line of the legend
        axes.axvspan(start / per_unit, end / per_unit, color=SPOOF, alpha=0.15, linewidth=0, label=label)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_xlim(0, (starts[-1] + window_seconds) / per_unit)
    axes.set(xlabel=f"Middle of the {window_seconds:g} s window ({unit})", ylabel=name)
    return figure


def plot_recording(
    envelope: np.ndarray, seconds: float, scored: tuple[float, float], timeline: Mapping | None = None
) -> Figure:
    """
    The waveform of a recording and, below it, the LLRs of its windows.

    Args:
        envelope: (num_stretches, 2), the lowest and the highest sample of stretches of equal length.
        seconds, scored: length; begin and end of what is shaded grey.
        timeline: `middles` in seconds and natural `llrs` of the windows, (num_windows,), NaN for a gap; the
            `level` of alarm; and `segments` below it, which are shaded.
    """
    figure = Figure(figsize=(6, 3.4 if timeline else 1.6), layout="constrained", facecolor="white")
    axes = figure.subplots(2 if timeline else 1, sharex=True, squeeze=False)[:, 0]
    axes[0].fill_between(np.linspace(0, seconds, len(envelope)), *envelope.T, color=LINE, linewidth=0.4)
    axes[0].axvspan(*scored, color="#d9d9d9", zorder=0)
    axes[0].set(yticks=[], ylabel="Waveform")
    if timeline:
        log10, level = (np.asarray(timeline[name]) / np.log(10) for name in ("llrs", "level"))
        axes[1].plot(timeline["middles"], log10, color=LINE, linewidth=0.8, marker="o", markersize=3)
        axes[1].axhline(level, color=SPOOF, linestyle="--", linewidth=1.2, label="level of alarm")
        axes[1].set_ylabel("log10 likelihood\nratio of windows")
        axes[1].legend(fontsize=8, framealpha=0.9)
        for segment, of in itertools.product(timeline["segments"], axes):
            ends = segment["start_seconds"], segment["end_seconds"]
            of.axvspan(*ends, color=SPOOF, alpha=0.3, linewidth=0, zorder=0.5)
    axes[-1].set(xlim=(0, seconds), xlabel="Time (minutes:seconds)")
    axes[-1].xaxis.set_major_formatter(lambda time, _: f"{time // 60:.0f}:{time % 60:04.1f}")
    return figure


def make_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """An empty plot, (width, height) in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    size = 10 if len(title) < 13 * width else 7
    axes.set_title(title, fontsize=size, parse_math=False)  # a "$" in a file's name is no formula
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _set_rate_scale(axes: Axes, lowest: float, highest: float) -> None:
    """Normal deviates on both axes; rates of 0 and 1, which lie at infinity there, are drawn at the edge."""
    for axis, set_scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        set_scale("function", functions=(lambda rate: _to_deviate(rate, lowest), ndtr))
        axis.set_major_locator(FixedLocator([tick for tick in RATE_TICKS if lowest <= tick <= highest]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}"))
    axes.set(xlim=(lowest, highest), ylim=(lowest, highest))


def _find_corners(frr: np.ndarray, far: np.ndarray) -> np.ndarray:
    """Indices of the points where the steps of a DET curve turn, thinned where they are too many to see."""
    steps = np.diff(frr) > 0
    kept = np.flatnonzero(np.concatenate([[True], steps[1:] != steps[:-1], [True]]))
    if len(kept) <= MAX_POINTS:
        return kept
    # Evenly spaced along both rates, so that the ends stay as fine as the middle.
    position = _to_deviate(frr[kept], 1e-6) - _to_deviate(far[kept], 1e-6)
    wanted = np.linspace(position[0], position[-1], MAX_POINTS)
    return kept[np.unique(np.clip(np.searchsorted(position, wanted), 0, len(kept) - 1))]


def _to_deviate(rate, lowest: float) -> np.ndarray:
    return ndtri(np.clip(rate, lowest, 1 - lowest))
