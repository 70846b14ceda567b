"""The concurrent t-EER of a countermeasure (CM) and speaker verification (ASV) in tandem, where a trial is
accepted if both accept it. Kinnunen et al., "t-EER: Parameter-Free Tandem Evaluation of Countermeasures and
Biometric Comparators" (IEEE TPAMI 2023), and `compute_teer` of the ASVspoof 5 package."""

from dataclasses import dataclass

import numpy as np

from .det import SortedTrials


@dataclass(frozen=True)
class TandemPoint:
    """Thresholds above which CM and ASV accept, and the error rates of the two in tandem there."""

    cm_threshold: float
    asv_threshold: float
    miss: float  # targets that either rejects
    fa_nontarget: float  # nontargets that both accept
    fa_spoof: float  # spoofs that both accept: what the official script reports


@dataclass(frozen=True)
class Tandem:
    """
    Error rates of the CM at each of its thresholds (num_cm,), and of the ASV system at each of its own
    (num_asv,). Those of the tandem are of their products: the two are taken to err independently.
    """

    cm_miss: np.ndarray
    cm_fa: np.ndarray
    asv_miss: np.ndarray
    asv_fa_nontarget: np.ndarray
    asv_fa_spoof: np.ndarray

    @classmethod
    def from_trials(cls, cm: SortedTrials, asv: SortedTrials) -> "Tandem":
        """Of trials by their CM scores and by their ASV scores."""
        target, nontarget, spoof = cm.count_rejected()
        bonafide = target + nontarget  # all that is not spoofed, to the CM
        of_cm = bonafide / bonafide[-1], (spoof[-1] - spoof) / spoof[-1]
        target, nontarget, spoof = (rejected / rejected[-1] for rejected in asv.count_rejected())
        return cls(*of_cm, target, 1 - nontarget, 1 - spoof)

    def find_rates(self, cm: np.ndarray | int, asv: np.ndarray | slice | int) -> tuple:
        """Miss rate and false alarm rates of nontargets and of spoofs at the thresholds of these indices."""
        passed = 1 - self.cm_miss[cm]
        miss = self.cm_miss[cm] + passed * self.asv_miss[asv]
        return miss, passed * self.asv_fa_nontarget[asv], self.cm_fa[cm] * self.asv_fa_spoof[asv]

    def find_path(self) -> np.ndarray:
        """
        The t-EER path: for each ASV threshold the index of the CM threshold, (num_asv,), where miss and false
        alarm rate are nearest, if half of the impostors are spoofs.
        """

        def excess(cm: np.ndarray) -> np.ndarray:
            miss, nontarget, spoof = self.find_rates(cm, slice(None))
            return miss - (nontarget + spoof) / 2

        low, high = np.zeros(len(self.asv_miss), int), np.full(len(self.asv_miss), len(self.cm_miss) - 1)
        while (low < high).any():  # bisection, as the excess of misses rises with the CM threshold
            middle = (low + high) // 2
            is_reached = excess(middle) >= 0
            low, high = np.where(is_reached, low, middle + 1), np.where(is_reached, middle, high)
        before = np.maximum(low - 1, 0)
        return np.where(np.abs(excess(before)) <= np.abs(excess(low)), before, low)


def t_eer(cm: SortedTrials, asv: SortedTrials) -> TandemPoint:
    """
    The concurrent t-EER of trials by their CM scores and by their ASV scores: the point where the three error
    rates of the tandem are equal. The t-EER paths of all shares of spoofs meet there. As in the official
    script it is the point of the path of equal shares where the ASV's FA_nontarget / FA_spoof is nearest to
    the CM's FA / (1 - miss). With few trials the three rates may differ.
    """
    tandem = Tandem.from_trials(cm, asv)
    path = tandem.find_path()
    # A CM can only reject more: none evens out an ASV system that misses more than it falsely accepts.
    is_allowed = tandem.asv_miss < (tandem.asv_fa_nontarget + tandem.asv_fa_spoof) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        of_cm = tandem.cm_fa / (1 - tandem.cm_miss)
        distance = np.abs(tandem.asv_fa_nontarget / tandem.asv_fa_spoof - of_cm[path])
    at_asv = int(np.argmin(np.where(is_allowed & np.isfinite(distance), distance, np.inf)))
    at_cm = int(path[at_asv])
    rates = map(float, tandem.find_rates(at_cm, at_asv))
    return TandemPoint(cm.get_threshold(at_cm), asv.get_threshold(at_asv), *rates)
