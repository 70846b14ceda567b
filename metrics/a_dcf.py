"""
The minimum normalised architecture-agnostic detection cost (min a-DCF) of speaker verification that must also
withstand spoofing: the primary metric of ASVspoof 5 track 2. It asks for one score of each trial, whatever
system it comes from.
"""

import evaluate

from .costs import ADcfCosts, min_a_dcf
from .det import KINDS, SortedTrials, split_by_key
from .module_info import make_info


CITATION = (
    "Shim et al., a-DCF: an architecture agnostic metric with application to spoofing-robust speaker "
    "verification, Odyssey 2024"
)


class ArchitectureAgnosticDetectionCost(evaluate.Metric):
    """
    Args:
        predictions (list of float): score of each trial, higher = rather accepted.
        references (list of str, or of int): key of each trial, "target", "nontarget" or "spoof", or a class
            index.
        id2label (dict or list): what each class index means.
        p_target, p_nontarget, p_spoof (float): priors, by default 0.9405, 0.0095 and 0.05 (ASVspoof 5).
        c_miss, c_fa_asv, c_fa_cm (float): costs of a rejected target, an accepted nontarget and an accepted
            spoof, by default 1, 10 and 10.

    Returns:
        min_a_dcf (float): 1 is as good as accepting or rejecting all.
        threshold (float): a trial is accepted if its score is above it.
        num_target, num_nontarget, num_spoof (int): number of trials of each class.

    Raises:
        ValueError: another key, a class without trials, NaN or infinity, priors that do not add up to 1.

    Examples:
        >>> a_dcf = evaluate.load("metrics/a_dcf.py")
        >>> keys = ["target", "target", "nontarget", "spoof"]
        >>> results = a_dcf.compute(predictions=[2.0, 0.5, 1.0, -1.0], references=keys)
        >>> round(results["min_a_dcf"], 4), results["threshold"]
        (0.1597, -1.0)
    """

    def _info(self):
        return make_info(__doc__, self.__doc__, CITATION)

    def _compute(self, predictions, references, id2label=None, **costs):
        classes = split_by_key(predictions, references, id2label, KINDS)
        value, threshold = min_a_dcf(SortedTrials.from_classes(classes), ADcfCosts(**costs))
        counts = {f"num_{kind}": len(scores) for kind, scores in zip(KINDS, classes, strict=True)}
        return {"min_a_dcf": value, "threshold": threshold, **counts}
