"""
The metrics of ASVspoof 5 track 1 (stand-alone deepfake detection): the minimum and the actual normalised
detection cost (P_spoof 0.05, C_miss 1, C_fa 10), Cllr and the EER. minDCF and EER ask only how well the
scores rank the trials; actDCF and Cllr also ask whether the scores are log-likelihood ratios (natural
logarithm, bona fide over spoof), and mean little for scores that were never calibrated.
"""

import evaluate

from .costs import act_dcf, cllr, min_dcf
from .det import equal_error_rate, split_by_key
from .module_info import make_info


CITATION = (
    "Wang et al., ASVspoof 5: Crowdsourced Speech Data, Deepfakes, and Adversarial Attacks at Scale, "
    "ASVspoof Workshop 2024"
)


class Asvspoof5Track1(evaluate.Metric):
    """
    Args:
        predictions (list of float): score of each trial, higher = more bona fide.
        references (list of str, or of int): key of each trial, "bonafide" or "spoof", or a class index.
        id2label (dict or list): what each class index means, as in a model's config or a `ClassLabel`.

    Returns:
        min_dcf (float): the primary metric of the challenge; 1 is as good as no countermeasure.
        min_dcf_threshold (float): its threshold.
        act_dcf (float): the cost at the threshold -ln 1.9; it can be above 1, as Cllr can.
        cllr (float): in bits; 1 is as good as no score.
        eer (float): as a fraction, not per cent.
        num_bonafide, num_spoof (int): number of trials of each class.

    Raises:
        ValueError: another key, a class without trials, NaN or infinity.

    Examples:
        >>> asvspoof5 = evaluate.load("metrics/asvspoof5.py")
        >>> results = asvspoof5.compute(
        ...     predictions=[2.0, 0.5, 1.0, -1.0], references=["bonafide", "bonafide", "spoof", "spoof"]
        ... )
        >>> round(results["min_dcf"], 3), round(results["act_dcf"], 3), round(results["cllr"], 3)
        (0.5, 0.5, 0.803)
    """

    def _info(self):
        return make_info(__doc__, self.__doc__, CITATION)

    def _compute(self, predictions, references, id2label=None):
        bonafide, spoof = split_by_key(predictions, references, id2label)
        value, threshold = min_dcf(bonafide, spoof)
        return {
            "min_dcf": value,
            "min_dcf_threshold": threshold,
            "act_dcf": act_dcf(bonafide, spoof),
            "cllr": cllr(bonafide, spoof),
            "eer": equal_error_rate(bonafide, spoof)[0],
            "num_bonafide": len(bonafide),
            "num_spoof": len(spoof),
        }
