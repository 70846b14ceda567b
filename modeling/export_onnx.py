"""Export a trained model to ONNX, so that it scores without PyTorch:

    python -m modeling.export_onnx --model runs/lcnn --output_dir exported/lcnn

The folder holds `model.onnx`, which takes `input_values` (batch, num_samples), float32, and gives `logits`
(batch, 2), `score` (batch,), higher = more bona fide, and `embeddings` (batch, size), with all that a program
must know in its metadata; `config.json` and `preprocessor_config.json`, by which `eval.py --model
exported/lcnn` scores with it; and `score_onnx.py`, which needs numpy, soundfile and onnxruntime only.

With `--int8` the products with an encoder's weights are in int8, see `processing/quantize_onnx.py`. Scores
then differ, by how much is said; a decision threshold and a calibration of the model's scores are left out.
"""

import json
import logging
import shutil
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from transformers import SequenceFeatureExtractor

from processing.demo import synthesise
from processing.files import ONNX_NAME, hash_files, move_model, write_json
from processing.models import Countermeasure, load_countermeasure
from processing.onnx_model import OnnxModel, import_package
from processing.quantize_onnx import list_linear_weights, quantize_products
from processing.scoring import score_batch

from .modeling_countermeasure import list_labels


BATCH_SIZES = (1, 3, 64)  # at which the export is held against the model
LARGEST_DIFFERENCE = 1e-4  # of a score, relative to it where it is above 1
EXAMPLE = Path(__file__).with_name("score_onnx.py")


