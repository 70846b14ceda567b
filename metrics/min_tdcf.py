"""
The minimum normalised tandem detection cost (min t-DCF) of a countermeasure (CM) in front of an automatic
speaker verification (ASV) system. Two forms are published, and their values must not be compared: the legacy
form of ASVspoof 2019, and the form of ASVspoof 2021, which contains the cost of the ASV system's own errors
and so cannot fall to 0. Both are computed, by name.
"""

import evaluate

from .costs import FORMS, AsvErrorRates, min_tdcf
from .det import KINDS, split_by_key
from .module_info import make_info


CITATION = (
    "Kinnunen et al., Tandem Assessment of Spoofing Countermeasures and Automatic Speaker Verification: "
    "Fundamentals, IEEE/ACM Transactions on Audio, Speech, and Language Processing 28, 2020"
)


class MinimumTandemDetectionCost(evaluate.Metric):
    """
    Args:
        predictions (list of float): CM score of each trial, higher = more bona fide.
        references (list of str, or of int): key of each trial, "bonafide" or "spoof", or a class index.
        id2label (dict or list): what each class index means, as in a model's config or a `ClassLabel`.
        asv_scores (list of float), asv_keys (list of str): scores of the ASV system on the same corpus and
            split, and the key of each, "target", "nontarget" or "spoof"; it works at its EER threshold. Or:
        p_miss_asv, p_fa_asv, p_fa_spoof_asv (float): its error rates as fractions: targets rejected,
            non-targets accepted, spoofed trials accepted.

    Returns:
        min_tdcf_2019, min_tdcf_2021 (float): the minimum in each form; 1 is as good as no countermeasure.
        threshold_2019, threshold_2021 (float): CM threshold of each.
        p_miss_asv, p_fa_asv, p_fa_spoof_asv (float): as given, or found from the scores.
        num_bonafide, num_spoof (int): number of CM trials of each class.

    Raises:
        ValueError: another key, a kind of trial without scores, NaN or infinity, fewer than three distinct CM
            scores, both or neither of ASV scores and ASV error rates.

    Examples:
        >>> min_tdcf = evaluate.load("metrics/min_tdcf.py")
        >>> results = min_tdcf.compute(
        ...     predictions=[2.0, 0.5, 1.0, -1.0], references=["bonafide", "bonafide", "spoof", "spoof"],
        ...     p_miss_asv=0.025, p_fa_asv=0.025, p_fa_spoof_asv=0.76,
        ... )
        >>> round(results["min_tdcf_2019"], 4), round(results["min_tdcf_2021"], 4)
        (0.5, 0.5319)
    """

    def _info(self):
        return make_info(__doc__, self.__doc__, CITATION)

    def _compute(
        self,
        predictions,
        references,
        id2label=None,
        asv_scores=None,
        asv_keys=None,
        p_miss_asv=None,
        p_fa_asv=None,
        p_fa_spoof_asv=None,
    ):
        rates = [p_miss_asv, p_fa_asv, p_fa_spoof_asv]
        from_scores = asv_scores is not None and asv_keys is not None and rates == [None] * 3
        if not from_scores and (None in rates or asv_scores is not None or asv_keys is not None):
            raise ValueError(
                "Give either asv_scores and asv_keys, or all of p_miss_asv, p_fa_asv and p_fa_spoof_asv."
            )
        if from_scores:
            asv = AsvErrorRates.from_scores(*split_by_key(asv_scores, asv_keys, kinds=KINDS))
        else:
            asv = AsvErrorRates(*rates)
        bonafide, spoof = split_by_key(predictions, references, id2label)
        results = {}
        for form in FORMS:
            results[f"min_tdcf_{form}"], results[f"threshold_{form}"] = min_tdcf(bonafide, spoof, asv, form)
        results |= {"p_miss_asv": asv.p_miss, "p_fa_asv": asv.p_fa, "p_fa_spoof_asv": asv.p_fa_spoof}
        return {**results, "num_bonafide": len(bonafide), "num_spoof": len(spoof)}
