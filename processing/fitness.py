"""Whether a recording is like those on which a model was validated: if it is not, nothing is said of it."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from .measurements import MEASUREMENTS
from .validation_set import ValidationSet


NEAREST = 5  # the distance is that to the so many-th nearest embedding
FARTHEST = 0.99  # quantile of the validation set's own distances, beyond which a recording is too far off
RAREST = 0.95  # the same of rarity; Sun et al., too, keep 95 % of what is like the validation set
RANGE = ((0.005, "lower"), (0.995, "higher"))  # quantiles of a measurement; of fewer than 200 its extremes
PARTS = {"distance": "what the network makes of it", "score": "its score"}  # of rarity, and what it is called
RARITY = ("snr", "bandwidth", "level", "pauses")  # measurements that are parts of it, too


class FitnessTest:
    """
    Compares a recording with the examined ones of a validation set, in three ways.

    Each measurement is held against its range. The embedding, of length 1, is as far off as its 5th nearest
    neighbour (Sun et al., "Out-of-distribution detection with deep nearest neighbors", ICML 2022). And since
    a recording may be a little unusual in everything, its rarity is the sum of -log p over the distance, the
    score (for the class in which it is less unusual) and the measurements of [`RARITY`] (Fisher's method),
    where p is the share of examined recordings that are at least as unusual. What is too far off or too rare
    is decided by the same numbers of the examined recordings themselves, which are not compared with others
    of their own speaker, where there are several.
    """

    def __init__(self, validation: ValidationSet):
        of_examined, self.measurements = validation.examined, validation.measurements
        self.ranges = {
            name: [float(np.quantile(of[np.isfinite(of)], at, method=how)) for at, how in RANGE]
            for name, of in self.measurements.items()
            if np.isfinite(of).any()
        }
        self.all_scores, self.scores = np.sort(validation.scores), validation.scores[of_examined]
        self.is_bonafide = validation.is_bonafide[of_examined]
        self.embeddings = _normalize(validation.embeddings)
        speakers = validation.speakers[of_examined]
        same = speakers[:, None] == speakers
        if same.all():  # nobody else to compare with
            same = np.eye(len(speakers), dtype=bool)
        self.distances = self._find_distances(self.embeddings, same)
        parts = self._find_parts(self.distances, self.scores, self.measurements, same)
        self.rarities = sum(-np.log(of) for of in parts.values())

    def assess(self, score: float, embedding: np.ndarray, measurements: Mapping[str, float]) -> dict:
        """The `fitness` of a statement; see [`~processing.verdict.state`]."""
        reasons, compared = [], {}
        for name, (low, high) in self.ranges.items():
            kind, value = MEASUREMENTS[name], measurements[name]
            side = "low" if value < low - kind.precision else "high" if value > high + kind.precision else ""
            value = None if np.isnan(value) else value
            range_ = {"low": low, "high": high, "is_outside": bool(side)}
            compared[name] = {"value": value, "unit": kind.unit, **range_}
            if side and side == kind.worse:
                reasons.append(
                    f"{kind.title}, {_write(value)} {kind.unit}, is {side}er than in the recordings on which "
                    f"the model was validated, {_write(low)} to {_write(high)} {kind.unit}"
                )
        none = np.zeros((1, len(self.scores)), bool)
        distance = self._find_distances(_normalize(embedding[None]), none)
        cases = {name: np.array([value]) for name, value in measurements.items()}
        parts = self._find_parts(distance, np.array([score]), cases, none)
        rarity = sum(-np.log(of[0]) for of in parts.values())
        how_far, how_rare = _find_quantile(self.distances, distance[0]), _find_quantile(self.rarities, rarity)
        if how_far is not None and how_far > FARTHEST:
            reasons.append(
                "to the network it is more unlike the recordings on which the model was validated than "
                f"{100 * FARTHEST:g} % of these are unlike those of other speakers"
            )
        if how_rare > RAREST:
            least = sorted(parts, key=lambda name: parts[name][0])
            titles = [PARTS.get(name) or MEASUREMENTS[name].title for name in least]
            reasons.append(
                f"all in all it is more unusual than {100 * RAREST:g} % of the recordings on which the model "
                f"was validated, most of all {titles[0]} and {titles[1]}"
            )
        return {
            "is_fit": not reasons,
            "reasons": [f"{reason[0].upper()}{reason[1:]}." for reason in reasons],
            "distance": {"value": None if how_far is None else float(distance[0]), "quantile": how_far},
            "rarity": {"value": float(rarity), "quantile": how_rare},
            "score_quantile": _find_quantile(self.all_scores, score),
            "measurements": compared,
        }

    def _find_distances(self, embeddings: np.ndarray, is_left_out: np.ndarray) -> np.ndarray:
        """(num,) of embeddings (num, size) of length 1; infinite where fewer than 5 are not left out
        (num, num_examined), or there are no embeddings."""
        if not self.embeddings.size or len(self.embeddings) < NEAREST:
            return np.full(len(embeddings), np.inf)
        squares = np.where(is_left_out, np.inf, 2 - 2 * embeddings @ self.embeddings.T)
        return np.sqrt(np.maximum(np.partition(squares, NEAREST - 1, axis=1)[:, NEAREST - 1], 0))

    def _find_parts(
        self, distances: np.ndarray, scores: np.ndarray, measurements: Mapping, is_left_out: np.ndarray
    ) -> dict[str, np.ndarray]:
        """By what is compared, p (num,)."""
        bonafide, spoof = self.is_bonafide, ~self.is_bonafide
        parts = {
            "distance": _find_share(self.distances, distances, is_left_out),
            "score": np.maximum(
                _find_share(-self.scores[bonafide], -scores, is_left_out[:, bonafide]),
                _find_share(self.scores[spoof], scores, is_left_out[:, spoof]),
            ),
        }
        for name in RARITY:
            own, values = self.measurements[name], measurements[name]
            precision = MEASUREMENTS[name].precision  # smaller differences do not count
            sides = [_find_share(sign * own + precision, sign * values, is_left_out) for sign in (1, -1)]
            parts[name] = np.minimum(1, 2 * np.minimum(*sides))
        return parts


@lru_cache(maxsize=1)
def prepare_fitness_test(validation: ValidationSet) -> FitnessTest:
    """The test of a validation set, made once for all recordings."""
    return FitnessTest(validation)


def _write(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def _normalize(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def _find_share(own: np.ndarray, values: np.ndarray, is_left_out: np.ndarray) -> np.ndarray:
    """The share (num,) of `own` (num_examined,) that are at least as large as the values (num,), of those not
    left out (num, num_examined) and the value itself. 1 where there is nothing to compare."""
    counts = np.isfinite(own) & ~is_left_out
    shares = (1 + np.sum(counts & (own >= values[:, None]), axis=1)) / (1 + counts.sum(axis=1))
    return np.where(np.isfinite(values), shares, 1)


def _find_quantile(own: np.ndarray, value: float) -> float | None:
    """The share of the finite ones of `own` that are below the value; `None` where there are none."""
    own = own[np.isfinite(own)]
    return float(np.mean(own < value)) if len(own) and np.isfinite(value) else None
