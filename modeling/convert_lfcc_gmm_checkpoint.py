"""Convert the mixtures of the ASVspoof 2021 Python baseline LFCC-GMM, a pickle of scikit-learn's parameters,
into a `LFCCGMMForAudioClassification`.

    python -m modeling.convert_lfcc_gmm_checkpoint --checkpoint gmm.pkl --output_dir models/lfcc-gmm-2021
"""

import functools
import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from modeling import LFCCGMMConfig, LFCCGMMForAudioClassification

from .conversion import make_parser, write_converted


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
PRECISION_TOLERANCE = 1e-3  # relative, of precisions_cholesky against 1 / sqrt(covariances)
# All that a pickle of numpy arrays names; since numpy 2, `numpy.core` is called `numpy._core`.
ALLOWED = {
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.numeric._frombuffer",
    "_codecs.encode",
}


class Pickled:
    """What a pickle says of an object that numpy would make; nothing is run."""

    state: tuple = ()

    def __init__(self, name: str, *arguments):
        self.name, self.arguments = name, arguments

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def to_array(self) -> np.ndarray:
        """Make the array, float64; any error if its dtype, shape and bytes do not go together."""
        if self.name == "_frombuffer":
            data, dtype, shape, order = self.arguments
        else:
            _, shape, dtype, is_fortran, data = self.state
            order = "F" if is_fortran else "C"
        if isinstance(data, Pickled):  # bytes, as protocols before 3 hold them
            data = data.arguments[0].encode("latin1")
        kind, byte_order = dtype.arguments[0], dtype.state[1]
        if kind not in ("f4", "f8") or byte_order not in ("<", ">"):
            raise ValueError(f"dtype {kind!r} of byte order {byte_order!r}; f4 and f8 are expected")
        return np.frombuffer(data, byte_order + kind).reshape(shape, order=order).astype(np.float64)


class ArrayUnpickler(pickle.Unpickler):
    """Reads dicts, tuples and what stands for numpy arrays; whatever else a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Callable[..., Pickled]:
        if f"{module}.{name}".replace("numpy._core.", "numpy.core.") not in ALLOWED:
            raise ValueError(
                f"The pickle asks for {module}.{name}. A checkpoint of the baseline holds numpy arrays only: "
                "this file is something else or malicious. Nothing of it was run."
            )
        return functools.partial(Pickled, name)


def read_pickle(path: Path) -> object:
    """Read what `ArrayUnpickler` reads; a `ValueError` for anything else."""
    pickled = path.read_bytes()
    try:
        places = [argument for opcode, argument, _ in pickletools.genops(pickled) if "PUT" in opcode.name]
        # Memory is set aside for all places before the last one. No honest pickle has more than it has bytes.
        if max(places, default=0) > len(pickled):
            raise ValueError(f"the pickle puts something in place {max(places):,} of its memo.")
        return ArrayUnpickler(io.BytesIO(pickled)).load()
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to lead to
        raise ValueError(f"{path} is damaged or cannot be read as a pickle of arrays: {error}") from None


def read_mixtures(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Read the mixtures by label: weights (components,), means and variances (components, features), float64.
    A `ValueError` for any other content, shapes that do not match, or values that are no mixture."""
    content = read_pickle(path)
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
    arrays = {}
    for name, value in zip(PARAMETERS, parameters, strict=True):
        try:
            arrays[name] = value.to_array()
        except Exception as error:  # the pickle may hold anything there
            raise ValueError(f"{where}: {name} is not an array of numbers ({error!r}).") from None
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{where}: NaN or infinity in {name}.")
    weights, means, variances, precisions = arrays.values()
    size = (weights.size, NUM_FEATURES)
    if weights.ndim != 1 or not means.shape == variances.shape == precisions.shape == size:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        fault = (
            f"{shapes}. Expected are weights (components,) and the others (components, {NUM_FEATURES}), as "
            "covariance_type='diag' gives them for the baseline's features"
        )
    elif (weights <= 0).any() or not math.isclose(weights.sum(), 1, rel_tol=1e-3):
        fault = f"weights must be positive and sum to 1; their sum is {weights.sum():g}"
    elif (variances <= 0).any():
        fault = f"covariances must be positive; the smallest is {variances.min():g}"
    elif (off := np.abs(precisions * np.sqrt(variances) - 1).max()) > PRECISION_TOLERANCE:
        fault = f"precisions_cholesky is not 1 / sqrt(covariances); the ratio is off by {off:g}"
    else:
        return {"weights": weights, "means": means, "variances": variances}
    raise ValueError(f"{where}: {fault}.")


def convert(checkpoint: Path, output_dir: Path) -> LFCCGMMForAudioClassification:
    """Write the folder of a model with the mixtures of a checkpoint of the baseline."""
    mixtures = read_mixtures(checkpoint)
    config = LFCCGMMConfig(num_components=len(mixtures["bonafide"]["weights"]), **FRONT_END)
    model = LFCCGMMForAudioClassification(config)
    for label, mixture in mixtures.items():
        model.gmms[label].load_state_dict({name: torch.from_numpy(array) for name, array in mixture.items()})
    write_converted(model, output_dir, None, checkpoint, "lfcc_gmm", {}, source=SOURCE)
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "the baseline's gmm.pkl")
    args = parser.parse_args(arguments)
    try:
        model = convert(args.checkpoint, args.output_dir)
    except (ValueError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"{args.output_dir}: LFCC-GMM with {model.config.num_components} components per class")


if __name__ == "__main__":
    main()
