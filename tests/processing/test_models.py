"""Loading a trained model from a folder and from the Hub, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hub_server import serve
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model

from processing.models import load_countermeasure
from processing.recordings import score_recordings
from processing.validation_set import ValidationSet


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("saved") / "tiny", decision_threshold=0.25)


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of a saved model, to be damaged."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(20_000), 16_000)
    return path


def test_folder_gives_model_and_feature_extractor_as_they_were_saved(saved):
    countermeasure = load_countermeasure(str(saved))

    assert (countermeasure.name, countermeasure.folder, countermeasure.revision) == ("tiny", saved, None)
    assert countermeasure.feature_extractor.num_samples == 8000
    assert countermeasure.model.config.decision_threshold == 0.25
    weights = load_file(saved / "model.safetensors")
    torch.testing.assert_close(
        countermeasure.model.state_dict()["classifier.weight"], weights["classifier.weight"]
    )


def test_calibration_is_taken_where_it_is_of_the_weights_beside_it(folder):
    config = json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    for found, is_taken in ((digest, True), ("0" * 64, False)):
        calibration = {"a": 2.0, "b": 1.0, "weights_sha256": {"model.safetensors": found}}
        (folder / "config.json").write_text(json.dumps({**config, "calibration": calibration}))

        countermeasure = load_countermeasure(str(folder))

        assert countermeasure.calibration == (calibration if is_taken else None)
        assert countermeasure.model.config.calibration is None  # its logits are those of the scores
        assert countermeasure.validation is None  # as there is none
    calibration["weights_sha256"] = {"model.safetensors": digest}
    (folder / "config.json").write_text(json.dumps({**config, "calibration": calibration}))
    zeros = np.zeros(2)
    for about in (calibration, {**calibration, "b": 2.0}):
        ValidationSet(*[zeros] * 8, measurements={"snr": zeros}, about=about).save(folder)

        validation = load_countermeasure(str(folder)).validation

        assert (validation is not None) == (about == calibration)


def test_weights_are_aligned_as_pytorch_aligns_its_own(saved):
    # In the mapped file they lie at any address, on which the last bits of a product depend.
    model = load_countermeasure(str(saved)).model

    assert {tensor.data_ptr() % 64 for tensor in (*model.parameters(), *model.buffers())} == {0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_were_saved_in_half_precision_score_in_float32(folder, recording, dtype):
    rounded = load_countermeasure(str(folder))
    rounded.model.to(dtype).save_pretrained(folder)
    rounded.model.float()

    countermeasure = load_countermeasure(str(folder))

    assert {parameter.dtype for parameter in countermeasure.model.parameters()} == {torch.float32}
    expected, found = (next(score_recordings(each, [recording])) for each in (rounded, countermeasure))
    assert found.scores == pytest.approx(expected.scores, abs=1e-6)


def test_folder_named_relatively_or_from_home_has_its_own_name(saved, monkeypatch):
    monkeypatch.chdir(saved)
    monkeypatch.setenv("HOME", str(saved.parent))

    assert [load_countermeasure(name).name for name in (".", "~/tiny")] == ["tiny", "tiny"]


def test_folder_without_a_config_is_no_model(tmp_path):
    (tmp_path / "run").mkdir()

    with pytest.raises(FileNotFoundError, match="run holds no config.json"):
        load_countermeasure(str(tmp_path / "run"))


@pytest.mark.parametrize("path", ["/not/here", "./here", "../here", "~/not-here", "runs/of/yesterday"])
def test_path_that_does_not_exist_is_named_and_not_looked_for_on_the_hub(path):
    with pytest.raises(FileNotFoundError, match=f"There is no folder {path}"):
        load_countermeasure(path)


def test_weights_that_lack_a_parameter_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["gru.weight_ih_l0"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ValueError, match="lacks 1 of the needed tensors, among them gru.weight_ih_l0"):
        load_countermeasure(str(folder))


def test_weights_of_other_shapes_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = torch.zeros(3, 8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(
        ValueError, match=r"classifier.weight has the shape \(3, 8\), but \(2, 8\) is expected"
    ):
        load_countermeasure(str(folder))


def test_weights_that_were_cut_off_are_refused(folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size // 2)

    with pytest.raises(ValueError, match="model cannot be read"):
        load_countermeasure(str(folder))


def change_config(folder: Path, **settings) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **settings}))


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        ("config.json", {"sinc_filters": None}, "Field 'sinc_filters'"),
        ("config.json", {"id2label": "x"}, "its config is damaged"),
        ("config.json", {"quantization_config": -1}, "its config is damaged"),
        ("preprocessor_config.json", {"feature_extractor_type": 1}, "its config is damaged"),
        ("preprocessor_config.json", {"num_samples": 10**12}, "num_samples must be a whole number from 1"),
        ("preprocessor_config.json", {"sampling_rate": "x"}, "sampling_rate must be a whole number"),
    ],
)
def test_config_of_wild_values_is_refused_in_words(folder, config, settings, said):
    path = folder / config
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))

    with pytest.raises(ValueError, match=said):
        load_countermeasure(str(folder))


@pytest.mark.parametrize("name", ["../other.safetensors", "/other.safetensors", ".."])
def test_weights_are_not_taken_from_another_folder(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ValueError, match="would lie outside of it"):
        load_countermeasure(str(folder))


def test_model_of_onnx_that_is_none_is_refused_in_words(folder):
    pytest.importorskip("onnxruntime")
    (folder / "model.onnx").write_bytes(b"garbage")

    with pytest.raises(ValueError, match="model cannot be read"):
        load_countermeasure(str(folder))


def test_labels_other_than_bonafide_and_spoof_are_refused(folder):
    labels = {"human": 0, "machine": 1}
    weights = dict.fromkeys(labels, 1)
    change_config(folder, id2label={"0": "human", "1": "machine"}, label2id=labels, class_weights=weights)

    with pytest.raises(ValueError, match="labels 'human' and 'machine'.*--label_map human=bonafide"):
        load_countermeasure(str(folder))


def test_order_of_the_labels_is_that_of_the_config(folder, recording):
    (as_saved,) = score_recordings(load_countermeasure(str(folder)), [recording], hop_seconds=0.5)
    change_config(folder, id2label={"0": "bonafide", "1": "spoof"}, label2id={"bonafide": 0, "spoof": 1})

    (swapped,) = score_recordings(load_countermeasure(str(folder)), [recording], hop_seconds=0.5)

    assert swapped.scores[0] == pytest.approx(-as_saved.scores[0]) and abs(as_saved.scores[0]) > 0.01


def test_model_without_a_feature_extractor_is_refused(folder):
    (folder / "preprocessor_config.json").unlink()

    with pytest.raises((FileNotFoundError, ValueError), match="preprocessor_config.json"):
        load_countermeasure(str(folder))


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_pickled_weights_are_refused_and_never_unpickled(folder, tmp_path, protocol):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))

    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load_countermeasure(str(folder))

    assert not (tmp_path / "ran").exists()


# The Hub


SCRIPT = """
import json, sys
from pathlib import Path
import modeling
from processing.models import load_countermeasure
from processing.recordings import score_recordings
from processing.validation_set import ValidationSet

