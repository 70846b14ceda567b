"""Equal error rate of a spoofing countermeasure, by the official ASVspoof definition."""

import datasets
import evaluate
import numpy as np

from .det import equal_error_rate


_DESCRIPTION = """
The equal error rate (EER) of a countermeasure: the error rate at the threshold where as large a share of the
bona fide trials is rejected as of the spoofed trials is accepted. Official ASVspoof definition: no
interpolation between thresholds.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of float): score of each trial, higher = more bona fide.
    references (list of str): key of each trial, "bonafide" or "spoof".

Returns:
    eer (float): as a fraction, not per cent.
    threshold (float): a trial is accepted as bona fide if its score is above it.
    num_bonafide, num_spoof (int): number of trials of each class.

Raises:
    ValueError: another key, a class without trials, NaN or infinity.

Examples:
    >>> eer = evaluate.load("metrics/eer.py")
    >>> eer.compute(predictions=[2.0, 0.5, 1.0, -1.0], references=["bonafide", "bonafide", "spoof", "spoof"])
    {'eer': 0.5, 'threshold': 0.5, 'num_bonafide': 2, 'num_spoof': 2}
"""

_CITATION = """
@inproceedings{todisco2019asvspoof,
  title = {{ASVspoof} 2019: Future Horizons in Spoofed and Fake Audio Detection},
  author = {Todisco, Massimiliano and Wang, Xin and Vestman, Ville and Sahidullah, Md and Delgado, H{\\'e}ctor
            and Nautsch, Andreas and Yamagishi, Junichi and Evans, Nicholas and Kinnunen, Tomi
            and Lee, Kong Aik},
  booktitle = {Interspeech},
  year = {2019}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class EqualErrorRate(evaluate.Metric):
    """`evaluate` module of the EER."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references):
        scores, keys = np.asarray(predictions), np.asarray(references)
        if unknown := set(keys) - {"bonafide", "spoof"}:
            raise ValueError(f"references must be 'bonafide' or 'spoof', not {str(sorted(unknown)[0])!r}.")
        bonafide_scores, spoof_scores = scores[keys == "bonafide"], scores[keys == "spoof"]
        eer, threshold = equal_error_rate(bonafide_scores, spoof_scores)
        return {
            "eer": eer,
            "threshold": threshold,
            "num_bonafide": len(bonafide_scores),
            "num_spoof": len(spoof_scores),
        }
