"""The constant-Q transform against its definition in float64 without decimation, against librosa, and by
tones, clicks and silence."""

import librosa
import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig, PreTrainedModel

from modeling import LCNNConfig
from modeling.cqt import CQT


RATE = 16000
LOWEST = 15.625


def by_definition(waveform, *, hop=160, lowest=LOWEST, num_bins=108, bins_per_octave=12, rate=RATE):
    """X_k(t), frame by frame from the whole signal: complex128, (num_bins, frames)."""
    r = 2 ** (1 / bins_per_octave)
    transform = []
    for k in range(num_bins):
        frequency = lowest * r**k
        length = (r**2 + 1) / (r**2 - 1) * rate / frequency
        half = int(np.ceil(length / 2))
        n = np.arange(-half, half + 1)
        window = np.where(np.abs(n) < length / 2, 0.5 + 0.5 * np.cos(2 * np.pi * n / length), 0)
        kernel = np.sqrt(length) * window / window.sum() * np.exp(-2j * np.pi * frequency * n / rate)
        frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, (half, half + 1)), 2 * half + 1)[
            ::hop
        ]
        transform.append(frames @ kernel)
    return np.array(transform)


def make_cqt(rate: int = RATE, **settings) -> CQT:
    """With settings of the config by their names without `cqt_`."""
    settings = {f"cqt_{name}": value for name, value in settings.items()}
    return CQT(LCNNConfig(front_end="cqt", sampling_rate=rate, lfcc_max_frequency=rate / 2, **settings))


def transform(cqt: CQT, waveform: torch.Tensor) -> torch.Tensor:
    """X of (batch, samples), of which forward gives the logarithm of the power: (batch, num_bins, frames)."""
    parts = torch.cat(cqt._responses(waveform), dim=3)  # (batch, frames, 2, num_bins)
    return torch.complex(parts[:, :, 0], parts[:, :, 1]).transpose(1, 2)


def transformed(waveform, cqt: CQT | None = None) -> np.ndarray:
    return transform(cqt or make_cqt(), torch.from_numpy(waveform).float()[None])[0].numpy()


def in_float64(cqt: CQT) -> CQT:
    """The module with its buffers as they were before they were rounded to float32."""
    cqt.double().init_weights()
    return cqt


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(4 * RATE)


@pytest.fixture(scope="module")
def recordings(shared_data) -> list[np.ndarray]:
    """The first 4 s of a LibriSpeech utterance and two whole ASVspoof 2019 utterances of 2.3 and 1.8 s."""
    paths = sorted(shared_data.glob("librispeech_clips/**/*.flac"))[:1]
    paths += sorted(shared_data.glob("asvspoof2019_la_mini/ASVspoof2019_LA_dev/flac/*.flac"))[:2]
    return [soundfile.read(path)[0][: 4 * RATE] for path in paths]


# Measured on these signals: up to 5e-6 of the largest magnitude, in float32 as in float64. It is what the
# decimated signals have lost above their Nyquist frequency.
TOLERANCE = 1e-5


def test_equals_the_undecimated_definition_on_noise(noise):
    expected = by_definition(noise)

    np.testing.assert_allclose(transformed(noise), expected, rtol=0, atol=TOLERANCE * abs(expected).max())


def test_equals_the_undecimated_definition_on_recordings(recordings):
    for waveform in recordings:
        expected = by_definition(waveform)

        np.testing.assert_allclose(
            transformed(waveform), expected, rtol=0, atol=TOLERANCE * abs(expected).max()
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"hop": 64, "lowest": 55.0, "num_bins": 100, "bins_per_octave": 24},  # the last octave is not whole
        {"hop": 100, "lowest": 100.0, "num_bins": 30, "bins_per_octave": 5},
        {"hop": 125, "lowest": 40.0, "num_bins": 48, "bins_per_octave": 12},  # no decimation
        {"hop": 128, "lowest": 200.0, "num_bins": 1, "bins_per_octave": 12, "rate": 8000},
    ],
)
def test_equals_the_definition_with_other_settings(settings, noise):
    waveform = noise[:9001]
    expected = by_definition(waveform, **settings)
    cqt = make_cqt(
        settings.get("rate", RATE),
        hop_length=settings["hop"],
        min_frequency=settings["lowest"],
        num_bins=settings["num_bins"],
        bins_per_octave=settings["bins_per_octave"],
    )

    np.testing.assert_allclose(
        transformed(waveform, cqt), expected, rtol=0, atol=2 * TOLERANCE * abs(expected).max()
    )


