"""Networks whose matrix products libraries, or the export to ONNX, put into int8."""

import numpy as np
import pytest
import torch
from test_embeddings import NETWORKS
from test_export_onnx import make_signals, save_model
from torch import nn
from transformers import AutoModelForAudioClassification, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

from modeling.export_onnx import main
from processing import quantize_onnx
from processing.models import load_countermeasure
from processing.scoring import score_batch


def load_dynamically_quantized(folder: str) -> nn.Module:
    model = AutoModelForAudioClassification.from_pretrained(folder)
    return torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)


def load_with(config, package: str):
    def load(folder: str) -> nn.Module:
        pytest.importorskip(package)
        return AutoModelForAudioClassification.from_pretrained(folder, quantization_config=config())

    return load


def torchao_config() -> TorchAoConfig:
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


LIBRARIES = {
    "quantize_dynamic": load_dynamically_quantized,
    "torchao": load_with(torchao_config, "torchao"),
    "quanto": load_with(lambda: QuantoConfig(weights="int8"), "optimum.quanto"),
    "bitsandbytes": load_with(lambda: BitsAndBytesConfig(load_in_8bit=True), "bitsandbytes"),
}


def score(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return score_batch(model.eval(), {"input_values": inputs})[0].detach()


def list_cases() -> list:
    """Every network with every library. The quick ones: each kind of layer, and each library."""
    quick = {(name, "quantize_dynamic") for name in ("rawnet2", "aasist", "lcnn")}
    quick |= {("encoder-aasist", library) for library in LIBRARIES}
    cases = [(name, library) for name in NETWORKS if name != "lfcc-gmm" for library in LIBRARIES]
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize(("name", "library"), list_cases())
def test_network_scores_with_the_products_of_a_library_in_int8(name, library, tmp_path):
    folder = save_model(tmp_path, name)
    whole = AutoModelForAudioClassification.from_pretrained(folder)
    model = LIBRARIES[library](folder)

    inputs = torch.from_numpy(np.stack(make_signals(8000)[:3]))
    expected, scores = score(whole, inputs), score(model, inputs)
    torch.testing.assert_close(scores, expected, rtol=0.05, atol=0.02)
    assert not torch.equal(scores, expected)
    assert type(model.classifier) is type(whole.classifier) or library == "quantize_dynamic"


def test_library_has_nothing_to_quantize_in_lfcc_gmm(tmp_path):
    folder = save_model(tmp_path, "lfcc-gmm")
    with pytest.raises(ValueError, match="LFCC-GMM has no matrix products"):
        AutoModelForAudioClassification.from_pretrained(folder, quantization_config=QuantoConfig("int8"))


@pytest.fixture
def whisper(tmp_path) -> str:
    pytest.importorskip("onnxruntime")
    return save_model(tmp_path / "model", "whisper", decision_threshold=0.5)


@pytest.mark.slow
def test_export_in_int8_says_how_scores_differ_and_does_not_depend_on_the_batch(
    whisper, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(quantize_onnx, "SMALLEST_GAIN", 0.0)  # a tiny network gains nothing
    main(["--model", whisper, "--output_dir", str(tmp_path / "float")])
    main(["--model", whisper, "--output_dir", str(tmp_path / "int8"), "--int8"])
    assert "ms in int8" in (printed := capsys.readouterr().out)

    ours, in_float, in_int8 = (load_countermeasure(str(tmp_path / of)) for of in ("model", "float", "int8"))
    signals = make_signals(8000)
    inputs = ours.feature_extractor(signals, sampling_rate=16_000, return_tensors="pt")["input_values"]
    expected, scores = score(ours.model, inputs), score(in_int8.model, inputs)
    difference = (scores - expected).abs().max()
    assert 1e-6 < difference < 0.05
    assert float(printed.split("64: ")[-1].split()[0]) < 0.05
    assert torch.equal(scores, torch.cat([score(in_int8.model, each[None]) for each in inputs]))
    assert in_float.model.config.decision_threshold == 0.5
    assert in_int8.model.config.decision_threshold is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("whisper", "which is no gain", marks=pytest.mark.slow),
        ("lcnn", "products of an encoder, and the model has none"),
        ("lfcc-gmm", "products of an encoder, and the model has none"),
    ],
)
def test_export_in_int8_that_gains_nothing_is_refused(name, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize_onnx, "SMALLEST_GAIN", float("inf"))
    model = save_model(tmp_path / "model", name)
    with pytest.raises(SystemExit, match=reason):
        main(["--model", model, "--output_dir", str(tmp_path / "int8"), "--int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
