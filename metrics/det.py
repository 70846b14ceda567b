"""Detection error trade-off and equal error rate as the ASVspoof organisers define them (`eval_metrics.py` of
the ASVspoof 2019 evaluation package): no interpolation, no convex hull."""

import numpy as np


def check_scores(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray]:
    """
    Scores of both classes as float64 vectors.

    Raises:
        ValueError: a class without trials, NaN or infinity, or scores that are not a vector.
    """
    checked = []
    for name, scores in (("bona fide", bonafide_scores), ("spoof", spoof_scores)):
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim != 1:
            raise ValueError(f"The {name} scores have shape {scores.shape}; one score per trial is expected.")
        if scores.size == 0:
            raise ValueError(f"There is no {name} trial: error rates need trials of both classes.")
        if not np.isfinite(scores).all():
            index = int(np.argmin(np.isfinite(scores)))
            raise ValueError(f"The {name} scores contain {scores[index]} (trial {index} of that class).")
        checked.append(scores)
    return checked[0], checked[1]


def det_curve(bonafide_scores, spoof_scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    False rejection and false acceptance rate of a countermeasure at every threshold.

    Args:
        bonafide_scores, spoof_scores: (num_bonafide,) and (num_spoof,), higher = more bona fide.

    Returns:
        `frr`, `far` and `thresholds`, float64, each (num_bonafide + num_spoof + 1,). A trial is accepted as
        bona fide if its score is above the threshold. The first threshold, 0.001 below the lowest score,
        accepts all.

    Raises:
        ValueError: see [`check_scores`].
    """
    bonafide_scores, spoof_scores = check_scores(bonafide_scores, spoof_scores)
    scores = np.concatenate([bonafide_scores, spoof_scores])
    order = np.argsort(scores, kind="stable")  # ties: bona fide before spoof, as the official script has them
    is_bonafide = order < bonafide_scores.size
    rejected_bonafide = np.cumsum(is_bonafide)
    accepted_spoof = spoof_scores.size - np.cumsum(~is_bonafide)
    frr = np.concatenate([[0.0], rejected_bonafide / bonafide_scores.size])
    far = np.concatenate([[1.0], accepted_spoof / spoof_scores.size])
    thresholds = np.concatenate([[scores[order[0]] - 0.001], scores[order]])
    return frr, far, thresholds


def equal_error_rate(bonafide_scores, spoof_scores) -> tuple[float, float]:
    """
    EER as a fraction, and its threshold: the mean of FRR and FAR at the first threshold where they are
        nearest.

    Args and errors as [`det_curve`].
    """
    frr, far, thresholds = det_curve(bonafide_scores, spoof_scores)
    index = np.argmin(np.abs(frr - far))
    return float((frr[index] + far[index]) / 2), float(thresholds[index])
