"""Detection costs of a countermeasure: the t-DCF in its two published forms, and the DCF of ASVspoof 5.

All but the a-DCF are a [`DetectionCost`]: a constant, a price of the FRR and a price of the FAR.

- t-DCF, form "2019": the legacy form of the ASVspoof 2019 evaluation plan, `compute_tDCF` of its package.
- t-DCF, form "2021": the ASV-constrained form of Kinnunen et al., "Tandem assessment of spoofing
  countermeasures and automatic speaker verification: fundamentals" (IEEE/ACM TASLP 2020), `compute_tDCF` of
  the ASVspoof 2021 package. Values of the two forms must not be compared.
- DCF and Cllr: the ASVspoof 5 evaluation plan, track 1, and `calculate_metrics.py` of its package.
- a-DCF of speaker verification, of three error rates: Shim et al., "a-DCF: an architecture agnostic metric
  with application to spoofing-robust speaker verification" (Odyssey 2024), and `a_dcf.py` of that package.
"""

from dataclasses import dataclass

import numpy as np

from .det import SortedTrials, check_class, check_scores, count_rejected, equal_error_rate, find_threshold


# Priors and costs of all three evaluation plans; the target and non-target priors are of the t-DCF.
P_SPOOF, P_TARGET, P_NONTARGET = 0.05, 0.9405, 0.0095
C_MISS, C_FA = 1.0, 10.0
FORMS = ("2019", "2021")


@dataclass(frozen=True)
class DetectionCost:
    """
    A normalised cost of a countermeasure's errors: (constant + miss FRR + false_alarm FAR) over its value for
    the better of accepting all and rejecting all.
    """

    constant: float
    miss: float
    false_alarm: float

    def at_rates(self, frr, far):
        """Cost of these error rates, numbers or vectors of one shape."""
        cost = self.constant + self.miss * frr + self.false_alarm * far
        return cost / (self.constant + min(self.miss, self.false_alarm))

    def find_minimum(self, rejected_bonafide: np.ndarray, rejected_spoof: np.ndarray) -> tuple[float, int]:
        """
        The lowest cost over all thresholds, and its index in the vectors of [`metrics.det.count_rejected`].
        To reject one more bona fide trial only costs, so a best threshold lies just below one, or above all.
        """
        frr = rejected_bonafide / rejected_bonafide[-1]
        far = (rejected_spoof[-1] - rejected_spoof) / rejected_spoof[-1]
        costs = self.at_rates(frr, far)
        index = int(np.argmin(costs))
        return float(costs[index]), index


ASVSPOOF5_COST = DetectionCost(0.0, miss=C_MISS * (1 - P_SPOOF), false_alarm=C_FA * P_SPOOF)
# Bayes threshold of a log-likelihood ratio (bona fide over spoof) for these costs: -ln 1.9.
ASVSPOOF5_THRESHOLD = -float(np.log(ASVSPOOF5_COST.miss / ASVSPOOF5_COST.false_alarm))


def min_dcf(bonafide_scores, spoof_scores) -> tuple[float, float]:
    """
    Minimum normalised DCF of ASVspoof 5 (P_spoof 0.05, C_miss 1, C_fa 10), and its threshold.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.

    Raises:
        ValueError: a class without trials, NaN or infinity.
    """
    return min_cost(bonafide_scores, spoof_scores, ASVSPOOF5_COST)


def act_dcf(bonafide_scores, spoof_scores) -> float:
    """
    Actual normalised DCF of scores that are log-likelihood ratios: the cost of [`min_dcf`] at their Bayes
    threshold. Args and errors as there.
    """
    bonafide, spoof = check_scores(bonafide_scores, spoof_scores)
    frr, far = np.mean(bonafide < ASVSPOOF5_THRESHOLD), np.mean(spoof >= ASVSPOOF5_THRESHOLD)
    return float(ASVSPOOF5_COST.at_rates(frr, far))


def cllr(bonafide_scores, spoof_scores) -> float:
    """
    Cost of log-likelihood ratios in bits: 0 is perfect, 1 is as good as no score (Brümmer and du Preez,
    2006). Args and errors as [`min_dcf`].
    """
    bonafide, spoof = llr_bits(*check_scores(bonafide_scores, spoof_scores))
    return float((bonafide.mean() + spoof.mean()) / 2)


