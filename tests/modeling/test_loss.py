"""The losses by name: each against the formula of its paper in float64, and the last layer that it takes in
the hands of who loads, trains on and scores."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny_base_model import ENCODER_SIZES
from transformers import AutoModelForAudioClassification, PreTrainedModel

from hub_cards.recipe import Recipe
from modeling import (
    AasistConfig,
    AntiSpoofingFeatureExtractor,
    LCNNConfig,
    LFCCGMMConfig,
    RawNet2Config,
    Wav2Vec2AntiSpoofingConfig,
)
from modeling.conversion import new_model
from processing.models import build_model


LINEAR = ["weighted_cross_entropy", "focal"]
OF_COSINES = ["am_softmax", "oc_softmax", "p2sgrad"]
WEIGHTS = {"bonafide": 9.0, "spoof": 1.0}
SPOOF_FIRST, BONAFIDE_FIRST = {0: "spoof", 1: "bonafide"}, {0: "bonafide", 1: "spoof"}
NAMES = ["bonafide", "spoof", "spoof"]
CONFIGS = {
    "aasist": (
        AasistConfig,
        {"sinc_filters": 10, "block_channels": [4, 6], "graph_size": 5, "heterogeneous_graph_size": 3},
    ),
    "rawnet2": (
        RawNet2Config,
        {
            "sinc_filters": 4,
            "block_channels": [4],
            "gru_hidden_size": 4,
            "num_gru_layers": 1,
            "embedding_size": 6,
        },
    ),
    "lcnn": (LCNNConfig, {"channels": [4, 4], "kernel_sizes": [3, 3], "pool_sizes": [2, 4], "fc_size": 6}),
    "wav2vec2": (Wav2Vec2AntiSpoofingConfig, {"encoder_config": {"model_type": "wav2vec2", **ENCODER_SIZES}}),
}


def make_model(system: str = "lcnn", **settings) -> PreTrainedModel:
    torch.manual_seed(0)
    config_class, sizes = CONFIGS[system]
    config = config_class(**{"num_samples": 4000, "class_weights": WEIGHTS, **sizes, **settings})
    return AutoModelForAudioClassification.from_config(config).eval()


def waveforms(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, 4000, dtype=dtype, generator=torch.Generator().manual_seed(1))


def run(model: PreTrainedModel, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, and the loss of utterances of `NAMES`."""
    label2id = model.config.label2id
    labels = torch.tensor([label2id[name] for name in NAMES])
    output = model(inputs.get("input_values", waveforms()), labels=labels)
    return output.logits[:, label2id["bonafide"]] - output.logits[:, label2id["spoof"]], output.loss


def loss_by_the_papers(
    model: PreTrainedModel, embeddings: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """The weighted mean over the utterances of what the papers' equations give for each."""
    loss, losses = model.config.loss, []
    bias = model.classifier.bias.detach()
    for embedding, name in zip(embeddings, NAMES, strict=True):
        if loss == "oc_softmax":
            cosine = embedding @ weight[0] / (embedding.norm() * weight[0].norm())
            margin, sign = (0.9, 1) if name == "bonafide" else (0.2, -1)
            losses.append(torch.log(1 + torch.exp(20 * (margin - cosine) * sign)))
            continue
        own = model.config.label2id[name]
        dots = [embedding @ weight[j] for j in (own, 1 - own)]
        if loss in LINEAR:
            own_power, other_power = torch.exp(dots[0] + bias[own]), torch.exp(dots[1] + bias[1 - own])
            p = own_power / (own_power + other_power)
            losses.append(-torch.log(p) * ((1 - p) ** 2 if loss == "focal" else 1))
            continue
        cosines = [
            dot / (embedding.norm() * weight[j].norm()) for dot, j in zip(dots, (own, 1 - own), strict=True)
        ]
        if loss == "am_softmax":
            own_power, other_power = torch.exp(30 * (cosines[0] - 0.35)), torch.exp(30 * cosines[1])
            losses.append(-torch.log(own_power / (own_power + other_power)))
        else:
            losses.append((cosines[0] - 1) ** 2 + cosines[1] ** 2)
    weights = [WEIGHTS[name] for name in NAMES]
    return sum(w * each for w, each in zip(weights, losses, strict=True)) / sum(weights)


@pytest.mark.parametrize("loss", LINEAR + OF_COSINES)
@pytest.mark.parametrize("system", CONFIGS)
def test_loss_and_its_gradients_are_those_of_the_papers_formula(system, loss):
    model = make_model(system, loss=loss).double()
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

    _, value = run(model, input_values=waveforms(torch.float64))
    gradients = torch.autograd.grad(value, [seen[0], model.classifier.weight])

    sources = [tensor.detach().clone().requires_grad_() for tensor in (seen[0], model.classifier.weight)]
    expected = loss_by_the_papers(model, *sources)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, sources), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("loss", LINEAR + OF_COSINES)
