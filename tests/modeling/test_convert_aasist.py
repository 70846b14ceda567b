"""The converter of the authors' AASIST weights: the same weights and recordings, the same logits."""

import json
import re

import pytest
import soundfile
import torch
import yaml
from huggingface_hub import ModelCard
from small_aasist import published_weights, write_recipe
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from hub_cards.recipe import find_recipe, load_recipe
from metrics.det import equal_error_rate
from modeling.conversion import new_model
from modeling.convert_aasist_checkpoint import CONVERTER, main


@pytest.fixture(scope="module")
def converted(shared_data, tmp_path_factory):
    """The folder of the authors' AASIST, as the command leaves it."""
    folder = tmp_path_factory.mktemp("converted") / "aasist"
    checkpoint = shared_data / "checkpoints" / "AASIST.pth"
    main(["--checkpoint", str(checkpoint), "--output_dir", str(folder)])
    return folder


def logits_of(folder, files) -> torch.Tensor:
    """(files, 2), by the Auto classes."""
    model = AutoModelForAudioClassification.from_pretrained(folder)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    logits = []
    for file in files:
        waveform, rate = soundfile.read(file, dtype="float32")
        with torch.no_grad():
            logits.append(model(**extractor(waveform, sampling_rate=rate, return_tensors="pt")).logits[0])
    return torch.stack(logits)


def check_reference(folder, shared_data, part: slice) -> int:
    """Compare the logit of bona fide of recordings with the authors' own code; how many were compared."""
    lines = (shared_data / "reference_scores" / "aasist_dev101.txt").read_text().splitlines()
    reference = {line.split()[0]: float(line.split()[3]) for line in lines[part]}
    audio = shared_data / "asvspoof2019_la_mini" / "ASVspoof2019_LA_dev" / "flac"
    logits = logits_of(folder, [audio / f"{utterance}.flac" for utterance in reference])
    index = AutoModelForAudioClassification.from_pretrained(folder).config.label2id["bonafide"]
    torch.testing.assert_close(logits[:, index], torch.tensor(list(reference.values())), atol=1e-4, rtol=0)
    return len(reference)


def test_bona_fide_logit_is_that_of_the_authors_code(converted, shared_data):
    assert check_reference(converted, shared_data, slice(None, None, 5)) == 21


@pytest.mark.slow
def test_bona_fide_logit_is_that_of_the_authors_code_on_all_101_recordings(converted, shared_data):
    assert check_reference(converted, shared_data, slice(None)) == 101


@pytest.mark.slow
def test_aasist_l_tells_real_spoof_from_bona_fide(shared_data, tmp_path, capsys):
    main(
        [
            "--checkpoint",
            str(shared_data / "checkpoints" / "AASIST-L.pth"),
            "--output_dir",
            str(tmp_path / "l"),
        ]
    )
    corpus = shared_data / "asvspoof2019_la_mini"
    protocol = corpus / "ASVspoof2019_LA_cm_protocols" / "ASVspoof2019.LA.cm.eval.trl.txt"
    trials = [line.split() for line in protocol.read_text().splitlines()]
    files = [corpus / "ASVspoof2019_LA_eval" / "flac" / f"{trial[1]}.flac" for trial in trials]

    scores = (logits_of(tmp_path / "l", files) @ torch.tensor([-1.0, 1.0])).numpy()  # index 1 is bona fide

    is_bonafide = torch.tensor([trial[4] == "bonafide" for trial in trials]).numpy()
    eer, _ = equal_error_rate(scores[is_bonafide], scores[~is_bonafide])
    assert eer < 0.05  # the authors report 0.99 % on all 71,237 trials, of which these are 31
    printed = capsys.readouterr().out
    assert "aasist-l with 85,034 parameters" in printed
    assert "AASIST-L.pth is the file that the authors publish (compared by SHA-256)." in printed
    assert yaml.safe_load((tmp_path / "l" / "recipe.yaml").read_text())["system"] == "aasist-l"