answers = []
for model, revision in json.loads(sys.argv[2]):
    try:
        countermeasure = load_countermeasure(model, revision=revision)
        (recording,) = score_recordings(countermeasure, [Path(sys.argv[1])], hop_seconds=0.5)
        answers.append([countermeasure.name, countermeasure.revision, recording.scores])
    except FileNotFoundError as error:
        answers.append(f"FileNotFoundError: {error}")
print(json.dumps(answers))
"""


def ask(environment: dict[str, str], recording: Path, *models: tuple[str, str | None]) -> list:
    """
    Name, revision and scores of each model of the Hub, or the error; in a process of its own: the libraries
    read the address of the Hub when they are imported.
    """
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, recording, json.dumps(models)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def published(saved, tmp_path_factory) -> Path:
    """The repositories of a Hub."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(saved, root / "models" / "lab" / "tiny")
    (root / "models" / "lab" / "tiny" / "pytorch_model.bin").write_bytes(b"a pickle")
    (root / "models" / "lab" / "tiny" / "README.md").write_text("A model.")
    (root / "models" / "lab" / "empty").mkdir()
    (root / "models" / "lab" / "empty" / "README.md").write_text("No model.")
    return root


def test_model_of_the_hub_gives_the_scores_of_its_folder_and_its_commit(
    published, saved, recording, tmp_path
):
    (here,) = score_recordings(load_countermeasure(str(saved)), [recording], hop_seconds=0.5)
    with serve(published) as hub:
        commit, _ = hub.files("models", "lab/tiny", None)
        environment = hub.environment(tmp_path)

        answers = ask(environment, recording, ("lab/tiny", None), ("lab/tiny", "main"), ("lab/tiny", commit))

        requests = hub.requests
    assert [answer[:2] for answer in answers] == [["lab/tiny", commit]] * 3
    for answer in answers:
        assert answer[2] == pytest.approx(here.scores, abs=1e-5)
    fetched = [request for request in requests if request.startswith("GET") and "/resolve/" in request]
    assert [request for request in fetched if request.endswith("model.safetensors")]
    assert not [request for request in fetched if request.endswith((".bin", ".md"))]

    offline = ask(environment | {"HF_HUB_OFFLINE": "1"}, recording, ("lab/tiny", None))

    assert offline == answers[:1]  # from the cache, the Hub being gone


def test_what_the_hub_does_not_have_is_named(published, recording, tmp_path):
    with serve(published) as hub:
        nothing, no_revision, empty, plain = ask(
            hub.environment(tmp_path),
            recording,
            ("lab/nothing", None),
            ("lab/tiny", "v2"),
            ("lab/empty", None),
            ("no id", None),
        )

    assert nothing.startswith("FileNotFoundError: lab/nothing is neither a folder nor found on the Hub")
    assert no_revision.startswith("FileNotFoundError: lab/tiny") and "v2" in no_revision
    assert empty.startswith("FileNotFoundError: lab/empty holds no config.json")
    assert plain.startswith("FileNotFoundError: no id is neither a folder nor found on the Hub")


@pytest.mark.parametrize("offline", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_hub_that_is_out_of_reach_is_said(published, recording, tmp_path, offline):
    with serve(published) as hub:
        environment = hub.environment(tmp_path)  # from here on nobody listens at that address

    (answer,) = ask(environment | {"HF_HUB_OFFLINE": offline}, recording, ("lab/tiny", None))

    assert answer.startswith("FileNotFoundError: lab/tiny is neither a folder nor found on the Hub")
