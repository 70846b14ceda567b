"""
The concurrent tandem equal error rate (t-EER) of a countermeasure (CM) and an automatic speaker verification
system (ASV) that both must accept a trial: the error rate at the pair of thresholds where as large a share of
the targets is rejected as is accepted of the nontargets, and of the spoofs. It needs no priors and no costs.
"""

import dataclasses

import evaluate

from .det import KINDS, SortedTrials, split_by_key
from .module_info import make_info
from .tandem import t_eer


CITATION = (
    "Kinnunen et al., t-EER: Parameter-Free Tandem Evaluation of Countermeasures and Biometric Comparators, "
    "IEEE Transactions on Pattern Analysis and Machine Intelligence, 2023"
)


class TandemEqualErrorRate(evaluate.Metric):
    """
    Args:
        predictions (list of float): CM score of each trial, higher = more bona fide.
        references (list of str, or of int): key of each trial, "target", "nontarget" or "spoof", or a class
            index.
        asv_scores (list of float): ASV score of each trial, higher = more like the claimed speaker.
        id2label (dict or list): what each class index means.

    Returns:
        t_eer (float): as a fraction: the share of spoofs that both accept, as the official script has it.
        miss, fa_nontarget, fa_spoof (float): the tandem's three error rates there, which few trials may part.
        cm_threshold, asv_threshold (float): a trial is accepted if both its scores are above these.
        num_target, num_nontarget, num_spoof (int): number of trials of each class.

    Raises:
        ValueError: another key, a class without trials, NaN or infinity, not one ASV score per trial.

    Examples:
        >>> t_eer = evaluate.load("metrics/t_eer.py")
        >>> keys = ["target"] * 4 + ["nontarget"] * 4 + ["spoof"] * 4
        >>> cm_scores = [4.0, 3.0, 5.0, 2.0, 4.5, 3.5, 5.5, 2.5, 1.0, 0.0, 3.2, -1.0]
        >>> asv_scores = [3.0, 2.0, 4.0, 1.0, 0.5, 2.5, -1.0, -2.0, 3.5, 1.5, 2.2, 0.0]
        >>> results = t_eer.compute(predictions=cm_scores, references=keys, asv_scores=asv_scores)
        >>> results["t_eer"], results["cm_threshold"], results["asv_threshold"]
        (0.1875, 2.5, 0.5)
    """

    def _info(self):
        return make_info(__doc__, self.__doc__, CITATION)

    def _compute(self, predictions, references, asv_scores, id2label=None):
        cm, asv = (split_by_key(of, references, id2label, KINDS) for of in (predictions, asv_scores))
        point = dataclasses.asdict(t_eer(*map(SortedTrials.from_classes, (cm, asv))))
        counts = {f"num_{kind}": len(scores) for kind, scores in zip(KINDS, cm, strict=True)}
        return {"t_eer": point["fa_spoof"], **point, **counts}
