"""Plots of log-likelihood ratios (LLR). Each function draws those of validation trials, natural logarithms,
into axes, and marks that of a case where there is one. The axes are in log10, as the forensic literature has
them: 2 is a likelihood ratio of 100."""

import numpy as np
from matplotlib.axes import Axes

from .likelihood_ratios import bayes_error, empirical_cross_entropy, pav_llrs
from .plots import BONAFIDE, LINE, SPOOF, draw_histograms


LLR_LABEL = "log10 likelihood ratio (higher = more bona fide)"
PRIOR_LABEL = "log10 prior odds, bona fide to spoof"
PRIOR_LOG10_ODDS = np.linspace(-3, 3, 121)
REFERENCE = {"color": "#999999", "linestyle": ":", "linewidth": 1.4}


def plot_tippett(axes: Axes, bonafide_llrs, spoof_llrs, case: float | None = None) -> None:
    """Share of each class's trials whose LLR is at least so high (Evett and Buckleton, 1996)."""
    for name, llrs, color in (("bona fide", bonafide_llrs, BONAFIDE), ("spoof", spoof_llrs, SPOOF)):
        style = {"color": color, "label": f"{name} ({len(llrs):,})"}
        axes.ecdf(np.asarray(llrs) / np.log(10), complementary=True, **style)
    axes.axvline(0, **REFERENCE)
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}")
    _finish(axes, LLR_LABEL, "Trials with at least this ratio (%)", case)


def plot_pav(axes: Axes, bonafide_llrs, spoof_llrs, case: float | None = None) -> None:
    """LLRs after the PAV over the LLRs as they are, which lie on the diagonal where these are calibrated.
    Beyond the last trial of the other class the PAV is infinite, which is drawn at the edge."""
    best = np.concatenate(pav_llrs(bonafide_llrs, spoof_llrs)) / np.log(10)
    llrs = np.concatenate([bonafide_llrs, spoof_llrs]) / np.log(10)
    order = np.argsort(llrs)
    edge = 1.2 * max(np.abs(best[np.isfinite(best)]).max(initial=1), 1)
    axes.axline((0, 0), slope=1, label="calibrated", **REFERENCE)
    label = f"after PAV (infinite for {np.isinf(best).sum():,} of {len(best):,})"
    heights = np.clip(best[order], -edge, edge)
    axes.plot(llrs[order], heights, color=BONAFIDE, drawstyle="steps-post", label=label)
    axes.set_ylim(-edge, edge)
    _finish(axes, LLR_LABEL, "log10 likelihood ratio after PAV", case)


def plot_ece(axes: Axes, bonafide_llrs, spoof_llrs, case: float | None = None) -> None:
    """Empirical cross-entropy over the prior: of the LLRs, after the PAV, and of LLRs of 0 (Ramos, 2007).
    A case has no place on the axis of priors."""
    _plot_over_prior(axes, empirical_cross_entropy, bonafide_llrs, spoof_llrs)
    _finish(axes, PRIOR_LABEL, "Empirical cross-entropy (bits)")


def plot_bayes_error(axes: Axes, bonafide_llrs, spoof_llrs, case: float | None = None) -> None:
    """Error rate of decisions by the posterior over the prior: with the LLRs, with the best threshold, and by
    the prior alone. The case is marked where its own decision turns: it is bona fide at higher prior odds."""
    _plot_over_prior(axes, lambda *args: 100 * bayes_error(*args), bonafide_llrs, spoof_llrs)
    _finish(axes, PRIOR_LABEL, "Wrong decisions (%)", None if case is None else -case, "case: decision turns")


def plot_llr_histogram(axes: Axes, bonafide_llrs, spoof_llrs, case: float | None = None) -> None:
    """Share of each class's trials by LLR."""
    draw_histograms(axes, np.asarray(bonafide_llrs) / np.log(10), np.asarray(spoof_llrs) / np.log(10))
    axes.axvline(0, **REFERENCE)
    _finish(axes, LLR_LABEL, "Share of the class's trials (%)", case)


def _plot_over_prior(axes: Axes, function, bonafide_llrs, spoof_llrs) -> None:
    curves = {
        "by the prior alone": ((np.zeros(1), np.zeros(1)), REFERENCE),
        "with these ratios": ((bonafide_llrs, spoof_llrs), {"color": SPOOF}),
        "best possible (PAV)": (pav_llrs(bonafide_llrs, spoof_llrs), {"color": BONAFIDE, "linestyle": "--"}),
    }
    for name, (classes, style) in curves.items():
        values = function(*classes, PRIOR_LOG10_ODDS * np.log(10))
        axes.plot(PRIOR_LOG10_ODDS, values, label=name, **style)
    alone, own = (max(line.get_ydata()) for line in axes.lines[:2])
    # The curves of a good system are seen where the prior's leaves the picture; far above it, bad is bad.
    axes.set(xlim=(-3, 3), ylim=(0, np.clip(3 * own, 0.05 * alone, 1.5 * alone)))


def _finish(axes: Axes, x: str, y: str, case: float | None = None, case_name: str = "case") -> None:
    """Mark a case's natural LLR, and write the labels and the legend."""
    if case is not None:
        at = case / np.log(10)
        axes.axvline(at, color=LINE, linestyle="--", linewidth=1.4, label=f"{case_name} ({at:.2f})")
    axes.set(xlabel=x, ylabel=y)
    axes.set_axisbelow(True)
    axes.grid(color="#e6e6e6")
    axes.legend(fontsize=9, framealpha=0.9)
