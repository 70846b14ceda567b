"""The page on which recordings are dropped: what it answers, in a browser as well, and what it refuses."""

import base64
import json
import os
import re
import shutil
import time
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from browser import drop, open_browser, wait_for_answer
from tiny_model import save_tiny_model

from hub_cards.demo import Limits, discard, open_page, take
from hub_cards.demo_answer import answer
from processing.arguments import CorpusArguments
from processing.calibration import calibrate_trials
from processing.collation import AudioCollator
from processing.corpora import load_corpus
from processing.examination import make_validation_set
from processing.models import load_countermeasure, write_into_config
from processing.recordings import score_recordings
from processing.results import describe_model
from processing.scoring import score_rows
from processing.trials import list_trials


HOSTILE = "<img src=x onerror=document.title='run'>.wav"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> dict[str, Path]:
    """A second of noise, of a tone, a FLAC that was cut off, and text."""
    folder, generator = tmp_path_factory.mktemp("recordings"), np.random.default_rng(0)
    noise = 0.1 * generator.standard_normal(16000)
    files = {name: folder / f"{name}.wav" for name in ("noise", "tone", "text")}
    soundfile.write(files["noise"], noise, 16000)
    soundfile.write(files["tone"], 0.3 * np.sin(np.arange(16000)), 16000)
    soundfile.write(folder / "broken.flac", noise, 16000)
    whole = (folder / "broken.flac").read_bytes()
    (folder / "broken.flac").write_bytes(whole[: len(whole) // 2])
    files["text"].write_text("This is no recording.\n" * 100)
    return files | {"broken": folder / "broken.flac"}


@pytest.fixture(scope="module")
def scores(tmp_path_factory, recordings) -> dict[str, float]:
    """Of noise and tone, by the model without a threshold."""
    model = load_countermeasure(str(save_tiny_model(tmp_path_factory.mktemp("plain"))))
    files = [recordings["noise"], recordings["tone"]]
    return {of.file.stem: of.scores[0] for of in score_recordings(model, files)}


@pytest.fixture(scope="module")
def model(tmp_path_factory, scores) -> Path:
    """A model with a threshold between noise and tone."""
    threshold = sum(scores.values()) / 2
    return save_tiny_model(tmp_path_factory.mktemp("model"), decision_threshold=threshold)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, model, scores) -> Path:
    """The same model, calibrated on noise and tones, of which those with the higher scores are bona fide."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("calibrated") / "model")
    corpus, generator = tmp_path_factory.mktemp("corpus"), np.random.default_rng(1)
    keys = dict(zip(sorted(scores, key=scores.get), ("spoof", "bonafide"), strict=True))
    for i in range(12):
        signals = {"noise": 0.1 * generator.standard_normal(9600)}
        signals["tone"] = 0.3 * np.sin(generator.uniform(0.99, 1.01) * np.arange(9600))
        for name, signal in signals.items():
            (corpus / "dev" / keys[name]).mkdir(parents=True, exist_ok=True)
            soundfile.write(corpus / "dev" / keys[name] / f"{i}.wav", signal + 1e-4 * signals["noise"], 16000)
    countermeasure = load_countermeasure(str(folder))
    rows = load_corpus(CorpusArguments(dataset=[str(corpus)])).splits["dev"]
    values = score_rows(countermeasure.model, AudioCollator(countermeasure.feature_extractor), rows).numpy()
    about = {"corpus": "Made", "split": "dev", "weights_sha256": describe_model(folder)["weights_sha256"]}
    llrs = calibrate_trials(list_trials(rows), values, prior=0.5, about=about)
    validation = make_validation_set(countermeasure, rows, list_trials(rows), values, llrs)
    validation.save(folder)
    write_into_config(folder, calibration=validation.about)
    return folder


def read(page: str) -> str:
    """The words of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def list_links(page: str) -> list[str]:
    """The files that it holds, but for pictures."""
    found = re.findall(r"(?:json|html);base64,(.*?)\"", page)
    return [base64.b64decode(of).decode() for of in found]


def test_answer_is_verdict_score_threshold_and_scores_over_time(model, recordings, scores):
    countermeasure, (low, high) = load_countermeasure(str(model)), sorted(scores, key=scores.get)

    pages = {name: answer(recordings[name], countermeasure) for name in (low, high)}

    for name, verdict in ((low, "Synthetic speech"), (high, "Human speech")):
        assert f"{name}.wav , 0:01.0 {verdict} The score of the first 0.50 s" in read(pages[name])
        assert f"{scores[name]:.4f}" in read(pages[name])
        assert "Skipped in the file nothing" in read(pages[name])
        assert 'src="data:image/png;base64,' in pages[name]
        (record,) = re.findall(
            r'download="recordings.json" href="data:application/json;base64,(.*?)"', pages[name]
        )
        (recording,) = json.loads(base64.b64decode(record))["recordings"]
        assert [window["start_seconds"] for window in recording["windows"]] == [0, 0.25, 0.5]
        assert recording["file"] == f"{name}.wav"


@pytest.mark.parametrize(
    ("name", "limit", "said"),
    [
        ("text", 60, "cannot be decoded"),
        ("broken", 60, "was cut off"),
        ("noise", 0.9, "is longer than 0:00.9"),
    ],
)
def test_what_cannot_be_scored_is_said_in_words_without_the_folders_of_the_server(
    calibrated, recordings, name, limit, said
):
    page = answer(recordings[name], load_countermeasure(str(calibrated)), limit)

    assert f"Not scored {recordings[name].name} {said}" in read(page)
    texts = [
        page,
        *(base64.b64decode(of).decode() for of in re.findall(r"(?:json|html);base64,(.*?)\"", page)),
    ]
    assert len(texts) == 4  # with the report, as HTML and as JSON
    for text in texts:
        assert str(recordings[name].parent) not in text and "Traceback" not in text


def test_length_is_limited_whatever_the_header_says(model, recordings, tmp_path):
    content = bytearray(recordings["noise"].read_bytes())
    content[4:8] = content[40:44] = b"\xff" * 4  # as written into a pipe: the length is not known
    (tmp_path / "endless.wav").write_bytes(content)

    page = answer(tmp_path / "endless.wav", load_countermeasure(str(model)), 0.9)

    assert "endless.wav is longer than 0:00.9" in read(page)


def test_calibrated_model_gives_evidence_in_words_and_the_report(calibrated, recordings, scores, tmp_path):
    kind = max(scores, key=scores.get)
    file = shutil.copy(recordings[kind], tmp_path / HOSTILE)

    page = answer(Path(file), load_countermeasure(str(calibrated)))

    assert "times more probable if a human spoke than if a machine made the speech" in read(page)
    assert "<img src=x" not in page and "&lt;img src=x" in page
    report = list_links(page)[0]
    assert "Human or synthetic speech? Report on" in read(report) and "<img src=x" not in report
    assert str(tmp_path) not in report


def test_two_who_send_the_same_file_do_not_share_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "same.wav").write_bytes(b"sound")
    first, second = (take(str(tmp_path / "same.wav")) for _ in range(2))

    discard(first)

    assert not Path(first).exists() and Path(second).read_bytes() == b"sound"
    assert Path(second).name == "same.wav"