def test_folder_is_complete_and_says_where_the_weights_come_from(converted):
    names = {path.name for path in converted.iterdir()}
    card = (converted / "README.md").read_text()
    record = json.loads((converted / "conversion.json").read_text())

    assert names >= {"config.json", "model.safetensors", "preprocessor_config.json", "modeling_aasist.py"}
    assert names >= {"recipe.yaml", "conversion.json", "README.md", "feature_extraction_antispoofing.py"}
    assert "training.json" not in names and not list(converted.glob("*.pth"))
    sha256 = "51d2d9cf0738172f61e2a384ec50a54a55363240f67c971ed55a92435bc1a1c0"  # by sha256sum
    assert record["checkpoint"] == "AASIST.pth" and record["sha256"] == sha256
    assert record["num_parameters"] == 297_354
    assert record["origin"]["published"] and record["origin"]["changed_settings"] == []
    assert "converted, not trained here: from `AASIST.pth`" in card and sha256 in card
    assert re.search(r"^license: mit$", card, re.MULTILINE)
    assert "Jee-weon Jung" in card and "https://github.com/clovaai/aasist" in card
    assert "It is the file that the authors named below publish." in card
    assert "Copyright (c) 2021-present NAVER Corp." in card and "Permission is hereby granted" in card
    assert "Reported by its authors for their own weights, not measured here" in card


def test_baseline_of_asvspoof5_is_known_by_its_file_and_said_to_be_trained_on_asvspoof5(
    shared_data, tmp_path
):
    checkpoint = shared_data / "checkpoints" / "ASVspoof5_AASIST_best.pth"

    _, record = CONVERTER.convert(checkpoint, tmp_path / "out")

    assert record["origin"]["published"] and record["origin"]["license_from_recipe"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# aasist-asvspoof5\n" in card and "It is the file that the authors named below publish." in card
    assert "- Authors: the organisers of ASVspoof 5" in card
    assert ModelCard(card).data.license == "mit" and ModelCard(card).data.datasets == ["jungjee/asvspoof5"]
    assert "Trained by its authors, not here (ASVspoof 5 train split" in card
    assert "ASVspoof 2019" not in card
    with pytest.raises(ValueError, match="is the published file of aasist-asvspoof5, not of aasist. Leave"):
        CONVERTER.convert(checkpoint, tmp_path / "other", "aasist")
    assert not (tmp_path / "other").exists()


def test_normalisations_that_the_authors_code_does_not_use_are_named(converted):
    record = json.loads((converted / "conversion.json").read_text())

    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = sorted(f"encoder.{i}.0.bn1.{part}" for i in range(1, 6) for part in parts)
    assert record["unused"] == expected
    assert "`encoder.1.0.bn1`, `encoder.2.0.bn1`" in (converted / "README.md").read_text()


@pytest.fixture
def recipe(tmp_path):
    """A YAML of an AASIST of other sizes than the published ones."""
    return write_recipe(tmp_path / "small.yaml")


@pytest.fixture
def published():
    """A network of that size, and its tensors under the names of the authors' code."""
    return published_weights()


def save(path, tensors):
    torch.save(tensors, path)
    return path


def test_weights_of_another_size_take_a_yaml(published, recipe, tmp_path):
    model, tensors = published

    found, _ = CONVERTER.convert(save(tmp_path / "own.pth", tensors), tmp_path / "out", str(recipe))

    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.block_channels == [4, 4, 6] and loaded.config.num_samples == 4000
    expected = {name: tensor for name, tensor in model.state_dict().items() if ".norm1." not in name}
    for state in (found.state_dict(), loaded.state_dict()):
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_normalisations_before_the_blocks_are_used_where_the_yaml_says_so(published, recipe, tmp_path):
    model, tensors = published
    write_recipe(recipe, pre_activation=True)

    CONVERTER.convert(save(tmp_path / "own.pth", tensors), tmp_path / "out", str(recipe))

    waveform = torch.randn(1, 4000)
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded(waveform).logits, model(waveform).logits)
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["unused"] == []


@pytest.mark.parametrize("count", [None, torch.tensor(7, dtype=torch.int32)])
def test_counters_of_batches_may_be_missing_or_of_another_type(published, recipe, tmp_path, count):
    model, tensors = published
    counters = {name: count for name in tensors if name.endswith("num_batches_tracked")}
    tensors = {name: value for name, value in {**tensors, **counters}.items() if value is not None}

    found, _ = CONVERTER.convert(save(tmp_path / "own.pth", tensors), tmp_path / "out", str(recipe))

    assert len(counters) == 12
    assert found.sinc_norm.num_batches_tracked == (0 if count is None else 7)
    assert torch.equal(found.classifier.weight, model.classifier.weight)


