"""The official ASVspoof definitions written plainly in numpy: what `metrics/` is checked against, and timed
against in `tests/benchmarks/error_rates.py`."""

import numpy as np


def det(bonafide, spoof):
    """FRR, FAR and thresholds: stable ascending sort of all scores, bona fide first among equals."""
    bonafide, spoof = np.asarray(bonafide, float), np.asarray(spoof, float)
    scores = np.concatenate([bonafide, spoof])
    is_bonafide = np.concatenate([np.ones(len(bonafide)), np.zeros(len(spoof))])
    order = np.argsort(scores, kind="mergesort")
    rejected_bonafide = np.cumsum(is_bonafide[order])
    rejected_spoof = np.cumsum(1 - is_bonafide[order])
    frr = np.concatenate([[0], rejected_bonafide / len(bonafide)])
    far = np.concatenate([[1], (len(spoof) - rejected_spoof) / len(spoof)])
    return frr, far, np.concatenate([[scores[order[0]] - 0.001], scores[order]])


def eer(bonafide, spoof):
    frr, far, thresholds = det(bonafide, spoof)
    index = np.argmin(np.abs(frr - far))
    return np.mean([frr[index], far[index]]), thresholds[index]


def asv_rates(target, nontarget, spoof):
    """P_miss, P_fa, P_fa_spoof at the ASV system's EER threshold."""
    threshold = eer(target, nontarget)[1]
    return np.mean(target < threshold), np.mean(nontarget >= threshold), np.mean(spoof >= threshold)


def min_tdcf_2019(bonafide, spoof, p_miss, p_fa, p_fa_spoof):
    """Kinnunen et al. 2018: C1 and C2 of the ASVspoof 2019 evaluation plan."""
    c1 = 0.9405 * (1 - 1 * p_miss) - 0.0095 * 10 * p_fa
    c2 = 10 * 0.05 * (1 - (1 - p_fa_spoof))
    frr, far, _ = det(bonafide, spoof)
    return np.min((c1 * frr + c2 * far) / np.minimum(c1, c2))


def min_tdcf_2021(bonafide, spoof, p_miss, p_fa, p_fa_spoof):
    """Kinnunen et al. 2020, equations 10 and 11: C0, C1 and C2."""
    c0 = 0.9405 * 1 * p_miss + 0.0095 * 10 * p_fa
    c1 = 0.9405 * 1 - c0
    c2 = 0.05 * 10 * p_fa_spoof
    frr, far, _ = det(bonafide, spoof)
    return np.min((c0 + c1 * frr + c2 * far) / (c0 + np.minimum(c1, c2)))


def min_dcf(bonafide, spoof):
    frr, far, _ = det(bonafide, spoof)
    return np.min(1 * 0.95 * frr + 10 * 0.05 * far) / min(0.95, 0.5)


def act_dcf(bonafide, spoof):
    bonafide, spoof = np.asarray(bonafide, float), np.asarray(spoof, float)
    miss = sum(score < -np.log(1.9) for score in bonafide) / len(bonafide)
    false_alarm = sum(score >= -np.log(1.9) for score in spoof) / len(spoof)
    return (0.95 * miss + 10 * 0.05 * false_alarm) / 0.5


def cllr(bonafide, spoof):
    bonafide, spoof = np.asarray(bonafide, float), np.asarray(spoof, float)
    return (np.mean(np.log2(1 + np.exp(-bonafide))) + np.mean(np.log2(1 + np.exp(spoof)))) / 2
