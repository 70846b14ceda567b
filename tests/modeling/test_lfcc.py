"""The LFCC front end against its definition in float64, torchaudio's LFCC, and hand-worked values."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from modeling.configuration_lfcc import LFCCFrontEndConfig
from modeling.lfcc import LFCC, cosine_transform, delta, linear_filter_bank


# The front end of the ASVspoof 2021 Python baseline.
BASELINE_2021 = {
    "lfcc_window_length": 480,
    "lfcc_hop_length": 240,
    "lfcc_fft_size": 1024,
    "lfcc_num_filters": 70,
    "lfcc_max_frequency": 4000.0,
    "lfcc_snap_to_bins": True,
}


def snapped_filters(count: int, fft_size: int, low: float, high: float, rate: int) -> np.ndarray:
    """(filters, bins), weight by weight, with the edges at bins."""
    edges = [int(np.floor((fft_size + 1) * f / rate)) for f in np.linspace(low, high, count + 2)]
    weights = np.zeros((count, fft_size // 2 + 1))
    for j in range(count):
        left, peak, right = edges[j : j + 3]
        for n in range(left, right):
            weights[j, n] = (n - left) / (peak - left) if n < peak else (right - n) / (right - peak)
    return weights


def delta_by_definition(features: np.ndarray) -> np.ndarray:
    """(frames, coefficients) to the same."""
    padded = np.concatenate([features[:1], features, features[-1:]])
    return padded[2:] - padded[:-2]


def lfcc_of_baseline_2021(waveform: np.ndarray) -> np.ndarray:
    """(samples,) to (60, frames): the ASVspoof 2021 Python baseline's definition, in float64."""
    waveform = waveform.astype(np.float64)
    frames = np.stack([waveform[t : t + 480] for t in range(0, len(waveform) - 479, 240)]) * np.hamming(480)
    power = np.abs(np.fft.rfft(frames, 1024)) ** 2
    bands = np.log10(power @ snapped_filters(70, 1024, 0, 4000, 16000).T + 2.2204e-16)
    cosines = np.cos(np.pi * np.arange(20)[:, None] * (2 * np.arange(70) + 1) / 140) * np.sqrt(2 / 70)
    cosines[0] /= np.sqrt(2)
    features = bands @ cosines.T
    first = delta_by_definition(features)
    return np.concatenate([features, first, delta_by_definition(first)], axis=1).T


def lfcc_of_baseline_2019(waveform: np.ndarray) -> np.ndarray:
    """(samples,) to (60, frames): the ASVspoof 2019 baseline's definition, in float64. MATLAB's
    buffer(x, 320, 160, 'nodelay') fills the last frame with zeros."""
    emphasised = waveform.astype(np.float64)
    emphasised[1:] -= 0.97 * waveform[:-1].astype(np.float64)
    count = max(int(np.ceil((len(waveform) - 160) / 160)), 1)
    emphasised = np.concatenate([emphasised, np.zeros(320)])
    frames = np.stack([emphasised[160 * i : 160 * i + 320] for i in range(count)]) * np.hamming(320)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    edges = np.linspace(0, 8000, 22)
    frequency = np.arange(257) * 16000 / 512
    filters = np.stack([np.interp(frequency, edges[j : j + 3], [0, 1, 0]) for j in range(20)])
    bands = np.log10(power @ filters.T + 2.2204e-16)
    cosines = np.cos(np.pi * np.arange(20)[:, None] * (2 * np.arange(20) + 1) / 40) * np.sqrt(2 / 20)
    cosines[0] /= np.sqrt(2)
    features = bands @ cosines.T
    first = delta_by_definition(features)
    return np.concatenate([features, first, delta_by_definition(first)], axis=1).T