def by_librosa(waveform, num_bins=108, hop=160):
    return librosa.cqt(
        waveform,
        sr=RATE,
        hop_length=hop,
        fmin=LOWEST,
        n_bins=num_bins,
        tuning=0,
        sparsity=0,
        pad_mode="constant",
        dtype=np.complex128,
    )


@pytest.mark.filterwarnings("ignore:n_fft=")
def test_equals_librosa_without_decimation_where_frames_coincide(noise):
    # librosa does not decimate with an odd hop. Every 33rd frame of 160 is every 32nd of 165. Its windows are
    # half a sample off the centre and of whole samples, which weighs the more the shorter they are: measured
    # in 4 s, 2e-4 of the largest magnitude in the lowest octave, twice as much at each octave, to 3e-2. The
    # top bin is left out: librosa cuts its main lobe off at the Nyquist frequency.
    waveform = noise[: 2 * RATE]
    expected = by_librosa(waveform, num_bins=107, hop=165)[:, ::32]

    error = abs(transformed(waveform)[:107, ::33] - expected).max(1) / abs(expected).max()

    assert expected.shape[1] == 7
    assert np.all(error < 2e-4 * 2 ** (np.arange(107) / 12))


@pytest.mark.filterwarnings("ignore:n_fft=")
def test_equals_librosa_on_recordings_and_noise_within_its_approximations(recordings, noise):
    # librosa decimates until an octave ends at the Nyquist frequency, where its resampler attenuates the top
    # bin (by librosa's cqt of all bins, up to 0.5 of the largest magnitude is missing there), so the lower
    # octaves are taken from a transform that ends an octave lower. What is left is the rounding of its
    # windows at each rate: measured 1.1e-2 to 1.5e-2 of the largest magnitude on recordings and 6.8e-2 on
    # noise, which has no loud bin (1.2e-1 in the top bin, whose main lobe librosa cuts off at the Nyquist
    # frequency). The norm of the difference of the magnitudes is 0.6 to 1.9 per cent of theirs.
    for waveform, tolerance in [(recording, 0.02) for recording in recordings] + [(noise, 0.08)]:
        expected = np.abs(np.concatenate([by_librosa(waveform, 96), by_librosa(waveform)[96:]]))

        difference = np.abs(np.abs(transformed(waveform)) - expected)

        assert difference[:-1].max() < tolerance * expected.max()
        assert difference[-1].max() < 2 * tolerance * expected.max()
        assert np.linalg.norm(difference) < 0.025 * np.linalg.norm(expected)


def test_a_tone_at_a_bin_is_largest_in_that_bin():
    frequencies = LOWEST * 2 ** (torch.arange(108, dtype=torch.float64) / 12)
    time = torch.arange(2 * RATE, dtype=torch.float64) / RATE

    spectrum = make_cqt()(torch.sin(2 * torch.pi * frequencies[:, None] * time).float())

    assert spectrum[:, :, 100].argmax(1).tolist() == list(range(108))


def test_a_tone_has_the_same_gain_in_every_octave():
    # |X| of a sine of amplitude 1 is sqrt(N) / 2.
    lengths = 17.3366 * RATE / (LOWEST * 2 ** (np.arange(108) / 12))
    phase = 2 * np.pi * LOWEST * 2 ** (np.arange(108) / 12)[:, None] * np.arange(2 * RATE) / RATE

    spectrum = transform(make_cqt(), torch.from_numpy(np.sin(phase)).float())
    magnitude = spectrum.abs()[range(108), range(108), 100].numpy()

    np.testing.assert_allclose(magnitude[:102] / np.sqrt(lengths[:102]), 0.5, rtol=1e-3)


@pytest.mark.parametrize("position", [0, 1, 7999, 8000, 15999])
def test_a_click_has_the_shape_of_the_window_in_every_bin(position):
    click = np.zeros(RATE)
    click[position] = 1.0

    expected = by_definition(click)

    np.testing.assert_allclose(transformed(click), expected, rtol=0, atol=TOLERANCE * abs(expected).max())


def test_silence_is_the_log_floor_and_has_finite_gradients():
    waveform = torch.zeros(1, 8000, requires_grad=True)

    spectrum = make_cqt(log_floor=1e-8)(waveform)
    spectrum.sum().backward()

    torch.testing.assert_close(spectrum, torch.full_like(spectrum, -8.0))
    assert waveform.grad.abs().max() == 0


