import sys

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from processing import demo, vocoders


RATES = (16_000, 22_050)
OWN = ("griffin-lim", "lpc", "phase")


def synthesize(rate: int) -> np.ndarray:
    """Two seconds of pulses at 125 Hz through one formant at 700 Hz, then half a second of hiss."""
    pulses = np.zeros(2 * rate)
    pulses[:: rate // 125] = 1
    pole = np.exp(np.pi * (2j * 700 - 120) / rate)
    response = np.real(pole ** np.arange(rate // 10))
    voiced = np.convolve(pulses, response)[: 2 * rate]
    hiss = 0.1 * np.random.default_rng(0).standard_normal(rate // 2)
    return 0.1 * np.concatenate([voiced, hiss])


def make_copy(name: str, waveform: np.ndarray, rate: int, seed: int = 0) -> np.ndarray:
    return vocoders.VOCODERS[name](waveform, rate, np.random.default_rng(seed))


@pytest.mark.parametrize("rate", RATES)
def test_log_mel_is_that_of_its_definition(rate):
    waveform = synthesize(rate)

    mel = vocoders.compute_log_mel(waveform, rate)

    padded = np.pad(waveform, 384, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::256]
    filters = mel_filter_bank(513, 80, 0, 8000, rate, norm="slaney", mel_scale="slaney")
    expected = np.log((np.abs(np.fft.rfft(frames * window)) @ filters).clip(1e-5)).T
    np.testing.assert_allclose(mel, expected, atol=2e-3)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", [*OWN, "world"])
def test_copy_has_the_spectrum_and_not_the_waveform_of_the_recording(name, rate):
    if name == "world":
        pytest.importorskip("pyworld")
    waveform = demo.synthesise(np.random.default_rng(0), np.random.default_rng(1))[: 2 * rate]

    copy = make_copy(name, waveform, rate)

    assert abs(len(copy) - len(waveform)) <= 256
    mels = [vocoders.compute_log_mel(signal[: len(copy)], rate) for signal in (waveform, copy)]
    distance = 20 / np.log(10) * (mels[0] - mels[1] - (mels[0] - mels[1]).mean()).abs().mean()
    error = waveform[: len(copy)] - copy[: len(waveform)]
    snr = 10 * np.log10(np.square(waveform).sum() / np.square(error).sum())
    assert distance < 7 and snr < 0


def test_linear_prediction_has_the_formant_and_the_pitch():
    rate = 16_000
    copy = make_copy("lpc", synthesize(rate), rate)

    spectrum = np.abs(np.fft.rfft(copy[rate // 2 : 3 * rate // 2]))  # 1 Hz a bin
    smooth = np.convolve(spectrum**2, np.ones(125), "same")
    assert abs(smooth.argmax() - 700) < 80
    correlation = np.fft.irfft(spectrum**2)
    assert abs(correlation[60:200].argmax() + 60 - rate // 125) <= 1


@pytest.mark.parametrize("name", OWN)
def test_copy_is_a_function_of_the_recording_and_the_generator(name):
    waveform = demo.synthesise(np.random.default_rng(0), np.random.default_rng(1))[:16_000]

    first, again, other = (make_copy(name, waveform, 16_000, seed) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", OWN)
def test_silence_has_a_copy(name):
    assert np.abs(make_copy(name, np.zeros(16_000), 16_000)).max() < 1e-3


def test_network_in_onnx_is_given_the_log_mel(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    kind, helper = onnx.TensorProto.FLOAT, onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Exp", ["mel"], ["wave"])],
        "vocoder",
        [helper.make_tensor_value_info("mel", kind, [1, 40, "frames"])],
        [helper.make_tensor_value_info("wave", kind, [1, 40, "frames"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "exp.onnx")
    waveform = synthesize(22_050)

    vocoder = vocoders.find_vocoder(str(tmp_path / "exp.onnx"))

    expected = torch.exp(vocoders.compute_log_mel(waveform, 22_050, 40)).flatten()
    np.testing.assert_allclose(vocoder(waveform, 22_050, np.random.default_rng(0)), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["world", "processing.demo:no_such_function", "no_such.onnx"])
def test_vocoder_that_cannot_be_loaded_says_why_and_how_to_install_packages(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)

    with pytest.raises(
        ImportError, match=rf"{name} cannot be loaded: .*(pyworld|no_such|onnx).*\[synthesis\]"
    ):
        vocoders.find_vocoder(name)


def test_misspelt_vocoder_is_told_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'griffin-lim'"):
        vocoders.find_vocoder("grifin-lim")
