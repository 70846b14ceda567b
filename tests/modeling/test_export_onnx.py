"""Exports to ONNX give the model's scores, whatever the batch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_embeddings import NETWORKS
from transformers import AutoModelForAudioClassification

from modeling import AntiSpoofingFeatureExtractor, export_onnx
from modeling.export_onnx import main
from processing.models import load_countermeasure
from processing.scoring import score_batch
from processing.streaming import StreamingScorer


onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SLOW = pytest.mark.slow


def save_model(folder, name, **settings) -> str:
    torch.manual_seed(0)
    model = AutoModelForAudioClassification.from_config(NETWORKS[name][0]).eval()
    for setting, value in settings.items():
        setattr(model.config, setting, value)
    model.save_pretrained(folder)
    AntiSpoofingFeatureExtractor(num_samples=model.config.num_samples).save_pretrained(folder)
    return str(folder)


def make_signals(length: int) -> list[np.ndarray]:
    """Noise of two levels, a tone and digital silence."""
    rng = np.random.default_rng(1)
    tone = 0.3 * np.sin(np.arange(length) / 5)
    signals = [0.1 * rng.normal(size=length), 1e-3 * rng.normal(size=length), tone, np.zeros(length)]
    return [signal.astype(np.float32) for signal in signals]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "lcnn" else SLOW) for name in NETWORKS]
)
def test_export_gives_the_scores_of_the_model_for_batches_of_any_size(name, tmp_path):
    model = save_model(tmp_path / "model", name)
    main(["--model", model, "--output_dir", str(tmp_path / "onnx")])

    assert str(Path(export_onnx.__file__).parent).encode() not in (tmp_path / "onnx/model.onnx").read_bytes()
    ours, exported = (load_countermeasure(str(tmp_path / of)) for of in ("model", "onnx/model.onnx"))
    for length in (8000, 6000):
        signals = make_signals(length)
        for size in (1, 2, 4):
            inputs = ours.feature_extractor(signals[-size:], sampling_rate=16_000, return_tensors="pt")
            inputs = {"input_values": inputs["input_values"]}
            (expected, *_), (scores, *_) = (score_batch(of.model, inputs) for of in (ours, exported))
            torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
            embeddings = [of.model(**inputs).embeddings.detach() for of in (ours, exported)]
            torch.testing.assert_close(*embeddings, rtol=1e-3, atol=1e-4)
    scorers = [StreamingScorer(of.model, of.feature_extractor) for of in (ours, exported)]
    streamed = [of.push(np.concatenate(make_signals(8000))) + of.finish() for of in scorers]
    expected, scores = ([result.window.score for result in of] for of in streamed)
    assert scores == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(SystemExit, match="is an export already"):
        main(["--model", str(tmp_path / "onnx"), "--output_dir", str(tmp_path / "again")])


def test_example_beside_the_export_scores_as_eval_does_without_torch(tmp_path):
    calibration = {"a": 2.0, "b": 1.0, "bounds": [-1.5, 0.5]}
    model = save_model(tmp_path / "model", "lcnn", decision_threshold=-1.0)
    countermeasure = load_countermeasure(model)
    export_onnx.export_onnx(replace(countermeasure, calibration=calibration), tmp_path / "onnx")
    signal = make_signals(6000)[0]
    soundfile.write(tmp_path / "a.wav", signal, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", signal, 8000, subtype="FLOAT")

    blocked = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
    command = [sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')"]
    command += [str(tmp_path / "onnx" / "score_onnx.py")]
    ran = subprocess.run([*command, str(tmp_path / "a.wav")], capture_output=True, text=True, check=True)
    refused = subprocess.run([*command, str(tmp_path / "b.wav")], capture_output=True, text=True)

    inputs = countermeasure.feature_extractor(signal, sampling_rate=16_000, return_tensors="pt")
    score = float(score_batch(countermeasure.model, inputs)[0])
    llr = min(max(2 * score + 1, -1.5), 0.5)
    verdict = "bonafide" if score > -1 else "spoof"
    words = f"score {score:.4f}, {verdict}, log-likelihood ratio {llr:.2f}"
    assert ran.stdout == f"{tmp_path / 'a.wav'}: {words}\n"
    assert "has 8000 Hz: convert it to 16000 Hz first" in refused.stderr
    weights = load_countermeasure(str(tmp_path / "onnx")).calibration["weights_sha256"]
    assert list(weights) == ["model.onnx"]


@SLOW
def test_export_that_differs_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    model = save_model(tmp_path / "model", "lcnn")
    monkeypatch.setattr(export_onnx, "find_difference", lambda *_: float("nan"))
    with pytest.raises(SystemExit, match="is not right: a score differs by nan"):
        main(["--model", model, "--output_dir", str(tmp_path / "onnx")])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
