"""Score recordings with the model.onnx beside this file, which needs numpy, soundfile and onnxruntime only:

python score_onnx.py interview.wav answer.flac
"""

# ruff: noqa: E402  the telemetry of onnxruntime, which reports to Microsoft, begins as it is imported

import json
import os
import sys
from pathlib import Path


os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import soundfile


def load(folder: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """The network, and its labels, sampling rate, crop, threshold and calibration."""
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(value) for name, value in about.items()}
    if (folder / "config.json").is_file():  # where eval.py writes what it finds later
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        about |= {name: config.get(name) for name in ("decision_threshold", "calibration")}
    return session, about


def read(file: str, about: dict) -> np.ndarray:
    """The crop of a recording that the model takes, (num_samples,), float32."""
    waveform, rate = soundfile.read(file, about["num_samples"] or -1, dtype="float32", always_2d=True)
    if rate != about["sampling_rate"]:
        raise ValueError(f"{file} has {rate} Hz: convert it to {about['sampling_rate']} Hz first.")
    if len(waveform) == 0:
        raise ValueError(f"{file} has no samples.")
    waveform = waveform.mean(axis=1)
    if about["do_normalize"]:
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    length = about["num_samples"] or len(waveform)
    if about["padding"] == "repeat":
        return np.resize(waveform, length)
    return np.pad(waveform, (0, length - len(waveform)))


def main(files: list[str]) -> None:
    if not files:
        sys.exit(__doc__)
    session, about = load(Path(__file__).parent)
    for file in files:
        inputs = {"input_values": read(file, about)[None]}
        score = float(session.run(["score"], inputs)[0][0])
        words = [f"score {score:.4f}"]
        if about["decision_threshold"] is not None:
            words.append("bonafide" if score > about["decision_threshold"] else "spoof")
        if calibration := about["calibration"]:
            low, high = calibration.get("bounds", (-np.inf, np.inf))
            llr = np.clip(calibration["a"] * score + calibration["b"], low, high)
            words.append(f"log-likelihood ratio {llr:.2f}")
        print(f"{file}: {', '.join(words)}")


if __name__ == "__main__":
    main(sys.argv[1:])