def llr_bits(bonafide: np.ndarray, spoof: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each score, (num_bonafide,) and (num_spoof,), costs as a log-likelihood ratio, in bits."""
    return np.logaddexp(0, -bonafide) / np.log(2), np.logaddexp(0, spoof) / np.log(2)


@dataclass(frozen=True)
class AsvErrorRates:
    """
    Error rates of the ASV system, as fractions, at its EER threshold of targets against non-targets, which is
    `None` where the rates were given.
    """

    p_miss: float  # targets rejected
    p_fa: float  # non-targets accepted
    p_fa_spoof: float  # spoofed trials accepted
    threshold: float | None = None

    def __post_init__(self):
        for name in ("p_miss", "p_fa", "p_fa_spoof"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; an error rate is a fraction of 1.")

    @classmethod
    def from_scores(cls, target, nontarget, spoof) -> "AsvErrorRates":
        """
        Error rates of three vectors of scores, higher = more like the target speaker; a trial is accepted if
        its score reaches the threshold. Errors: see [`metrics.det.check_class`].
        """
        target, nontarget, spoof = (
            check_class(f"ASV {kind}", scores)
            for kind, scores in (("target", target), ("nontarget", nontarget), ("spoof", spoof))
        )
        _, threshold = equal_error_rate(target, nontarget)
        return cls(
            p_miss=float(np.mean(target < threshold)),
            p_fa=float(np.mean(nontarget >= threshold)),
            p_fa_spoof=float(np.mean(spoof >= threshold)),
            threshold=threshold,
        )


def tdcf_cost(asv: AsvErrorRates, form: str) -> DetectionCost:
    """
    The t-DCF as a cost of the countermeasure's error rates. The 2019 form leaves out a constant, the cost of
    the ASV system's own errors. ValueError: another form; ASV error rates so high that rejecting a bona fide
    trial would gain, where the t-DCF is not defined.
    """
    if form not in FORMS:
        raise ValueError(f"t-DCF form {form!r} is not one of {', '.join(FORMS)}.")
    own_errors = P_TARGET * C_MISS * asv.p_miss + P_NONTARGET * C_FA * asv.p_fa  # C0, of the ASV system
    miss = P_TARGET * C_MISS - own_errors  # C1
    false_alarm = P_SPOOF * C_FA * asv.p_fa_spoof  # C2
    if miss <= 0 or false_alarm <= 0:
        raise ValueError(
            f"With these ASV error rates ({asv}) the t-DCF ({form}) has the weights {miss:.4g} and "
            f"{false_alarm:.4g}; both must be positive. Check the ASV scores, or their sign."
        )
    return DetectionCost(0.0 if form == "2019" else own_errors, miss, false_alarm)


def min_tdcf(bonafide_scores, spoof_scores, asv: AsvErrorRates, form: str) -> tuple[float, float]:
    """
    Minimum normalised t-DCF in one of the two forms, and the countermeasure's threshold there.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.
        asv: error rates of the ASV system on the trials' own corpus and split.
        form: "2019" or "2021".

    Raises:
        ValueError: fewer than three distinct scores, which are decisions and not scores (the official script
            refuses them, too); see [`metrics.det.check_scores`] and [`tdcf_cost`].
    """
    scores = np.concatenate(check_scores(bonafide_scores, spoof_scores))
    if not ((scores > scores.min()) & (scores < scores.max())).any():
        raise ValueError(
            "There are fewer than three distinct scores. The t-DCF needs scores of the countermeasure, not "
            "its decisions."
        )
    return min_cost(bonafide_scores, spoof_scores, tdcf_cost(asv, form))


def min_cost(bonafide_scores, spoof_scores, cost: DetectionCost) -> tuple[float, float]:
    """The lowest value of `cost` over all thresholds, and its threshold; scores as for [`min_dcf`]."""
    bonafide, spoof = (np.sort(scores) for scores in check_scores(bonafide_scores, spoof_scores))
    rejected_bonafide, rejected_spoof = count_rejected(bonafide, spoof)
    value, index = cost.find_minimum(rejected_bonafide, rejected_spoof)
    return value, find_threshold(bonafide, spoof, int(rejected_bonafide[index]), int(rejected_spoof[index]))


@dataclass(frozen=True)
class ADcfCosts:
    """Priors of the three classes and costs of errors; the defaults are those of ASVspoof 5, track 2."""

    p_target: float = P_TARGET
    p_nontarget: float = P_NONTARGET
    p_spoof: float = P_SPOOF
    c_miss: float = C_MISS  # of a target that is rejected
    c_fa_asv: float = C_FA  # of a nontarget that is accepted
    c_fa_cm: float = C_FA  # of a spoof that is accepted

    def __post_init__(self):
        if abs(self.p_target + self.p_nontarget + self.p_spoof - 1) > 1e-9:
            raise ValueError(f"The priors of target, nontarget and spoof must add up to 1: {self}.")
        if min(vars(self).values()) <= 0:
            raise ValueError(f"Priors and costs must be positive: {self}.")


def min_a_dcf(trials: SortedTrials, costs: ADcfCosts = ADcfCosts()) -> tuple[float, float]:
    """
    Minimum normalised a-DCF of trials by their score, and its threshold, above which a trial is accepted. 1
    is as good as accepting or rejecting all, whichever costs less.
    """
    target, nontarget, spoof = (rejected / rejected[-1] for rejected in trials.count_rejected())
    miss, fa_nontarget = costs.c_miss * costs.p_target, costs.c_fa_asv * costs.p_nontarget
    fa_spoof = costs.c_fa_cm * costs.p_spoof
    values = miss * target + fa_nontarget * (1 - nontarget) + fa_spoof * (1 - spoof)
    index = int(np.argmin(values))
    return float(values[index] / min(miss, fa_nontarget + fa_spoof)), trials.get_threshold(index)
