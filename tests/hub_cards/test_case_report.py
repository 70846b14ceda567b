"""Reports on single recordings: what a page says, and what a browser makes of it."""

import base64
import html
import http.server
import json
import math
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest
import soundfile
from made_run import make_run

from hub_cards.case_report import weigh_evidence, write_reports
from processing.validation_set import ValidationSet


CALIBRATION = {
    **{"a": 0.5, "b": 0.25, "prior": 0.5, "is_regularized": False, "bounds": [-4.0, 3.5]},
    **{"num_bonafide": 40, "num_spoof": 50, "num_speakers": 15, "date": "2026-11-26"},
    **{"corpus": "ASVspoof 2019 LA", "split": "dev", "weights_sha256": {}},
}
HOSTILE = "<script>document.title='run'<\u202egpj.wav"


def make_statement(llr: float, **changes) -> dict:
    rate = {"errors": 0, "trials": 50, "rate": 0.0, "low": 0.0, "high": 0.058, "level": 0.95}
    names = ("miss", "false_alarm", "abstention_bonafide", "abstention_spoof")
    measured = {"value": 3.2, "unit": "s", "low": 1.1, "high": 9.2, "is_outside": False}
    family = {"rate": 0.04, "low": 0.01, "high": 0.1, "trials": 15}
    family |= {"num_speakers": 15, "num_recordings": 40, "num_windows": 321}
    return {
        "llr": {"value": llr, "low": llr - 1, "high": llr + 1, "is_cut": False, "bounds": [-4.0, 3.5]},
        "fitness": {
            "is_fit": True,
            "reasons": [],
            "distance": {"value": 1.5, "quantile": 0.6},
            "rarity": {"value": 4.0, "quantile": 0.9},
            "score_quantile": 0.7,
            "measurements": {"speech_seconds": measured},
        },
        "decision": {
            **{"verdict": "bonafide", "prior": 0.25, "cost_miss": 1.0, "cost_false_alarm": 12.0},
            **{"cost_abstain": None, "thresholds": [1.2, 1.2], "expected_cost": 0.123},
            "rates": dict.fromkeys(names, rate),
        },
        "windows": {
            **{"num_windows": 9, "level": -1.5, "is_supported": True, "family_wise_rate": family},
            "segments": [{"start_seconds": 1.25, "end_seconds": 2.5, "llr": -3.0}],
        },
        **changes,
    }


LEAK = "<img src=ADDRESS>"
REASON = "The bandwidth of 3.4 kHz is below that of all validation recordings."
UNFIT = make_statement(2.0, decision=None)
UNFIT["fitness"] |= {"is_fit": False, "reasons": [REASON]}
RECORDINGS = {
    "human": {"file": HOSTILE, "statement": make_statement(2.0), "remark": LEAK},
    "machine": {"statement": make_statement(-2.2), "seconds": 6.0},
    "neither": {"statement": make_statement(0.0, windows=None)},
    "unfit": {"statement": UNFIT},
    "withheld": {"statement": None, "withheld": REASON, "score": None},
    "error": {
        "statement": None,
        "error": REASON,
        "score": None,
        "seconds": None,
        "windows": [],
        "file_format": {},
    },
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, tuple[str, dict]]:
    """The page and the JSON on each of `RECORDINGS`."""
    folder = tmp_path_factory.mktemp("reports")
    model = make_run(folder / "model")
    # LLRs that are all different: of the spoofed ones 3 are at least 2, of the bona fide ones 2 at most -2.2.
    llrs = np.concatenate([[-3, -2.5], np.linspace(-1, 3, 38), [2.0, 2.5, 3.1], np.linspace(-4, 1.1, 47)])
    ValidationSet(
        scores=2 * llrs,
        llrs=llrs,
        is_bonafide=np.arange(90) < 40,
        speakers=np.arange(90) % 15,
        examined=np.arange(1),
        embeddings=np.zeros((1, 2), np.float32),
        window_scores=np.zeros(1),
        window_places=np.zeros(1, int),
        about=CALIBRATION,
    ).save(model)
    waveform = 0.1 * np.random.default_rng(0).standard_normal((96000, 2))
    windows = [{"start_seconds": i / 4, "score": i, "withheld": None} for i in range(9)]
    recordings = []
    for name, changes in RECORDINGS.items():
        recording = {"file": f"{name}.wav", "score": 4.1234, "seconds": 3.0, "windows": windows}
        recording |= dict.fromkeys(["error", "withheld", "remark"])
        recording["file_format"] = {"container": "wav", "sampling_rate": 32000, "channels": 2}
        recordings.append({**recording, "skipped_packets": 0, "skipped_seconds": 0.0, **changes})
        soundfile.write(folder / recordings[-1]["file"], waveform, 32000, format="WAV")
    content = {"model": "made", "weights_sha256": {"model.safetensors": "abc"}, "score": "logits"}
    content |= {"calibration": CALIBRATION, "versions": {"torch": "2.14"}, "hardware": {"cpu": "Test"}}
    (folder / "recordings.json").write_text(json.dumps({**content, "recordings": recordings}))
    write_reports(folder, [folder / of["file"] for of in recordings], model, command=f"eval.py '{LEAK}'")
    pages = sorted(folder.glob("report-*.html"))
    read = ((page.read_text("utf-8"), json.loads(page.with_suffix(".json").read_text())) for page in pages)
    return dict(zip(RECORDINGS, read, strict=True))