def front_end(**settings) -> LFCC:
    return LFCC(LFCCFrontEndConfig(**settings))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Amplitudes of speech, about 0.1."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equals_the_2021_baseline_in_float64():
    waveform = noise(2, 16100)

    features = front_end(**BASELINE_2021)(waveform)

    expected = np.stack([lfcc_of_baseline_2021(w.numpy()) for w in waveform])
    assert features.shape == expected.shape == (2, 60, 66)
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 100, 320, 321, 480, 16000, 16001, 16159])
def test_equals_the_2019_baseline_in_float64_to_its_last_frame(length):
    waveform = noise(1, length)[0]
    lfcc = front_end(lfcc_pre_emphasis=0.97, lfcc_pad_last_window=True)

    alone = lfcc(waveform[None])[0]
    padded = torch.cat([waveform, torch.full((777,), 0.5)])  # what lies behind an utterance does not count
    in_batch = lfcc(padded[None], torch.tensor([length]))[0]

    expected = lfcc_of_baseline_2019(waveform.numpy())
    assert alone.shape == expected.shape
    np.testing.assert_allclose(alone, expected, atol=2e-5)
    np.testing.assert_allclose(in_batch[:, : expected.shape[1]], expected, atol=2e-5)


def test_float32_of_real_recordings_is_within_3e_4_of_float64(shared_data):
    clips = sorted((shared_data / "librispeech_clips").rglob("*.flac"))[:3]
    clips += sorted((shared_data / "asvspoof2019_la_mini/ASVspoof2019_LA_dev/flac").glob("*.flac"))[:5]
    lfcc = front_end(**BASELINE_2021)

    errors = []
    for clip in clips:
        waveform = soundfile.read(clip, dtype="float32")[0][:64000]
        features = lfcc(torch.from_numpy(waveform)[None])[0]
        errors.append(np.abs(features.numpy() - lfcc_of_baseline_2021(waveform)).max())

    assert len(errors) == 8
    assert max(errors) < 3e-4  # of values of up to 70


@pytest.mark.parametrize(
    "count, fft_size, low, high, rate",
    [
        (70, 1024, 0, 4000, 16000),
        (20, 512, 300.0, 8000.0, 16000),
        (18, 512, 0, 8000, 16000),  # edges that are bins but for rounding
        (18, 101, 0, 8000, 16000),  # the last edge likewise
        (20, 399, 100, 3999.5, 8000),
    ],
)
def test_snapped_filters_equal_the_definition(count, fft_size, low, high, rate):
    filters = linear_filter_bank(
        count, fft_size, min_frequency=low, max_frequency=high, sampling_rate=rate, snap_to_bins=True
    )

    np.testing.assert_allclose(filters.T, snapped_filters(count, fft_size, low, high, rate), atol=1e-15)


