"""
Seconds per iteration of EM and per million frames of 60 LFCC features, 512 components, on all cores,
against scikit-learn's `GaussianMixture` from the same start, in one run. The frames are a corpus's own; an
iteration's time is the difference between runs of three and of one iteration.

    python tests/benchmarks/em.py --data_dir ../shared/data/asvspoof2019_la_mini
"""

import argparse
import time
import warnings
from datetime import date

import numpy as np
import torch
from sklearn.mixture import GaussianMixture

from modeling import AntiSpoofingFeatureExtractor, LFCCGMMConfig, LFCCGMMForAudioClassification
from modeling.modeling_lfcc_gmm import DiagonalGMM
from processing.collation import AudioCollator
from processing.corpora import CorpusArguments, load_corpus
from processing.em import EMSettings, initialize_gmm, train_gmm
from processing.results import describe_environment


def frames_of(data_dir: str) -> list[torch.Tensor]:
    """The frames of the training split in batches of 32 utterances, as training has them."""
    model = LFCCGMMForAudioClassification(LFCCGMMConfig(lfcc_pre_emphasis=0.97))
    rows = load_corpus(CorpusArguments(data_dir=data_dir)).splits["train"]
    collator = AudioCollator(AntiSpoofingFeatureExtractor(num_samples=None))
    batches = []
    for start in range(0, len(rows), 32):
        batch = collator([rows[index] for index in range(start, min(start + 32, len(rows)))])
        batches.append(model.frames(batch["input_values"], batch["attention_mask"])[0])
    return batches


def seconds(batches: list[torch.Tensor], start: DiagonalGMM, iterations: int) -> float:
    gmm = DiagonalGMM(*start.means.shape)
    gmm.load_state_dict(start.state_dict())
    begin = time.perf_counter()
    train_gmm(gmm, batches, EMSettings(num_iterations=iterations, tolerance=-1, seed=None))
    return time.perf_counter() - begin


def seconds_of_scikit_learn(frames: np.ndarray, start: DiagonalGMM, iterations: int) -> float:
    weights, means, variances = (
        buffer.double().numpy() for buffer in (start.weights, start.means, start.variances)
    )
    mixture = GaussianMixture(
        len(weights),
        covariance_type="diag",
        tol=0,
        max_iter=iterations,
        weights_init=(weights / weights.sum()).astype(frames.dtype),
        means_init=means.astype(frames.dtype),
        precisions_init=(1 / variances).astype(frames.dtype),
    )
    begin = time.perf_counter()
    mixture.fit(frames)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--rounds", type=int, default=3, help="of each, by turns")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*did not converge")

    batches = frames_of(args.data_dir)
    frames = torch.cat(batches).numpy()
    start = DiagonalGMM(512, frames.shape[1]).double()
    begin = time.perf_counter()
    initialize_gmm(start, batches, EMSettings())
    print(f"{date.today()}, {describe_environment()['hardware']}, {torch.get_num_threads()} threads")
    print(f"{len(frames):,} frames; k-means++ start {time.perf_counter() - begin:.1f} s")
    ways = {
        "ours": lambda iterations: seconds(batches, start, iterations),
        "scikit-learn, float32": lambda iterations: seconds_of_scikit_learn(frames, start, iterations),
        "scikit-learn, float64": lambda iterations: seconds_of_scikit_learn(
            frames.astype(np.float64), start, iterations
        ),
    }
    found = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            found[name].append((way(3) - way(1)) / 2 / len(frames) * 1e6)
    for name, values in found.items():
        ratio = np.median(values) / np.median(found["ours"])
        print(f"{name}: {np.median(values):.1f} s per million frames and iteration ({ratio:.1f} times ours)")


if __name__ == "__main__":
    main()