def test_white_noise_has_the_power_that_the_docstring_states(noise):
    power = 10 ** make_cqt()(torch.from_numpy(noise).float()[None])

    assert power[0, 36:].mean().item() == pytest.approx(1.5 * 0.01, rel=0.03)


def test_utterances_of_a_batch_do_not_touch_each_other():
    batch = 0.1 * torch.randn(5, 12345, generator=torch.Generator().manual_seed(0))
    cqt = make_cqt()

    together = cqt(batch)

    torch.testing.assert_close(together, torch.cat([cqt(row[None]) for row in batch]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples, frames", [(1, 1), (159, 1), (160, 2), (64000, 401), (64159, 401)])
def test_frames_are_centred_so_that_their_number_is_one_more_than_whole_hops(samples, frames):
    assert make_cqt()(torch.randn(2, samples)).shape == (2, 108, frames)


def test_gradient_equals_finite_differences_through_the_decimation():
    cqt = in_float64(make_cqt(hop_length=64, min_frequency=60.0, num_bins=40, log_floor=1e-3))
    waveform = torch.randn(1, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    assert cqt.octaves[-1] == (0, 4, 16)  # bins, and every 16th sample is kept
    assert torch.autograd.gradcheck(cqt, waveform.requires_grad_())


def test_gradient_of_a_long_signal_is_that_of_the_definition(noise):
    # With X linear in x, the gradient of sum |X|^2 is 2 Re(A^H A x): along d, 2 Re <A x, A d>.
    waveform, direction = noise[:16000], np.roll(noise, 5000)[:16000]
    expected = 2 * np.vdot(by_definition(waveform), by_definition(direction)).real
    cqt = in_float64(make_cqt())
    x = torch.from_numpy(waveform)[None].requires_grad_()

    transform(cqt, x).abs().square().sum().backward()

    assert (x.grad[0].numpy() @ direction) == pytest.approx(expected, rel=1e-4)


def test_is_computed_in_float32_under_autocast_and_for_bfloat16_input():
    waveform = (0.1 * torch.randn(2, 8000)).bfloat16()
    cqt = make_cqt()
    expected = cqt(waveform.float())

    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = cqt(waveform.float())

    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, expected)
    assert torch.equal(cqt(waveform), expected)


class TinyModel(PreTrainedModel):
    config_class = PreTrainedConfig
    _keep_in_fp32_modules_strict = ["cqt"]

    def __init__(self, config):
        super().__init__(config)
        self.cqt = make_cqt(num_bins=60)
        self.head = torch.nn.Linear(60, 2)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, CQT):
            module.init_weights()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("saved", [True, False])
def test_kernels_survive_from_pretrained(tmp_path, dtype, saved):
    model = TinyModel(PreTrainedConfig())
    expected = {name: value.clone() for name, value in model.cqt.state_dict().items()}
    state = {k: v for k, v in model.state_dict().items() if saved or not k.startswith("cqt.")}
    model.save_pretrained(tmp_path, state_dict=state)

    loaded = TinyModel.from_pretrained(tmp_path, dtype=dtype)  # made on the meta device

    assert loaded.head.weight.dtype == dtype
    assert list(loaded.cqt.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in loaded.cqt.state_dict().items())


def test_saved_kernels_are_loaded_and_not_made_anew(tmp_path):
    model = TinyModel(PreTrainedConfig())
    model.cqt.kernels_0.mul_(2)
    model.save_pretrained(tmp_path)

    loaded = TinyModel.from_pretrained(tmp_path)

    assert torch.equal(loaded.cqt.kernels_0, model.cqt.kernels_0)


def test_bins_above_the_nyquist_frequency_are_an_error_that_names_the_argument():
    with pytest.raises(ValueError, match="num_bins=109 .* ends at 8000.0 Hz, .* reaches to 8346.2 Hz"):
        make_cqt(num_bins=109)


@pytest.mark.parametrize("name", ["hop_length", "min_frequency", "num_bins", "bins_per_octave"])
def test_settings_that_are_not_positive_are_errors_that_name_them(name):
    with pytest.raises(StrictDataclassError, match=f"cqt_{name} must be .*, not 0"):
        make_cqt(**{name: 0})


@pytest.mark.parametrize("shape", [(8000,), (2, 1, 8000), (2, 0)])
def test_another_shape_or_no_samples_is_an_error(shape):
    with pytest.raises(ValueError, match=r"waveform has the shape .* \(batch, samples\)"):
        make_cqt()(torch.zeros(shape))
