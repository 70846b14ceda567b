"""Minimum tandem detection cost function (t-DCF) of a countermeasure in tandem with a speaker verification
(ASV) system, in the two forms that the ASVspoof organisers published. Their values must not be compared.

"2019": the legacy form of the ASVspoof 2019 evaluation plan, `compute_tDCF` of its evaluation package.
"2021": the ASV-constrained form of Kinnunen et al., "Tandem assessment of spoofing countermeasures and
automatic speaker verification: fundamentals" (IEEE/ACM TASLP 2020), `compute_tDCF` of the ASVspoof 2021
package.
"""

from dataclasses import dataclass

import numpy as np

from .det import DetectionCost, check_scores, equal_error_rate, minimum_cost


FORMS = ("2019", "2021")
# Priors and costs of both evaluation plans.
P_SPOOF, P_TARGET, P_NONTARGET = 0.05, 0.9405, 0.0095
C_MISS, C_FA = 1.0, 10.0


@dataclass(frozen=True)
class AsvErrorRates:
    """
    Error rates of the ASV system at its threshold, as fractions.

    Attributes:
        p_miss: targets rejected.
        p_fa: non-targets accepted.
        p_fa_spoof: spoofed trials accepted.
        threshold: the EER threshold of targets against non-targets; `None` where the rates were given.
    """

    p_miss: float
    p_fa: float
    p_fa_spoof: float
    threshold: float | None = None

    def __post_init__(self):
        for name in ("p_miss", "p_fa", "p_fa_spoof"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; an error rate is a fraction of 1.")

    @classmethod
    def from_scores(cls, target, nontarget, spoof) -> "AsvErrorRates":
        """
        Error rates at the EER threshold of the ASV system; a trial is accepted if its score reaches it.

        Args:
            target, nontarget, spoof: scores, one vector each; higher = more like the target speaker.

        Raises:
            ValueError: a kind of trial is missing, NaN or infinity.
        """
        for name, scores in (("target", target), ("nontarget", nontarget), ("spoof", spoof)):
            scores = np.asarray(scores, dtype=np.float64)
            if scores.size == 0 or not np.isfinite(scores).all():
                problem = "there are none" if scores.size == 0 else "there is NaN or infinity among them"
                raise ValueError(f"ASV scores of {name} trials: {problem}.")
        target, nontarget = check_scores(target, nontarget)
        _, threshold = equal_error_rate(target, nontarget)
        return cls(
            p_miss=float(np.mean(target < threshold)),
            p_fa=float(np.mean(nontarget >= threshold)),
            p_fa_spoof=float(np.mean(np.asarray(spoof, dtype=np.float64) >= threshold)),
            threshold=threshold,
        )


def tdcf_cost(asv: AsvErrorRates, form: str) -> DetectionCost:
    """
    The t-DCF as a cost of the countermeasure's error rates.

    Raises:
        ValueError: a form that is not "2019" or "2021", or ASV error rates so high that rejecting a bona fide
            trial would gain: the t-DCF is not defined there.
    """
    if form not in FORMS:
        raise ValueError(f"t-DCF form {form!r} is not one of {', '.join(FORMS)}.")
    if form == "2019":
        constant = 0.0
        miss = P_TARGET * (C_MISS - C_MISS * asv.p_miss) - P_NONTARGET * C_FA * asv.p_fa
        false_alarm = C_FA * P_SPOOF * asv.p_fa_spoof  # C2 = C_fa P_spoof (1 - Pmiss_spoof)
    else:
        constant = P_TARGET * C_MISS * asv.p_miss + P_NONTARGET * C_FA * asv.p_fa
        miss = P_TARGET * C_MISS - constant
        false_alarm = P_SPOOF * C_FA * asv.p_fa_spoof
    if miss <= 0 or false_alarm <= 0:
        raise ValueError(
            f"With these ASV error rates ({asv}) the t-DCF ({form}) has the weights {miss:.4g} and "
            f"{false_alarm:.4g}; both must be positive. Check the ASV scores, or their sign."
        )
    return DetectionCost(constant, miss, false_alarm)


def min_tdcf(bonafide_scores, spoof_scores, asv: AsvErrorRates, form: str) -> tuple[float, float]:
    """
    Minimum normalised t-DCF in one of the two forms, and the countermeasure's threshold there.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.
        asv: error rates of the ASV system on the trials' own corpus and split.
        form: "2019" or "2021".

    Raises:
        ValueError: fewer than three distinct scores, which are decisions and not scores (the official script
            refuses them, too); see [`check_scores`] and [`tdcf_cost`].
    """
    scores = np.concatenate(check_scores(bonafide_scores, spoof_scores))
    if not ((scores > scores.min()) & (scores < scores.max())).any():
        raise ValueError(
            "There are fewer than three distinct scores. The t-DCF needs scores of the countermeasure, not "
            "its decisions."
        )
    return minimum_cost(bonafide_scores, spoof_scores, tdcf_cost(asv, form))
