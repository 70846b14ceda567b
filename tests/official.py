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


def eer_of_arena(bonafide, spoof):
    """`metrics/eer.py` of speech-spoof-bench 0.3.0, in per cent: linear between neighbouring thresholds."""
    bonafide, spoof = np.asarray(bonafide, float), np.asarray(spoof, float)
    thresholds = np.unique(np.concatenate([bonafide, spoof]))
    far = np.array([np.mean(spoof >= threshold) for threshold in thresholds])
    frr = np.array([np.mean(bonafide < threshold) for threshold in thresholds])
    diff = far - frr
    crossings = [i for i in range(len(diff) - 1) if np.sign(diff[i]) != np.sign(diff[i + 1])]
    if not crossings:
        i = np.argmin(np.abs(diff))
        return 100 * (far[i] + frr[i]) / 2
    i = crossings[0]
    alpha = diff[i] / (diff[i] - diff[i + 1])
    return 50 * (far[i] + alpha * (far[i + 1] - far[i]) + frr[i] + alpha * (frr[i + 1] - frr[i]))


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


def sort_trials(classes, labels):
    """Labels of trials by ascending score, the first class's first among equals, and the scores."""
    scores, labels = np.concatenate(classes), np.repeat(labels, [len(of_class) for of_class in classes])
    order = np.argsort(scores, kind="mergesort")
    return labels[order], scores[order]


def min_a_dcf(target, nontarget, spoof, priors=(0.9405, 0.0095, 0.05), prices=(1, 10, 10)):
    """`a_dcf.py` of the ASVspoof 5 package: one trial after the other is rejected."""
    weights = [prior * price for prior, price in zip(priors, prices, strict=True)]
    sizes = len(target), len(nontarget), len(spoof)
    rejected, costs = [0, 0, 0], [weights[1] + weights[2]]
    for label in sort_trials((target, nontarget, spoof), (0, 1, 2))[0]:
        rejected[label] += 1
        miss, *kept = (number / size for number, size in zip(rejected, sizes, strict=True))
        costs.append(weights[0] * miss + weights[1] * (1 - kept[0]) + weights[2] * (1 - kept[1]))
    return min(costs) / min(weights[0], weights[1] + weights[2])


def t_eer(cm, asv, rho=0.5):
    """
    `compute_teer` of the ASVspoof 5 package: all CM thresholds are looked at for every ASV threshold. The
    t-EER as a fraction, and the two thresholds.
    """
    labels, asv_scores = sort_trials(asv, (1, 0, -1))
    p_miss_asv = np.concatenate([[0], np.cumsum(labels == 1) / len(asv[0])])
    p_fa_non_asv = np.concatenate([[1], 1 - np.cumsum(labels == 0) / len(asv[1])])
    p_fa_spf_asv = np.concatenate([[1], 1 - np.cumsum(labels == -1) / len(asv[2])])
    p_miss_cm, p_fa_cm, cm_thresholds = det(np.concatenate(cm[:2]), cm[2])
    best, found = np.inf, None
    for i, (miss, fa_non, fa_spf) in enumerate(zip(p_miss_asv, p_fa_non_asv, p_fa_spf_asv, strict=True)):
        p_miss = p_miss_cm + (1 - p_miss_cm) * miss
        p_fa = (1 - rho) * (1 - p_miss_cm) * fa_non + rho * p_fa_cm * fa_spf
        k = np.argmin(np.abs(p_miss - p_fa))
        if miss < (1 - rho) * fa_non + rho * fa_spf and fa_spf > 0 and p_miss_cm[k] < 1:
            criterion = abs(fa_non / fa_spf - p_fa_cm[k] / (1 - p_miss_cm[k]))
            if criterion < best:
                threshold = asv_scores[i - 1] if i else asv_scores[0] - 0.001
                best, found = criterion, (fa_spf * p_fa_cm[k], cm_thresholds[k], threshold)
    return found
