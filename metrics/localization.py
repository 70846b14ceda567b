"""
How well scores over time find the spoofed parts of recordings: the equal error rate (EER) by durations (Zhang
et al., "Range-based equal error rate for spoof localization", Interspeech 2023) and of frames (Zhang et al.,
"The PartialSpoof database and countermeasures for the detection of short fake speech segments embedded in an
utterance", TASLP 2023).
"""

from collections.abc import Iterable

import numpy as np


FRAME_SECONDS = 0.02  # the finest resolution of PartialSpoof's labels
TICKS = 10**9  # per second: times are counted, so that ends that coincide do so, and sums are exact


def measure_localization(
    recordings: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], *, frame_seconds: float = FRAME_SECONDS
) -> dict:
    """
    Range and frame EER of recordings whose score is a step function of time.

    Both are the mean of FRR and FAR at the first threshold where they are nearest: shares of the bona fide
    and of the spoofed time (range), or of the frames. A frame is spoofed if any of it is, and has the lowest
    score in it. No threshold parts what has one score: unlike in the EER of trials, ties are not put into an
    order.

    Args:
        recordings: of each, `edges` in seconds, ascending, (num_steps + 1,); `scores` between them, higher =
            more bona fide, NaN where there is none, (num_steps,); and `segments`, start and end in seconds of
            what is spoofed, (num_segments, 2). All else from the first edge to the last is bona fide.

    Returns:
        For "range" and "frame" each `eer`, as a fraction; `threshold`, accepted is what lies above it; and
        how much `bonafide`, `spoof` and `without_score` there is, in seconds or frames. `frame_seconds` as
        given.

    Raises:
        ValueError: nothing of a class has a score, or a segment ends before it starts.
    """
    pieces, frames = [], []
    for edges, scores, segments in recordings:
        pieces.append(_cut_pieces(edges, scores, segments, round(frame_seconds * TICKS)))
        frame, _, *of_pieces = pieces[-1]
        first = np.flatnonzero(np.diff(frame, prepend=-1))
        frames.append([np.ones(len(first)), *(np.minimum.reduceat(of, first) for of in of_pieces)])
    _, durations, *of_pieces = map(np.concatenate, zip(*pieces, strict=True))
    of_ranges = _measure_equal_error(durations, *of_pieces)
    of_ranges |= {name: of_ranges[name] / TICKS for name in ("bonafide", "spoof", "without_score")}
    of_frames = _measure_equal_error(*map(np.concatenate, zip(*frames, strict=True)))
    return {"range": of_ranges, "frame": of_frames, "frame_seconds": frame_seconds}


def _cut_pieces(edges, scores, segments, frame: int) -> tuple[np.ndarray, ...]:
    """Time cut wherever score, class or frame change: of each piece its frame, ticks, score, and whether it
    is bona fide; (num_pieces,) each."""
    edges, segments = (np.rint(np.asarray(of, float) * TICKS).astype(np.int64) for of in (edges, segments))
    starts, ends = segments.reshape(-1, 2).T
    if (starts > ends).any():
        raise ValueError("A spoofed segment ends before it starts.")
    of_frames = np.arange(edges[0] // frame * frame, edges[-1], frame)
    cuts = np.unique(np.clip(np.concatenate([edges, starts, ends, of_frames]), edges[0], edges[-1]))
    at = cuts[:-1]  # where the pieces start
    is_spoof = (at >= starts[:, None]).sum(axis=0) > (at >= ends[:, None]).sum(axis=0)
    scores = np.asarray(scores, float)[np.searchsorted(edges, at, side="right") - 1]
    return at // frame, np.diff(cuts), scores, ~is_spoof


def _measure_equal_error(weights: np.ndarray, scores: np.ndarray, is_bonafide: np.ndarray) -> dict:
    """The EER, where scores count by their weights; all (num_scores,)."""
    is_scored = ~np.isnan(scores)
    distinct, places = np.unique(scores[is_scored], return_inverse=True)
    rejected = [
        np.cumsum(np.bincount(places, np.where(of, weights, 0)[is_scored], len(distinct)))
        for of in (is_bonafide, ~is_bonafide)
    ]
    for name, of in zip(("bona fide", "spoofed"), rejected, strict=True):
        if not of.size or not of[-1]:
            raise ValueError(f"Nothing {name} has a score: localisation needs both classes.")
    frr, accepted = (np.concatenate([[0], of]) / of[-1] for of in rejected)
    at = int(np.argmin(np.abs(frr - (1 - accepted))))
    return {
        "eer": float(frr[at] + 1 - accepted[at]) / 2,
        "threshold": float(distinct[at - 1] if at else distinct[0] - 0.001),
        "bonafide": float(rejected[0][-1]),
        "spoof": float(rejected[1][-1]),
        "without_score": float(weights[~is_scored].sum()),
    }


__all__ = ["FRAME_SECONDS", "measure_localization"]