def list_kept() -> list[Path]:
    """Files that the page of this process keeps and that hold anything."""
    files = Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")
    return [path for path in files if path.is_file() and path.stat().st_size]


def test_browser_gets_the_answer_asks_nobody_else_and_leaves_nothing(model, recordings, scores, tmp_path):
    hostile = shutil.copy(recordings["noise"], tmp_path / HOSTILE)
    verdict = "Human speech" if scores["noise"] > scores["tone"] else "Synthetic speech"
    asked, found = [], {}
    with open_page(str(model)) as address, open_browser() as browser:
        tab = browser.new_page()
        tab.on("request", lambda request: asked.append(request.url))
        for file in (hostile, recordings["text"]):
            drop(tab, address, Path(file))
            found[Path(file).name] = wait_for_answer(tab, "img src" if file is hostile else "text.wav")
        title = tab.title()
        waiting = [path for path in list_kept() if path.parent.name.startswith("waiting-")]
        with httpx.Client(base_url=address) as client:
            (event, *_) = [of["id"] for of in client.get("/config").json()["dependencies"] if of["queue"]]
            refused = client.get(f"/gradio_api/file={model / 'config.json'}").status_code
            answers = [call(client, event, path) for path in ("/etc/hostname", f"{address}config")]

    assert verdict in found[HOSTILE] and "Not scored text.wav cannot be decoded" in found["text.wav"]
    assert title == "Human or synthetic speech?"
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {address.split("/")[2]}
    assert waiting == []
    assert not Path(os.environ["GRADIO_TEMP_DIR"]).exists()
    assert refused == 403
    assert [of["success"] for of in answers] == [False, False]


