"""Convert the mixtures of the ASVspoof 2021 Python baseline LFCC-GMM, a pickle of scikit-learn's parameters,
into a `LFCCGMMForAudioClassification`.

    python -m modeling.convert_lfcc_gmm_checkpoint --checkpoint gmm.pkl --output_dir models/lfcc-gmm-2021
"""

import math
import pickle
from pathlib import Path

import numpy as np
import torch

from modeling import LFCCGMMConfig, LFCCGMMForAudioClassification

from .conversion import make_parser, run_converter, write_converted


SOURCE = "https://github.com/asvspoof-challenge/2021 (LA/Baseline-LFCC-GMM/python)"

# The front end of the baseline: 30 ms windows every 15 ms, filters up to 4 kHz (LFCC of spafe 0.1.2). What is
# not here is as in the baseline of 2019, whose settings are the config's defaults.
FRONT_END = {
    "lfcc_window_length": 480,
    "lfcc_hop_length": 240,
    "lfcc_fft_size": 1024,
    "lfcc_num_filters": 70,
    "lfcc_max_frequency": 4000.0,
    "lfcc_snap_to_bins": True,
}
NUM_FEATURES = 60  # 20 coefficients with delta and double delta
LABELS = {"bona": "bonafide", "spoof": "spoof"}  # the pickle's key, ours
PARAMETERS = ("weights", "means", "covariances", "precisions_cholesky")
# All that a pickle of numpy arrays names.
ALLOWED = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "_codecs.encode",
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, tuples and numpy arrays; whatever else a pickle names is refused."""

    def find_class(self, module: str, name: str) -> object:
        module = module.replace("numpy.core.", "numpy._core.")  # as it was called before numpy 2
        if f"{module}.{name}" not in ALLOWED:
            raise ValueError(
                f"The pickle asks for {module}.{name}. A checkpoint of the baseline holds numpy arrays only: "
                "this file is something else or malicious. Nothing of it was run."
            )
        return super().find_class(module, name)


def read_mixtures(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the mixtures by label: weights (components,), means and variances (components, features), float64.
    A `ValueError` for any other content, shapes that do not match, or values that are no mixture."""
    with path.open("rb") as stream:
        try:
            content = ArrayUnpickler(stream).load()
        except Exception as error:  # a damaged pickle raises whatever its bytes happen to lead to
            raise ValueError(f"{path} is damaged or cannot be read as a pickle of arrays: {error}") from None
    if not isinstance(content, dict) or set(content) != set(LABELS):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a dict of {sorted(LABELS)}, but holds {found}.")
    mixtures = {label: _read_mixture(content[key], f"{path}, {key!r}") for key, label in LABELS.items()}
    shapes = {label: mixture["means"].shape for label, mixture in mixtures.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{path}: the mixtures differ in components and features: {shapes}.")
    return mixtures


def _read_mixture(parameters: object, where: str) -> dict[str, np.ndarray]:
    if not isinstance(parameters, (tuple, list)) or len(parameters) != len(PARAMETERS):
        raise ValueError(f"{where}: a tuple of {', '.join(PARAMETERS)} is expected.")
    for name, array in zip(PARAMETERS, parameters, strict=True):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{where}: {name} is not an array of finite numbers.")
    weights, means, variances, precisions = (array.astype(np.float64) for array in parameters)
    size = (weights.size, NUM_FEATURES)
    if weights.ndim != 1 or not means.shape == variances.shape == precisions.shape == size:
        shapes = ", ".join(f"{name} {of.shape}" for name, of in zip(PARAMETERS, parameters, strict=True))
        raise ValueError(
            f"{where}: {shapes}. Expected are weights (components,) and the others (components, "
            f"{NUM_FEATURES}), as covariance_type='diag' gives them for the baseline's features."
        )
    is_mixture = (weights > 0).all() and math.isclose(weights.sum(), 1, rel_tol=1e-3)
    if not is_mixture or (variances <= 0).any() or not np.allclose(precisions**2 * variances, 1, rtol=1e-3):
        raise ValueError(
            f"{where} is no mixture: weights must be positive and sum to 1, covariances positive, and "
            "precisions_cholesky 1 / sqrt(covariances)."
        )
    return {"weights": weights, "means": means, "variances": variances}


def convert(checkpoint: Path, output_dir: Path) -> tuple[LFCCGMMForAudioClassification, dict]:
    """Write a model's folder with the mixtures of a checkpoint: the model, and its conversion.json."""
    mixtures = read_mixtures(checkpoint)
    config = LFCCGMMConfig(num_components=len(mixtures["bonafide"]["weights"]), **FRONT_END)
    model = LFCCGMMForAudioClassification(config)
    for label, mixture in mixtures.items():
        model.gmms[label].load_state_dict({name: torch.from_numpy(array) for name, array in mixture.items()})
    return model, write_converted(model, output_dir, None, checkpoint, "lfcc_gmm", {}, source=SOURCE)


def main(arguments: list[str] | None = None) -> None:
    run_converter(convert, make_parser(__doc__, "the baseline's gmm.pkl", has_system=False), arguments)


if __name__ == "__main__":
    main()