def test_certain_logits_have_a_finite_loss_and_finite_gradients(loss):
    model = make_model(loss=loss, **({"focal_gamma": 0.5} if loss == "focal" else {}))
    logits = torch.tensor([[0.0, 400.0], [-400.0, 0.0], [400.0, 0.0]], requires_grad=True)

    value = model.loss_function(logits, torch.tensor([0, 1, 0]))
    value.backward()

    assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", OF_COSINES)
@pytest.mark.parametrize("labels", [SPOOF_FIRST, BONAFIDE_FIRST], ids=["spoof", "bonafide"])
def test_training_raises_the_scores_of_bona_fide_above_those_of_spoof(labels, loss):
    model = make_model(loss=loss, id2label=labels)
    label2id = model.config.label2id
    classes = torch.tensor([label2id[name] for name in NAMES])
    embeddings = torch.randn(3, 6, requires_grad=True)
    optimizer = torch.optim.Adam([embeddings, model.classifier.weight], 0.05)
    for _ in range(50):
        optimizer.zero_grad()
        model.loss_function(model.classifier(embeddings), classes).backward()
        optimizer.step()

    logits = model.classifier(embeddings)

    scores = logits[:, label2id["bonafide"]] - logits[:, label2id["spoof"]]
    assert scores[0] > 0 > scores[1:].max()
    assert logits.argmax(1).tolist() == classes.tolist()  # what `pipeline` names


@pytest.mark.parametrize("loss", OF_COSINES)
def test_decision_threshold_shifts_the_scores_and_not_the_loss(loss, tmp_path):
    model = make_model(loss=loss)
    scores, value = run(model)

    model.set_decision_threshold(0.75)
    model.save_pretrained(tmp_path)
    for other in (model, AutoModelForAudioClassification.from_pretrained(tmp_path)):
        shifted, same = run(other)

        torch.testing.assert_close(shifted, scores - 0.75)
        torch.testing.assert_close(same, value)
        assert other.config.decision_threshold == 0


@pytest.mark.parametrize("loss", OF_COSINES)
def test_labels_in_another_order_have_the_scores_and_the_loss_of_their_names(loss, tmp_path):
    model = make_model(loss=loss, id2label=SPOOF_FIRST)
    model.set_decision_threshold(0.75)
    model.save_pretrained(tmp_path)

    other = AutoModelForAudioClassification.from_pretrained(tmp_path, id2label=BONAFIDE_FIRST)

    assert other.config.label2id["bonafide"] == 0
    torch.testing.assert_close(run(other), run(model))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("weighted_cross_entropy", "am_softmax"),
        ("focal", "oc_softmax"),
        ("oc_softmax", "p2sgrad"),
        ("p2sgrad", "weighted_cross_entropy"),
    ],
)
def test_loss_that_takes_another_last_layer_makes_a_new_one_where_that_is_asked_for(before, after, tmp_path):
    trained = make_model(loss=before, decision_threshold=0.5)
    trained.save_pretrained(tmp_path)

    with pytest.raises((ValueError, RuntimeError), match="ignore_mismatched_sizes"):
        AutoModelForAudioClassification.from_pretrained(tmp_path, loss=after)
    model = AutoModelForAudioClassification.from_pretrained(
        tmp_path, loss=after, ignore_mismatched_sizes=True
    )

    theirs, ours = trained.state_dict(), model.state_dict()
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} >= {"classifier.weight"}
    assert all(torch.equal(ours[n], theirs[n]) for n in ours if not n.startswith("classifier"))
    assert (type(model.classifier) is torch.nn.Linear) == (after in LINEAR)
    assert after in LINEAR or not model.classifier.bias.any()
    assert model.config.decision_threshold is None and run(model)[1].isfinite()


def test_focal_loss_goes_on_from_the_last_layer_of_cross_entropy(tmp_path):
    trained = make_model()
    trained.save_pretrained(tmp_path)

    model = AutoModelForAudioClassification.from_pretrained(tmp_path, loss="focal", focal_gamma=0.0)

    torch.testing.assert_close(run(model), run(trained))  # without its factor the loss is the same


