"""Embeddings of every architecture, and the network without its last layer by `AutoModel`."""

import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tiny_base_model import ENCODER_SIZES, WHISPER_SIZES
from transformers import AutoModel, AutoModelForAudioClassification, PreTrainedModel

from modeling import (
    AasistConfig,
    LCNNConfig,
    LFCCGMMConfig,
    LFCCGMMForAudioClassification,
    RawNet2Config,
    Wav2Vec2AntiSpoofingConfig,
)


def encoder_config(backend: str, encoder: dict | None = None, **settings) -> Wav2Vec2AntiSpoofingConfig:
    sizes = {"attention_size": 6, "attention_heads": 5, "classifier_proj_size": 7, "num_samples": 8000}
    encoder = encoder or {"model_type": "wav2vec2", **ENCODER_SIZES, "hidden_size": 128}
    return Wav2Vec2AntiSpoofingConfig(encoder_config=encoder, backend=backend, **sizes, **settings)


NETWORKS = {  # config, size of the embeddings, shape of the last hidden state of an utterance
    "rawnet2": (
        RawNet2Config(
            num_samples=8000,
            sinc_filters=8,
            block_channels=[8, 16],
            gru_hidden_size=16,
            num_gru_layers=1,
            embedding_size=12,
        ),
        (12, (291, 16)),
    ),
    "aasist": (
        AasistConfig(
            num_samples=8000,
            sinc_filters=10,
            block_channels=[4, 4, 6],
            graph_size=5,
            heterogeneous_graph_size=3,
        ),
        (15, (6, 3, 97)),
    ),
    "lcnn": (LCNNConfig(num_samples=8000, loss="oc_softmax"), (64, (128, 1, 1))),
    "lfcc-gmm": (LFCCGMMConfig(num_components=16), (32, (49, 60))),
    "frozen": (encoder_config("mean"), (7, (1, 128))),
    "mean": (encoder_config("mean", num_trainable_layers=1), (7, (24, 128))),
    "attentive": (encoder_config("attentive"), (7, (24, 128))),
    "mhfa": (encoder_config("mhfa"), (7, (24, 128))),
    "nes2net": (encoder_config("nes2net"), (128, (24, 128))),
    "sls": (encoder_config("sls"), (7, (24, 128))),
    "encoder-aasist": (encoder_config("aasist"), (160, (24, 128))),
    "whisper": (encoder_config("mean", WHISPER_SIZES, num_trainable_layers=1), (7, (25, 32))),
}


@pytest.fixture(params=NETWORKS, scope="module")
def system(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(system) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForAudioClassification.from_config(NETWORKS[system][0]).eval()


@pytest.fixture(scope="module")
def waveforms() -> torch.Tensor:
    return 0.1 * torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_embeddings_through_the_last_layer_are_the_logits(model, system, waveforms):
    output = model(waveforms)
    with torch.autocast("cpu", torch.bfloat16):
        in_bfloat16 = model(waveforms).embeddings

    assert output.embeddings.shape == (3, NETWORKS[system][1][0])
    assert output.embeddings.dtype == in_bfloat16.dtype == torch.float32
    alone = torch.cat([model(waveform[None]).embeddings for waveform in waveforms])
    torch.testing.assert_close(output.embeddings, alone, atol=1e-5, rtol=0)
    assert (output.embeddings[0] - output.embeddings[1]).abs().max() > 1e-5
    if system != "lfcc-gmm":
        assert torch.equal(model.classifier(output.embeddings), output.logits)
        model.dropout.train().p = 0.5
        dropped = model(waveforms)
        model.dropout.eval()
        assert torch.equal(dropped.embeddings, output.embeddings)
        assert not torch.equal(dropped.logits, output.logits)


@torch.no_grad()
def test_auto_model_reads_the_network_without_its_last_layer(model, system, waveforms, tmp_path):
    model.save_pretrained(tmp_path / "classifier")

    network, report = AutoModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    network.eval().save_pretrained(tmp_path / "network")

    assert not any(report.values())
    assert network.state_dict().keys() == {n for n in model.state_dict() if not n.startswith("classifier.")}
    assert type(AutoModel.from_config(model.config)) is type(network)
    expected = model(waveforms)
    for each in (network, AutoModel.from_pretrained(tmp_path / "network").eval()):
        output = each(waveforms)
        assert torch.equal(output.pooler_output, expected.embeddings)
        assert output.last_hidden_state.shape == (3, *NETWORKS[system][1][1])
        assert torch.equal(each(waveforms, return_dict=False)[1], expected.embeddings)
    names = {
        "AutoConfig": "Config",
        "AutoModel": "Model",
        "AutoModelForAudioClassification": "ForAudioClassification",
    }
    for folder in ("classifier", "network"):
        auto_map = json.loads((tmp_path / folder / "config.json").read_text())["auto_map"]
        assert {name: auto_map[name].endswith(ending) for name, ending in names.items()} == dict.fromkeys(
            names, True
        )


@torch.no_grad()
def test_embeddings_of_lfcc_gmm_are_the_shares_of_an_utterances_own_frames():
    torch.manual_seed(0)
    model = LFCCGMMForAudioClassification(LFCCGMMConfig(num_components=8)).eval()
    lengths = torch.tensor([3000, 200_000, 16_000])  # more frames than are computed at a time
    waveforms = 0.1 * torch.randn(3, 200_000)
    waveforms[2, 4000:12_000] = 0  # frames that are computed in float64
    for gmm in model.gmms.values():
        frames = model.frames(waveforms[1:2])[0]
        gmm.means.copy_(frames[torch.randint(len(frames), (8,))])
        gmm.variances.copy_(frames.var(0) * (0.5 + torch.rand(8, 60)))
        gmm.weights.copy_(torch.rand(8).softmax(0))

    mask = torch.arange(200_000) < lengths[:, None]
    found = model(waveforms, attention_mask=mask.long()).embeddings.double().numpy()

    for row, waveform, length in zip(found, waveforms, lengths, strict=True):
        frames = model.frames(waveform[None, :length])[0].double().numpy()
        shares = []
        for gmm in model.gmms.values():
            weights, means, variances = (b.double().numpy() for b in (gmm.weights, gmm.means, gmm.variances))
            squares = (frames[:, None] - means) ** 2 / variances + np.log(2 * np.pi * variances)
            joint = np.log(weights) - 0.5 * squares.sum(axis=2)  # (frames, components)
            shares.append(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)).mean(axis=0))
        np.testing.assert_allclose(row, np.concatenate(shares), atol=1e-5)