def read(page: str) -> str:
    """The words of a page."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def list_pictures(page: str) -> list[str]:
    """The SVG that it holds."""
    return [base64.b64decode(of).decode() for of in re.findall(r"svg\+xml;base64,([^\"]*)\"", page)]


# By hand from the table of the ENFSI guideline.
@pytest.mark.parametrize(
    ("ratio", "step", "support"),
    [
        *((1.9, 0, "no"), (1 / 1.9, 0, "no"), (2.1, 1, "weak"), (1 / 9.9, -1, "weak"), (11, 2, "moderate")),
        *((1 / 101, -3, "moderately strong"), (9_900, 4, "strong"), (1 / 990_000, -5, "very strong")),
        (1_100_000, 6, "extremely strong"),
    ],
)
def test_support_is_that_of_the_verbal_scale(ratio, step, support):
    weight = weigh_evidence(math.log(ratio))

    assert (weight["step"], weight["support"]) == (step, support)
    assert weight["factor"] == pytest.approx(max(ratio, 1 / ratio))
    assert weight["favours"] == ("bonafide" if ratio > 1 else "spoof")


def test_page_answers_first_and_has_all_items(reports):
    page, content = reports["human"]

    text = read(page)
    assert "<audio" not in page  # which is asked for
    before, after = text.index("7.4 times more probable if a human spoke"), text.index("What was asked")
    assert before < text.index("weak support for proposition 1") < after
    assert "95 % interval: 2.7 to 20 times more probable if a human spoke." in text
    # Of the 50 spoofed trials, 3 have an LLR of at least 2: exact interval by a table of the binomial.
    assert "of synthetic speech, 3 of 50, 6.0 % (1.3 % to 16.5 %) pointed at least this strongly" in text
    assert content["answer"]["misleading"]["errors"] == 3
    for item in (
        "played back and recorded again (replay)",
        content["material"]["sha256"],
        "Its 2 channels were mixed to one by their mean. Resampled from 32,000 Hz to 16,000 Hz.",
        "0.00 to 3.00 s",
        "Repeated until it fills the 4.00 s",
        "speech in it 3.2 s 1.1 to 9.2 s",
        "9 windows were examined",
        "4.0 % (1.0 % to 10.0 %) have at least one below",
        "1.25 s 2.50 s -1.30",
        "Each was judged by a calibration that had not heard its speaker.",
        "that its own speaker took part in",
        "prior) 25.0 %",
        "taking synthetic speech for human 12",
        "without hearing anything 0.123",
        "Equal error rate (EER)",
        "Cllr_min",
        "(ELUB, Vergeer et al. 2016) log10 from -1.74 to 1.52",
        "2.000 (95 % interval 1.000 to 3.000)",
        "0.869 (95 % interval 0.434 to 1.303)",
        "4.1234",
        "0.5 · score + 0.25",
        "90 recordings (40 of human and 50 of synthetic speech, 15 speakers) of ASVspoof 2019 LA, dev",
        "speech-antispoofing, ",
        f"eval.py '{LEAK}'",
        "torch 2.14",
        "Trained on ASVspoof 2019 LA Date of training 2026-11-25",
    ):
        assert item in text, item
    pictures = list_pictures(page)
    assert len(pictures) == 4 and sum(">case (0.87)<" in picture for picture in pictures) == 2
    assert len(page) < 1_000_000


def test_answer_names_the_beginning_that_it_is_about_the_passages_elsewhere_and_the_errors(reports):
    text = read(reports["machine"][0])

    assert "What was measured in the first 4.00 s of this recording is 9 times" in text
    assert "In all its 6.00 s, 1 passage looks synthetic , whatever" in text
    assert "9 times more probable if a machine made the speech than if a human spoke" in text
    assert "of human speech, 2 of 40, 5.0 %" in text


def test_evidence_for_neither_side_misleads_to_none(reports):
    text = read(reports["neither"][0])

    assert "about as probable if a human spoke as if a machine made the speech : no support" in text
    assert "pointed at least this strongly" not in text


@pytest.mark.parametrize("why", ["unfit", "withheld", "error"])
def test_page_without_a_statement_says_so_first_with_the_reason_and_no_ratio(reports, why):
    page, content = reports[why]

    text = read(page)
    assert text.index("No statement.") < text.index(REASON) < text.index("What was asked")
    assert REASON in content["answer"]["reasons"][0]
    assert "times more probable" not in text and "Log-likelihood ratio, natural" not in text
    assert "case (" not in "".join(list_pictures(page))


class Listener(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def browse(tmp_path):
    """Opens a page in a browser; returns the document after that, and what was requested of a server."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    server.paths = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"

    def run(page: str):
        (tmp_path / "page.html").write_text(page, "utf-8")
        options = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        options += f" disable-component-update disable-sync user-data-dir={tmp_path / 'profile'}"
        command = [browser, *(f"--{option}" for option in options.split()), "--dump-dom"]
        command.append((tmp_path / "page.html").as_uri())
        process = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
        assert process.returncode == 0, process.stderr
        return process.stdout, server.paths

    yield run, address
    server.shutdown()


def test_browser_runs_nothing_and_asks_for_nothing_whatever_a_recording_is_called(reports, browse):
    run, address = browse
    page = reports["human"][0].replace("ADDRESS", f"{address}leak")

    document, requested = run(page)

    assert not requested
    assert "<script" not in document and "\u202e" not in document
    assert document.count("<img") == 4 and document.count(f"{address}leak") == 2
    assert "<title>Human or synthetic speech? Report on &lt;script&gt;document.title='run'" in document
    # What got in all the same is not let out by the policy; without it, it is.
    inside = page.replace("</h1>", f"</h1><img src={address}leak><script>document.title = 'run'</script>")
    document, requested = run(inside)
    assert "<title>run" not in document and not requested
    document, requested = run(re.sub("<meta http-equiv.*?>", "", inside))
    assert "<title>run" in document and requested == ["/leak"]
