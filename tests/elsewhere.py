"""A second environment, where this package is not: what a user of a published model has."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import imageio_ffmpeg


SCRIPT = """
import importlib.util, json, sys
import soundfile, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers import AutoModelForAudioClassification, pipeline

assert importlib.util.find_spec("modeling") is None and importlib.util.find_spec("processing") is None
models, files, by_path = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "path"
said = []
for model_dir in models:
    config = AutoConfig.from_pretrained(model_dir, trust_remote_code=True)
    extractor = AutoFeatureExtractor.from_pretrained(model_dir, trust_remote_code=True)
    model = AutoModelForAudioClassification.from_pretrained(model_dir, trust_remote_code=True).eval()
    network = AutoModel.from_pretrained(model_dir, trust_remote_code=True).eval()
    assert not hasattr(network, "classifier")
    classifier = pipeline("audio-classification", model=model_dir, trust_remote_code=True)
    answers = []
    for file in files:
        waveform, rate = soundfile.read(file, dtype="float32")
        waveform = waveform.mean(1) if waveform.ndim == 2 else waveform
        answer = {"pipeline": classifier(file if by_path else {"array": waveform, "sampling_rate": rate})}
        if rate == 16000:
            inputs = extractor(waveform, sampling_rate=rate, return_tensors="pt")
            with torch.no_grad():
                output = model(**inputs)
                assert torch.equal(network(**inputs).pooler_output, output.embeddings)
            logits = output.logits[0]
            answer["score"] = float(logits[config.label2id["bonafide"]] - logits[config.label2id["spoof"]])
        answers.append(answer)
    said.append({"threshold": config.decision_threshold, "answers": answers})
print(json.dumps(said))
"""


class Elsewhere:
    """A second environment with the same libraries but without this package, and a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        site = next((folder / "venv" / "lib").iterdir()) / "site-packages"
        # A path file adds the libraries; the path files in there, an editable install among them, are not
        # read.
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (folder / "bin").mkdir()
        (folder / "bin" / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())

    def ask(self, model: Path | str, files: list[Path], **settings) -> dict:
        """What one model says, see `ask_all`."""
        return self.ask_all([model], files, **settings)[0]

    def ask_all(
        self,
        models: list[Path | str],
        files: list[Path],
        *,
        by_path: bool = False,
        environment: dict | None = None,
    ) -> list[dict]:
        """
        What the Auto classes and the pipeline say of each file there, by each model in turn.

        Args:
            models: their folders, or ids on the Hub.
            files: recordings.
            by_path: give the pipeline paths and not waveforms.
            environment: variables instead of this process's, to reach a Hub.
        """
        listed = [json.dumps(list(map(str, each))) for each in (models, files)]
        arguments = (*listed, "path" if by_path else "array")
        process = self.run(SCRIPT, *arguments, environment=environment)
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    def run(self, script: str, *arguments, environment: dict | None = None) -> subprocess.CompletedProcess:
        """Run a script by the Python of the second environment, in its folder."""
        if environment is None:
            environment = {**os.environ, "HF_HOME": str(self.folder / "hf_home")}
        environment = {**environment, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        command = [self.folder / "venv" / "bin" / "python", "-c", script, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
