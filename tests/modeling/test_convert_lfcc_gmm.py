"""The converter of the ASVspoof 2021 Python baseline's mixtures: scikit-learn's pickles in, a model out, and
nothing else."""

import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from modeling.convert_lfcc_gmm_checkpoint import convert, main, read_mixtures


@pytest.fixture(scope="module")
def mixtures() -> dict[str, GaussianMixture]:
    """Two small mixtures on 60 features, as the baseline trains them."""
    generator = np.random.default_rng(0)
    return {
        key: GaussianMixture(4, covariance_type="diag", random_state=0, max_iter=20, tol=0.1).fit(
            generator.normal(shift, 3, size=(300, 60))
        )
        for key, shift in (("bona", 0), ("spoof", 1))
    }


@pytest.fixture
def parameters(mixtures) -> dict[str, tuple[np.ndarray, ...]]:
    return {key: mixture._get_parameters() for key, mixture in mixtures.items()}


def write(path, content, protocol: int = 4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_converted_model_scores_as_the_scikit_learn_mixtures(mixtures, parameters, tmp_path, capsys):
    checkpoint = write(tmp_path / "gmm.pkl", parameters)

    main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "out")])

    printed = capsys.readouterr().out
    assert "lfcc-gmm with 968 parameters" in printed and "Who trained" in printed
    model = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    waveform = 0.1 * np.random.default_rng(1).standard_normal(16000)
    inputs = extractor(waveform, sampling_rate=16000, return_tensors="pt")
    frames = model.frames(**inputs)[0].double().numpy()
    logits = model(**inputs).logits[0].tolist()
    assert frames.shape == (1 + (16000 - 480) // 240, 60)
    expected = [mixtures["bona"].score(frames), mixtures["spoof"].score(frames)]
    assert logits == pytest.approx(expected, rel=1e-5)
    assert model.config.id2label == {0: "bonafide", 1: "spoof"}
    assert extractor.num_samples is None


def test_front_end_is_the_baselines(parameters, tmp_path):
    model, _ = convert(write(tmp_path / "gmm.pkl", parameters), tmp_path / "out")

    config = model.config
    assert (config.lfcc_window_length, config.lfcc_hop_length, config.lfcc_fft_size) == (480, 240, 1024)
    assert (config.lfcc_num_filters, config.lfcc_min_frequency, config.lfcc_max_frequency) == (70, 0, 4000)
    assert (config.lfcc_num_coefficients, config.lfcc_num_deltas) == (20, 2)
    assert config.lfcc_snap_to_bins and not config.lfcc_use_energy
    assert (config.lfcc_pre_emphasis, config.lfcc_log_floor) == (0, 2.2204e-16)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_pickles_of_every_protocol_and_of_numpy_before_and_since_2_are_read(
    parameters, tmp_path, protocol, core
):
    if protocol > 3:  # strings have their length before them: re-framing is the old pickler's work
        pytest.importorskip("numpy._core")
        content = pickle.dumps(parameters, protocol=protocol)
        if core == b"numpy.core.":
            content = renamed(content)
    else:
        content = pickle.dumps(parameters, protocol=protocol).replace(b"numpy._core.", core)
    (tmp_path / "gmm.pkl").write_bytes(content)

    found = read_mixtures(tmp_path / "gmm.pkl")

    for key, label in (("bona", "bonafide"), ("spoof", "spoof")):
        for array, expected in zip(found[label].values(), parameters[key][:3], strict=True):
            np.testing.assert_array_equal(array, expected)


def renamed(content: bytes) -> bytes:
    """The pickle with numpy 1's module names, unframed: BINUNICODE strings hold their length in a byte."""
    for name in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + name, b"numpy.core." + name
        content = content.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
    # Frames (opcode 0x95 and eight bytes of length) would not match any more, and readers do without them.
    position = content.find(b"\x95", 0, 3)
    return content[:position] + content[position + 9 :] if position >= 0 else content


def test_arrays_in_fortran_order_and_float32_are_read(parameters, tmp_path):
    parameters = {
        key: tuple(np.asfortranarray(array.astype(np.float32)) for array in arrays)
        for key, arrays in parameters.items()
    }

    found = read_mixtures(write(tmp_path / "gmm.pkl", parameters))

    np.testing.assert_array_equal(found["spoof"]["means"], parameters["spoof"][1])


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickle_that_runs_something_is_refused_and_not_run(parameters, tmp_path, protocol):
    trace = tmp_path / "trace"
    content = {**parameters, "spoof": Malicious(os.mkdir, str(trace))}

    with pytest.raises(ValueError, match=r"asks for posix\.mkdir.*Nothing of it was run"):
        read_mixtures(write(tmp_path / "gmm.pkl", content, protocol))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (eval, ("1",), r"builtins\.eval"),
        (getattr, ("", "upper"), r"builtins\.getattr"),
        (np.load, ("x.npy",), r"numpy\.load"),
        (np.fromfile, ("x",), r"fromfile"),
        (torch.load, ("x.pt",), r"torch\.serialization\.load"),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, function, arguments, named):
    with pytest.raises(ValueError, match=named):
        read_mixtures(write(tmp_path / "gmm.pkl", {"bona": Malicious(function, *arguments)}))