@pytest.mark.parametrize("count, fft_size, low, high", [(20, 512, 0.0, 8000.0), (40, 400, 250.0, 7000.0)])
def test_exact_filters_equal_those_of_torchaudio(count, fft_size, low, high):
    filters = linear_filter_bank(count, fft_size, min_frequency=low, max_frequency=high)

    expected = torchaudio.functional.linear_fbanks(fft_size // 2 + 1, low, high, count, 16000)
    torch.testing.assert_close(filters.float(), expected, atol=1e-5, rtol=0)


def test_cosine_transform_is_that_of_torchaudio():
    expected = torchaudio.functional.create_dct(20, 70, norm="ortho")

    torch.testing.assert_close(cosine_transform(20, 70).float(), expected, atol=1e-6, rtol=0)


def test_equals_torchaudio_set_alike():
    theirs = torchaudio.transforms.LFCC(
        n_filter=32,
        f_min=100.0,
        f_max=7600.0,
        n_lfcc=16,
        log_lf=True,  # ln(x + 1e-6)
        speckwargs={
            "n_fft": 512,
            "hop_length": 160,
            "center": False,
            "window_fn": torch.hamming_window,
            "wkwargs": {"periodic": False},
        },
    )
    ours = front_end(
        lfcc_window_length=512,
        lfcc_num_filters=32,
        lfcc_min_frequency=100.0,
        lfcc_max_frequency=7600.0,
        lfcc_num_coefficients=16,
        lfcc_num_deltas=0,
        lfcc_log_floor=1e-6,
    )
    waveform = noise(2, 16000)

    features = ours(waveform)

    assert features.shape == (2, 16, 97)
    torch.testing.assert_close(features * np.log(10), theirs(waveform), atol=1e-4, rtol=0)


def test_delta_repeats_the_edges_and_does_not_divide():
    features = torch.tensor([[[1.0, 4.0, 2.0, 8.0]]])

    first = delta(features)

    assert first.tolist() == [[[3.0, 1.0, 4.0, 6.0]]]
    assert delta(first).tolist() == [[[-2.0, 1.0, 5.0, 2.0]]]


def test_delta_of_a_single_frame_is_zero():
    assert delta(torch.tensor([[[5.0]]])).tolist() == [[[0.0]]]


def test_delta_ends_at_the_last_frame_of_each_utterance():
    features = torch.tensor([[[1.0, 4.0, 2.0, 8.0]], [[1.0, 4.0, 2.0, 8.0]]])
    is_last = torch.tensor([[[False, True, False, False]], [[False, False, True, False]]])

    first = delta(features, is_last)

    assert first[0, 0, :2].tolist() == [3.0, 3.0]
    assert first[1, 0, :3].tolist() == [3.0, 1.0, -2.0]


def test_number_of_deltas_chooses_leading_blocks_of_the_same_features():
    waveform = noise(1, 4000)
    whole = front_end()(waveform)

    for num_deltas in (0, 1):
        features = front_end(lfcc_num_deltas=num_deltas)(waveform)
        assert torch.equal(features, whole[:, : 20 * (1 + num_deltas)])


def test_energy_replaces_the_zeroth_coefficient_only():
    waveform = noise(1, 4000)

    plain, with_energy = (
        front_end(lfcc_use_energy=use, lfcc_log_floor=1e-3)(waveform) for use in (False, True)
    )

    frames = np.stack([waveform[0, t : t + 320].double().numpy() for t in range(0, 3681, 160)])
    power = np.abs(np.fft.rfft(frames * np.hamming(320), 512)) ** 2
    expected = np.log10(power.sum(axis=1) + 1e-3)
    np.testing.assert_allclose(with_energy[0, 0], expected, atol=1e-5)
    assert torch.equal(with_energy[:, 1:20], plain[:, 1:20])
    assert not torch.allclose(with_energy[:, 0], plain[:, 0], atol=0.1)


def test_pre_emphasis_is_the_difference_of_samples_but_for_the_first():
    waveform = noise(2, 4000)
    emphasised = waveform.clone()
    emphasised[:, 1:] = waveform[:, 1:] - 0.97 * waveform[:, :-1]

    features = front_end(lfcc_pre_emphasis=0.97)(waveform)

    torch.testing.assert_close(features, front_end()(emphasised), atol=1e-5, rtol=0)


def test_silence_is_the_logarithm_of_the_floor():
    features = front_end()(torch.zeros(1, 1000))

    assert features[0, 0, 0].item() == pytest.approx(np.log10(2.2204e-16) * np.sqrt(20), rel=1e-5)
    assert features[:, 1:].abs().max() < 1e-4


def test_only_whole_frames_are_counted_but_one_at_least():
    lfcc = front_end()

    counts = [lfcc.num_frames(length) for length in (1, 319, 320, 479, 480, 64000)]

    assert counts == [1, 1, 1, 1, 2, 399]
    lengths = torch.tensor([1, 319, 320, 479, 480, 64000])
    assert lfcc.num_frames(lengths).tolist() == counts
    assert lfcc(noise(1, 479)).shape == (1, 60, 1)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=5),
    padding=st.integers(0, 300),
    num_deltas=st.integers(0, 2),
    pre_emphasis=st.sampled_from([0.0, 0.97]),
    pad_last_window=st.booleans(),
)
def test_features_do_not_depend_on_what_an_utterance_is_padded_to(
    lengths, padding, num_deltas, pre_emphasis, pad_last_window
):
    lfcc = front_end(
        lfcc_window_length=64,
        lfcc_hop_length=24,
        lfcc_fft_size=128,
        lfcc_num_deltas=num_deltas,
        lfcc_pre_emphasis=pre_emphasis,
        lfcc_pad_last_window=pad_last_window,
    )
    alone = [noise(1, length, seed=length) for length in lengths]
    batch = torch.zeros(len(lengths), max(lengths) + padding)
    for row, waveform in zip(batch, alone, strict=True):
        row[: waveform.shape[1]] = waveform[0]

    features = lfcc(batch, torch.tensor(lengths))

    for together, waveform in zip(features, alone, strict=True):
        frames = lfcc.num_frames(waveform.shape[1])
        torch.testing.assert_close(together[:, :frames], lfcc(waveform)[0], atol=1e-5, rtol=0)
        assert not together[:, frames:].any()