def test_authors_file_with_other_settings_is_not_said_to_be_their_model(shared_data, tmp_path):
    content = yaml.safe_load(find_recipe("aasist")[0].read_text())
    content["model"] |= {"temperatures": [1.0, 1.0, 1.0], "id2label": {0: "bonafide", 1: "spoof"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**content, "system": "own"}))

    CONVERTER.convert(
        shared_data / "checkpoints" / "AASIST.pth", tmp_path / "out", str(tmp_path / "own.yaml")
    )

    card = (tmp_path / "out" / "README.md").read_text()
    assert "publish, but here with other settings than theirs (`id2label`, `temperatures`)" in card
    assert "What their source states of these weights" not in card
    assert "Copyright (c) 2021-present NAVER Corp." in card  # which goes with the weights


def test_system_of_another_architecture_is_refused(published, tmp_path):
    with pytest.raises(ValueError, match="lcnn is a lcnn, not aasist"):
        CONVERTER.convert(save(tmp_path / "own.pth", published[1]), tmp_path / "out", "lcnn")


def test_file_that_nobody_publishes_needs_its_system(published, tmp_path):
    checkpoint = save(tmp_path / "own.pth", published[1])

    message = "own.pth is no file that is known.*--system.*: aasist, aasist-asvspoof5, aasist-l, or a copy"
    with pytest.raises(ValueError, match=message):
        CONVERTER.convert(checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match="own.pth, as aasist-l, does not fit the network:\n"):
        CONVERTER.convert(checkpoint, tmp_path / "out", "aasist-l")
    assert not (tmp_path / "out").exists()


def test_every_tensor_that_does_not_fit_is_named_and_nothing_is_written(published, recipe, tmp_path):
    tensors = dict(published[1])
    del tensors["pool_hS2.proj.bias"]
    tensors["out_layer.weight"] = tensors["out_layer.weight"][:, :-1]
    tensors["head.weight"] = torch.ones(2)

    with pytest.raises(ValueError) as error:
        CONVERTER.convert(save(tmp_path / "own.pth", tensors), tmp_path / "out", str(recipe))

    message = str(error.value)
    assert message.startswith(str(tmp_path / "own.pth"))
    for misfit in (
        "branches.1.spectral_pooling.weight.bias (1,): not in the checkpoint, where it is of pool_hS2.proj",
        "head.weight (2,): the network has no head.weight",
        "out_layer.weight (2, 14): the network's classifier.weight is (2, 15)",
    ):
        assert f"  {misfit}" in message.splitlines()
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool_ratio": [0.9] * 3}, "small, model: unknown key 'pool_ratio' .did you mean 'pool_ratios'"),
        ({"sinc_scale": "bark"}, "small: .*'sinc_scale' expected one of .* got bark"),
        ({"sinc_filters": "10"}, "small: .*sinc_filters"),
    ],
)
def test_yaml_with_a_wrong_key_or_value_is_refused(published, recipe, tmp_path, change, message):
    write_recipe(recipe, **change)

    with pytest.raises(ValueError, match=message):
        CONVERTER.convert(save(tmp_path / "own.pth", published[1]), tmp_path / "out", str(recipe))
    assert not (tmp_path / "out").exists()


def test_folder_that_exists_and_a_link_to_one_are_filled(published, recipe, tmp_path):
    checkpoint = save(tmp_path / "own.pth", published[1])
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    CONVERTER.convert(checkpoint, tmp_path / "link", str(recipe))

    assert (tmp_path / "link").is_symlink()
    names = {path.name for path in (tmp_path / "real").iterdir()}
    assert {"config.json", "model.safetensors", "README.md"} < names
    assert not [name for name in names if name.startswith(".")]


def test_output_folder_with_something_in_it_is_left_alone(published, recipe, tmp_path, capsys):
    arguments = ["--checkpoint", str(save(tmp_path / "own.pth", published[1])), "--system", str(recipe)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output_dir", str(tmp_path / "out")])

    assert stop.value.code == 1 and "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_recipe_that_is_not_valid_is_one_line_of_error(recipe):
    broken = load_recipe(recipe)
    broken.model["pool_ratios"] = [0.5]

    with pytest.raises(ValueError, match=r"small: .*pool_ratios \[0.5\] must be three numbers"):
        new_model(broken)