def test_array_of_objects_is_refused(parameters, tmp_path):
    parameters["bona"] = (np.array([{}, []], dtype=object), *parameters["bona"][1:])

    with pytest.raises(ValueError, match="'bona': weights is not an array of finite numbers"):
        read_mixtures(write(tmp_path / "gmm.pkl", parameters))


class PickledArray:
    """Pickled as an array of a shape, a type and bytes that need not go together."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        reconstruct, arguments, _ = np.zeros(1).__reduce__()
        return reconstruct, arguments, self.state


@pytest.mark.parametrize(
    "state",
    [
        (1, (10**12, 60), np.dtype("f8"), False, bytes(16)),
        (1, (2**70,), np.dtype("f8"), False, bytes(16)),
        (1, (2,), np.dtype("f8"), False, [0.5, 0.5]),
        (1, (2,), np.dtype("O"), False, bytes(16)),
        (1, (2,), "f8", False, bytes(16)),
        (1, (2,)),
    ],
)
def test_array_whose_parts_do_not_go_together_is_refused(parameters, tmp_path, state):
    parameters["bona"] = (PickledArray(*state), *parameters["bona"][1:])

    with pytest.raises(ValueError, match="gmm.pkl is damaged or cannot be read"):
        read_mixtures(write(tmp_path / "gmm.pkl", parameters))


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"bona": 1})[:-4], b"\x80\x04."])
def test_what_is_no_pickle_is_one_line_of_error(tmp_path, content):
    (tmp_path / "gmm.pkl").write_bytes(content)

    with pytest.raises(ValueError, match="gmm.pkl is damaged or cannot be read as a pickle"):
        read_mixtures(tmp_path / "gmm.pkl")


@pytest.mark.parametrize("content", [[1, 2], {"bona": 1}, {"bona": (), "spoof": (), "other": ()}])
def test_other_content_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"must hold a dict of \['bona', 'spoof'\]"):
        read_mixtures(write(tmp_path / "gmm.pkl", content))


def replaced(arrays, index, array):
    return (*arrays[:index], array, *arrays[index + 1 :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:3], "a tuple of weights, means"),
        (lambda p: replaced(p, 1, 3.0), "means is not an array"),
        (lambda p: replaced(p, 1, p[1][:, :30]), r"means \(4, 30\)"),
        (lambda p: replaced(p, 2, np.ones((4, 60, 60))), r"covariances \(4, 60, 60\)"),
        (lambda p: tuple(a[..., :40] if a.ndim == 2 else a for a in p), r"means \(4, 40\).*components, 60"),
        (lambda p: replaced(p, 0, p[0][:3]), r"weights \(3,\)"),
        (lambda p: replaced(p, 0, p[0] / 2), "positive and sum to 1"),
        (lambda p: replaced(p, 0, np.array([-0.5, 0.5, 0.5, 0.5])), "weights must be positive and sum"),
        (lambda p: replaced(p, 1, np.full((4, 60), np.nan)), "means is not an array of finite numbers"),
        (lambda p: replaced(p, 2, -p[2]), "covariances positive"),
        (lambda p: replaced(p, 3, 2 * p[3]), r"precisions_cholesky 1 / sqrt\(covariances\)"),
    ],
)
def test_arrays_that_are_no_mixture_are_refused(parameters, tmp_path, change, message):
    parameters["spoof"] = change(parameters["spoof"])

    with pytest.raises(ValueError, match=message) as error:
        read_mixtures(write(tmp_path / "gmm.pkl", parameters))
    assert "'spoof'" in str(error.value)


def test_mixtures_of_different_sizes_are_refused(parameters, tmp_path):
    weights, *others = parameters["spoof"]
    parameters["spoof"] = (np.full(2, 0.5), *(array[:2] for array in others))

    with pytest.raises(ValueError, match="differ in components"):
        read_mixtures(write(tmp_path / "gmm.pkl", parameters))


def test_output_folder_with_something_in_it_is_left_alone(parameters, tmp_path, capsys):
    checkpoint = write(tmp_path / "gmm.pkl", parameters)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(SystemExit) as stop:
        main(["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / "out")])

    assert stop.value.code == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_missing_checkpoint_is_one_line_of_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--checkpoint", str(tmp_path / "none.pkl"), "--output_dir", str(tmp_path / "out")])

    assert "none.pkl" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