def test_utterance_shorter_than_a_window_is_filled_with_zeros():
    lfcc, short = front_end(), noise(1, 100)

    alone, batch = lfcc(short), lfcc(noise(2, 1000), torch.tensor([1000, 100]))

    assert alone.shape == (1, 60, 1) and batch.shape == (2, 60, 5)
    torch.testing.assert_close(alone, lfcc(torch.nn.functional.pad(short, (0, 220))))


def test_utterance_without_samples_is_an_error():
    with pytest.raises(ValueError, match="has no samples"):
        front_end()(noise(2, 1000), torch.tensor([1000, 0]))


def test_long_utterances_are_the_same_whatever_is_held_at_a_time(monkeypatch):
    lfcc, waveform = front_end(), noise(2, 16000)
    whole = lfcc(waveform)

    monkeypatch.setattr("modeling.lfcc.CHUNK", 14)
    held, coefficients = [], lfcc.coefficients
    monkeypatch.setattr(lfcc, "coefficients", lambda part: held.append(part.shape[:2]) or coefficients(part))

    torch.testing.assert_close(lfcc(waveform), whole)
    assert max(batch * frames for batch, frames in held) == 14


def test_lengths_that_do_not_fit_the_waveform_are_an_error():
    lfcc = front_end()

    with pytest.raises(ValueError, match="num_samples 1001 is more than the waveforms' 1000 samples"):
        lfcc(noise(2, 1000), torch.tensor([1001, 1000]))
    with pytest.raises(ValueError, match=r"num_samples has the shape \(1,\); a batch of 2 needs \(2,\)"):
        lfcc(noise(2, 1000), torch.tensor([1000]))


def test_autocast_changes_nothing():
    lfcc, waveform = front_end(), noise(2, 4000)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = lfcc(waveform)

    assert torch.equal(features, lfcc(waveform))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_waveform_and_module_of_another_dtype_are_computed_in_float32(dtype):
    waveform = noise(2, 4000).to(dtype)

    features = front_end().to(dtype)(waveform)

    assert features.dtype == torch.float32
    torch.testing.assert_close(features, front_end()(waveform.float()), rtol=0, atol=2e-5)


def test_gradient_is_that_of_finite_differences():
    lfcc = front_end(lfcc_pre_emphasis=0.5, lfcc_use_energy=True)
    waveform, direction = noise(2, 1000), noise(2, 1000, seed=1)
    weights = torch.randn(2, 60, 5, generator=torch.Generator().manual_seed(2))
    waveform.requires_grad_()

    (lfcc(waveform) * weights).sum().backward()
    with torch.no_grad():
        up, down = (
            (lfcc(waveform + step * direction) * weights).double().sum().item() for step in (1e-3, -1e-3)
        )

    assert (waveform.grad * direction).sum().item() == pytest.approx((up - down) / 2e-3, rel=0.01)


