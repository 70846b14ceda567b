"""
The equal error rate (EER) of a countermeasure: the error rate at the threshold where as large a share of the
bona fide trials is rejected as of the spoofed trials is accepted. Official ASVspoof definition: no
interpolation between thresholds.
"""

import evaluate

from .det import describe_scores, equal_error_rate, split_by_key
from .module_info import make_info


CITATION = (
    "Todisco et al., ASVspoof 2019: Future Horizons in Spoofed and Fake Audio Detection, Interspeech 2019"
)


class EqualErrorRate(evaluate.Metric):
    """
    Args:
        predictions (list of float): score of each trial, higher = more bona fide.
        references (list of str, or of int): key of each trial, "bonafide" or "spoof", or a class index.
        id2label (dict or list): what each class index means, as in a model's config or a `ClassLabel`.

    Returns:
        eer (float): as a fraction, not per cent; 0 is perfect, 0.5 is chance.
        threshold (float): a trial is accepted as bona fide if its score is above it.
        num_bonafide, num_spoof (int): number of trials of each class.
        num_distinct_scores (int): over both classes.
        num_tied_across_classes (int): trials whose score a trial of the other class has, too.
            Ties raise the EER.
        constant_scores (bool): all trials have one score.
        looks_inverted (bool): the EER is above 50 %, and below for the negated scores.

    Raises:
        ValueError: another key, a class without trials, NaN or infinity.

    Examples:
        >>> eer = evaluate.load("metrics/eer.py")
        >>> results = eer.compute(
        ...     predictions=[2.0, 0.5, 1.0, -1.0], references=["bonafide", "bonafide", "spoof", "spoof"]
        ... )
        >>> results["eer"], results["threshold"], results["num_bonafide"], results["num_spoof"]
        (0.5, 0.5, 2, 2)
    """

    def _info(self):
        return make_info(__doc__, self.__doc__, CITATION)

    def _compute(self, predictions, references, id2label=None):
        bonafide, spoof = split_by_key(predictions, references, id2label)
        eer, threshold = equal_error_rate(bonafide, spoof)
        counts = {"num_bonafide": len(bonafide), "num_spoof": len(spoof)}
        return {"eer": eer, "threshold": threshold, **counts, **describe_scores(bonafide, spoof)}