def test_adapter_trains_and_keeps_a_last_layer_of_cosines(tmp_path):
    make_model("wav2vec2", loss="oc_softmax").save_pretrained(tmp_path / "base")
    base = AutoModelForAudioClassification.from_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    model = peft.get_peft_model(base, lora)
    before = run(model)

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    before[1].backward()
    optimizer.step()
    model.save_pretrained(tmp_path / "adapter")

    after = run(model)
    assert after[1] < before[1]
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(run(loaded), after)


def test_training_goes_on_with_the_loss_of_the_recipe(tmp_path, caplog):
    trained = make_model("rawnet2", loss="am_softmax", loss_scale=10)
    trained.save_pretrained(tmp_path)
    AntiSpoofingFeatureExtractor(num_samples=4000).save_pretrained(tmp_path)
    recipe = Recipe("own", "", "demo", {"model_type": "rawnet2", "loss": "oc_softmax"}, {})

    model, *_ = build_model(recipe, {}, weights=tmp_path)

    assert model.config.loss_scale == 20 and model.classifier.weight.shape == (1, 6)
    assert torch.equal(model.embedding.weight, trained.embedding.weight)
    assert (
        "trained with the loss am_softmax; oc_softmax takes another last layer, which is new" in caplog.text
    )
    with pytest.raises(ValueError, match="own: .*expected one of .* got center"):
        build_model(replace(recipe, model={"model_type": "rawnet2", "loss": "center"}), {}, weights=tmp_path)


def test_checkpoint_is_not_converted_to_a_last_layer_of_cosines():
    recipe = Recipe("own", "", "demo", {"model_type": "rawnet2", "loss": "p2sgrad"}, {})

    with pytest.raises(ValueError, match="own: the loss p2sgrad takes a last layer of cosines"):
        new_model(recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ocsoftmax"}, r"expected one of \('weighted_cross_entropy', 'focal', 'am_softmax',"),
        (
            {"loss": "focal", "loss_scale": 3},
            "loss_scale 3 does not fit the loss focal.* are: focal_gamma 2.0",
        ),
        ({"loss_margin": 0.2}, "does not fit the loss weighted_cross_entropy.* are: none"),
        ({"loss": "am_softmax", "loss_margin": {"bonafide": 0.9, "spoof": 0.2}}, "loss_margin 0.35"),
        ({"loss": "oc_softmax", "loss_margin": 0.3}, "loss_margin {'bonafide': 0.9, 'spoof': 0.2}"),
        ({"loss": "oc_softmax", "loss_margin": {"real": 0.9, "fake": 0.2}}, "does not fit"),
        ({"loss": "am_softmax", "loss_scale": -30}, "loss_scale -30 must be above 0"),
        (
            {"loss": "oc_softmax", "loss_margin": {"bonafide": 0.2, "spoof": 0.9}},
            "no margin of spoof above bona fide",
        ),
        ({"loss": "focal", "focal_gamma": float("nan")}, "focal_gamma nan at least 0"),
        ({"loss": "oc_softmax", "id2label": {0: "real", 1: "fake"}}, "not of real, fake"),
    ],
)
def test_loss_or_parameter_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(StrictDataclassError, match=message):
        RawNet2Config(**settings)


def test_mixtures_that_no_gradient_fits_have_no_other_loss():
    with pytest.raises(StrictDataclassError, match="focal: lfcc-gmm is fitted by EM"):
        LFCCGMMConfig(loss="focal")


@pytest.mark.parametrize("loss", LINEAR + OF_COSINES)
def test_config_states_the_parameters_that_its_loss_had(loss, tmp_path: Path):
    settings = {"focal_gamma": 1.5} if loss == "focal" else {}
    settings |= {"loss_scale": 10} if loss.endswith("_softmax") else {}
    make_model(loss=loss, **settings).save_pretrained(tmp_path)

    config = AutoModelForAudioClassification.from_pretrained(tmp_path).config

    expected = {"loss": loss, "loss_scale": None, "loss_margin": None, "focal_gamma": None, **settings}
    margins = {"am_softmax": 0.35, "oc_softmax": {"bonafide": 0.9, "spoof": 0.2}}
    expected["loss_margin"] = margins.get(loss)
    assert {name: getattr(config, name) for name in expected} == expected