class Scorer(nn.Module):
    """A model whose outputs are its logits (batch, 2), score (batch,) and embeddings (batch, size)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, input_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs, label2id = self.model(input_values), self.model.config.label2id
        score = outputs.logits[:, label2id["bonafide"]] - outputs.logits[:, label2id["spoof"]]
        return outputs.logits, score, outputs.embeddings


def export_onnx(
    countermeasure: Countermeasure, folder: Path, *, int8: bool = False
) -> tuple[float, tuple[float, float] | None]:
    """
    Write the folder of an exported model.

    Returns:
        The largest difference of a score from the model's, and, with `int8`, milliseconds of an utterance in
        float32 and in int8.

    Raises:
        FileExistsError: the folder holds a model.
        ImportError: a package of the extra `onnx` is missing.
        ValueError: scores that differ by more than `LARGEST_DIFFERENCE` in float32; int8 that gains nothing.
    """
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} holds a model already. Name another --output_dir.")
    for package in ("onnxruntime", "onnxscript"):  # said before torch's exporter works for a minute
        import_package(package)
    model, extractor = countermeasure.model.eval(), countermeasure.feature_extractor
    linear = list_linear_weights(model) if int8 else None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        made = Path(unfinished, "model")
        model.config.save_pretrained(made)
        extractor.save_pretrained(made)
        shutil.copy(EXAMPLE, made)
        # Its optimizer would drop `+ 1e-10`, which keeps a logarithm from digital silence, as adding zero.
        program = torch.onnx.export(
            Scorer(model).eval(),
            (torch.zeros(2, extractor.num_samples or 2 * extractor.sampling_rate),),
            input_names=["input_values"],
            output_names=["logits", "score", "embeddings"],
            dynamic_shapes=({0: "batch"} if extractor.num_samples else {0: "batch", 1: "samples"},),
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, with paths of this machine
        program.model.metadata_props.update(describe(countermeasure, int8=int8))
        program.save(made / ONNX_NAME, external_data=False)
        difference = find_difference(countermeasure, OnnxModel.load(made))
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"The export of {countermeasure.name} is not right: a score differs by {difference:.2g} from "
                f"the model's, more than {LARGEST_DIFFERENCE:g}. Nothing is written."
            )
        config, milliseconds = json.loads((made / "config.json").read_text(encoding="utf-8")), None
        if int8:
            example = next(make_batches(extractor)).numpy()
            milliseconds = quantize_products(made / ONNX_NAME, linear, example)
            difference = find_difference(countermeasure, OnnxModel.load(made))
            config["decision_threshold"] = None
        elif countermeasure.calibration:
            weights = hash_files([made / ONNX_NAME])
            config["calibration"] = {**countermeasure.calibration, "weights_sha256": weights}
            if validation := countermeasure.validation:
                replace(validation, about=config["calibration"]).save(made)
        write_json(made / "config.json", config)
        move_model(made, folder)
    return difference, milliseconds


def describe(countermeasure: Countermeasure, *, int8: bool = False) -> dict[str, str]:
    """The metadata of `model.onnx`, each value as JSON."""
    extractor, config = countermeasure.feature_extractor, countermeasure.model.config
    settings = ("sampling_rate", "num_samples", "padding", "do_normalize")
    about = {
        "labels": list_labels(config),
        "num_parameters": countermeasure.model.num_parameters(),
        "is_int8": int8,
        "decision_threshold": None if int8 else config.decision_threshold,
        "calibration": None if int8 else countermeasure.calibration,
        **{name: getattr(extractor, name) for name in settings},
    }
    return {name: json.dumps(value) for name, value in about.items()}


def find_difference(countermeasure: Countermeasure, exported: OnnxModel) -> float:
    """The largest difference of a score, relative above 1, on signals such as speech, clicks and digital
    silence, alone and in batches; NaN if there is one."""
    largest = []
    for inputs in make_batches(countermeasure.feature_extractor):
        ours, theirs = (
            score_batch(of, {"input_values": inputs})[0] for of in (countermeasure.model, exported)
        )
        largest.append(((theirs - ours) / ours.abs().clamp(min=1)).abs().max())
    return float(torch.stack(largest).max())


def make_batches(extractor: SequenceFeatureExtractor) -> Iterator[torch.Tensor]:
    """Batches of all [`BATCH_SIZES`] of signals that are cropped to one length, or, of a model of whole
    recordings, of several lengths."""
    rng, rate = np.random.default_rng(0), extractor.sampling_rate
    kinds = [synthesise(np.random.default_rng(speaker), rng) for speaker in range(4)]
    kinds += [np.eye(1, rate, 1000)[0], np.zeros(rate)]  # a click, silence
    signals = []
    for i in range(max(BATCH_SIZES)):
        signal = kinds[i % len(kinds)]
        signals.append(10 ** rng.uniform(-2, 0) * signal / max(np.abs(signal).max(), 1e-9))
        if i % 4 == 1:
            signals[-1] += 1e-3 * rng.normal(size=len(signal))
    for size in BATCH_SIZES:
        length = extractor.num_samples or int(rng.integers(8000, 40_000))
        taken = [np.resize(signal, length).astype(np.float32) for signal in signals[-size:]]
        yield extractor(taken, sampling_rate=rate, return_tensors="pt")["input_values"]


def main(arguments: list[str] | None = None) -> None:
    prog = "python -m modeling.export_onnx"
    parser = ArgumentParser(prog=prog, description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Folder or Hub id of a trained model.")
    parser.add_argument("--revision", help="Branch, tag or commit of a Hub model.")
    parser.add_argument("--output_dir", type=Path, required=True, help="Where the export goes.")
    parser.add_argument(
        "--int8", action="store_true", help="Products with weights in int8; refused where that is not faster."
    )
    args = parser.parse_args(arguments)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    try:
        countermeasure = load_countermeasure(args.model, revision=args.revision)
        if isinstance(countermeasure.model, OnnxModel):
            raise ValueError(f"{args.model} is an export already. Give the model that it was made of.")
        if countermeasure.preprocessing:
            raise ValueError(f"{args.model} is not a model of this package: export it by optimum-cli.")
        difference, milliseconds = export_onnx(countermeasure, args.output_dir, int8=args.int8)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"{prog}: error: {error}")
    size = (args.output_dir / ONNX_NAME).stat().st_size / 1e6
    print(f"Written: {args.output_dir.resolve()}, {ONNX_NAME} of {size:.1f} MB")
    print(f"Largest difference of a score in batches of {', '.join(map(str, BATCH_SIZES))}: {difference:.1e}")
    if milliseconds:
        print("An utterance takes {:.1f} ms in int8, {:.1f} ms in float32".format(*reversed(milliseconds)))
        print("Calibration and decision threshold are left out: eval.py sets them, see --calibrate")


if __name__ == "__main__":
    main()