def call(client: httpx.Client, event: int, path: str) -> dict:
    """What the page answers on a path that was not sent to it."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    client.post("/gradio_api/queue/join", json={"data": data, "fn_index": event, "session_hash": "test"})
    with client.stream("GET", "/gradio_api/queue/data?session_hash=test") as stream:
        messages = (json.loads(line.removeprefix("data:")) for line in stream.iter_lines() if line)
        return next(message for message in messages if message["msg"] == "process_completed")


@pytest.mark.slow
def test_two_people_at_once_get_their_answers_also_on_the_same_file(model, recordings, monkeypatch):
    monkeypatch.setattr("hub_cards.demo.UPLOAD_SECONDS", 20)
    names = ("noise", "tone", "noise")
    with open_page(str(model)) as address, open_browser() as browser:
        tabs = [browser.new_context().new_page() for _ in names]
        for tab in tabs:
            tab.goto(address)
        for tab, name in zip(tabs, names, strict=True):
            drop(tab, address, recordings[name])
        found = [wait_for_answer(tab, name) for tab, name in zip(tabs, names, strict=True)]
        for _ in range(60):  # in which Gradio deletes its own copies as well
            if kept := list_kept():
                time.sleep(1)

    assert found[0] == found[2] != found[1]
    assert kept == []


@pytest.mark.slow
def test_hour_is_scored_and_what_is_longer_or_larger_is_refused_in_words(model, tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(3600 * 16000, dtype=np.float32)
    soundfile.write(tmp_path / "hour.flac", noise, 16000)
    soundfile.write(tmp_path / "longer.flac", np.append(noise, noise[:16000]), 16000)
    soundfile.write(tmp_path / "larger.wav", noise, 16000)  # 115 MB
    with open_page(str(model), limits=Limits(megabytes=112)) as address, open_browser() as browser:
        tab = browser.new_page()
        drop(tab, address, tmp_path / "hour.flac")
        scored = wait_for_answer(tab, "hour.flac", seconds=500)
        drop(tab, address, tmp_path / "longer.flac")
        longer = wait_for_answer(tab, "longer.flac")
        drop(tab, address, tmp_path / "larger.wav")
        tab.get_by_text("maximum allowed size").wait_for()

    assert "hour.flac, 1:00:00.0" in scored and "Scores of its 14,399 windows" in scored
    assert "Not scored longer.flac is longer than 1:00:00.0" in longer


@pytest.mark.slow
def test_recording_by_microphone_is_scored(model):
    with open_page(str(model)) as address, open_browser() as browser:
        tab = browser.new_context(permissions=["microphone"]).new_page()
        tab.goto(address)
        tab.get_by_role("tab", name="Microphone").click()
        tab.get_by_role("button", name="Record").click()
        tab.wait_for_timeout(2000)
        tab.get_by_role("button", name="Stop").click()
        found = wait_for_answer(tab, "audio.wav")

    assert found.startswith("audio.wav, 0:0") and "Scores as JSON" in found and "Not scored" not in found