def test_gradient_of_silence_and_padding_is_finite():
    waveform = noise(2, 1000)
    waveform[0, 400:] = 0
    waveform.requires_grad_()

    front_end()(waveform, torch.tensor([400, 1000])).square().sum().backward()

    assert waveform.grad.isfinite().all()
    assert waveform.grad[0, :320].any()
    assert not waveform.grad[0, 400:].any()


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("lfcc_window_length", 0, "lfcc_window_length must be at least 1, not 0"),
        ("lfcc_hop_length", 0, "lfcc_hop_length must be at least 1, not 0"),
        ("lfcc_fft_size", 319, "lfcc_fft_size 319 must be at least lfcc_window_length 320"),
        ("num_samples", 319, "num_samples 319 is too short: .* at least 320"),
        ("lfcc_min_frequency", -1.0, "lfcc_min_frequency -1.0 and"),
        ("lfcc_min_frequency", 8000.0, "lfcc_min_frequency 8000.0 and"),
        ("lfcc_max_frequency", 8000.5, "lfcc_max_frequency 8000.5 must"),
        ("lfcc_num_filters", 0, "lfcc_num_filters must be at least 1"),
        ("lfcc_num_filters", 256, "lfcc_num_filters 256 is too many.* 256 bins wide, enough for 255 filters"),
        ("lfcc_num_coefficients", 21, "lfcc_num_coefficients 21 must be from 1 to lfcc_num_filters 20"),
        ("lfcc_num_coefficients", 0, "lfcc_num_coefficients 0 must be"),
        ("lfcc_num_deltas", 3, "'lfcc_num_deltas' expected one of .0, 1, 2., got"),
        ("lfcc_pre_emphasis", 1.1, "lfcc_pre_emphasis must be from 0 to 1"),
        ("lfcc_log_floor", 0.0, "lfcc_log_floor must be at least 1.18e-38, not 0.0"),
    ],
)
def test_config_that_does_not_hold_is_an_error_that_names_the_field(field, value, message):
    with pytest.raises(StrictDataclassError, match=message):
        LFCCFrontEndConfig(**{field: value})


@pytest.mark.parametrize("snap_to_bins", [False, True])
def test_every_filter_of_the_narrowest_valid_bank_passes_something(snap_to_bins):
    filters = linear_filter_bank(255, 512, snap_to_bins=snap_to_bins)

    assert filters.isfinite().all()
    assert (filters.sum(dim=0) >= 0.5).all()


@strict
class TinyConfig(LFCCFrontEndConfig):
    """Of a system that takes whole utterances."""

    model_type = "tiny-lfcc"

    num_samples: int | None = None


class TinyModel(PreTrainedModel):
    """The front end and a linear layer."""

    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.lfcc = LFCC(config)
        self.linear = torch.nn.Linear(3 * config.lfcc_num_coefficients, 2)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, LFCC):
            module.init_weights()
        else:
            super()._init_weights(module)


def test_settings_of_a_system_on_lfcc_are_validated_too():
    with pytest.raises(StrictDataclassError, match="'lfcc_num_deltas' expected one of .0, 1, 2., got"):
        TinyConfig(lfcc_num_deltas=3)


def assert_same_buffers(module: LFCC, expected: LFCC) -> None:
    """The buffers are float32 and equal, bit for bit."""
    buffers = dict(module.named_buffers())
    assert buffers.keys() == {"window", "filters", "dct"}
    for name, value in expected.named_buffers():
        assert buffers[name].dtype == torch.float32
        assert torch.equal(buffers[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_survive_from_pretrained(tmp_path, dtype):
    model = TinyModel(TinyConfig(**BASELINE_2021))
    model.save_pretrained(tmp_path)

    loaded = TinyModel.from_pretrained(tmp_path, dtype=dtype)

    assert loaded.linear.weight.dtype == dtype
    assert_same_buffers(loaded.lfcc, model.lfcc)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_missing_from_the_weights_are_set_again(tmp_path, dtype):
    model = TinyModel(TinyConfig(**BASELINE_2021))
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("lfcc.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded = TinyModel.from_pretrained(tmp_path, dtype=dtype)

    assert len(weights) == len(kept) + 3
    assert_same_buffers(loaded.lfcc, model.lfcc)


def test_init_weights_sets_the_buffers_whatever_the_default_device():
    config = LFCCFrontEndConfig(**BASELINE_2021)

    with torch.device("meta"):
        lfcc = LFCC(config).to("meta").to_empty(device="cpu")
        lfcc.init_weights()

    assert_same_buffers(lfcc, LFCC(config))
