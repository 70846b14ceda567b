"""A model that `python -m modeling.export_onnx` wrote, in the place of a PyTorch one that scores."""

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_outputs import XVectorOutput

from .files import ONNX_NAME


def import_package(name: str) -> ModuleType:
    """A package that ONNX needs; an ImportError says how it is installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # by which onnxruntime would report to Microsoft
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{error}. Install what ONNX needs by pip install -e ".[onnx]".') from error


def open_session(file: Path | str):
    """An onnxruntime session of a network, on as many threads as torch has."""
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class OnnxModel:
    """What scoring asks of a `PreTrainedModel`, by onnxruntime on the CPU."""

    device = torch.device("cpu")

    def __init__(self, session, config: PreTrainedConfig):
        self.session = session
        self.config = config
        metadata = session.get_modelmeta().custom_metadata_map
        self.about = {name: json.loads(value) for name, value in metadata.items()}

    @classmethod
    def load(cls, folder: Path) -> "OnnxModel":
        """The model of an exported folder."""
        return cls(open_session(folder / ONNX_NAME), AutoConfig.from_pretrained(folder))

    def __call__(self, input_values: torch.Tensor, **masks: torch.Tensor) -> XVectorOutput:
        """`logits` (batch, 2) and `embeddings` (batch, size) of `input_values` (batch, num_samples), of which
        nothing is padding."""
        names = ["logits", "embeddings"]
        # In int8 what is multiplied is rounded by one scale, which must not depend on the rest of a batch.
        parts = input_values.split(1) if self.about.get("is_int8") else [input_values]
        found = [self.session.run(names, {"input_values": part.numpy()}) for part in parts]
        tensors = (torch.from_numpy(np.concatenate(outputs)) for outputs in zip(*found, strict=True))
        return XVectorOutput(**dict(zip(names, tensors, strict=True)))

    def num_parameters(self) -> int:
        """Of the model that was exported."""
        return self.about["num_parameters"]

    def to(self, device: torch.device) -> "OnnxModel":
        """Itself: it stays on the CPU."""
        return self

    def eval(self) -> "OnnxModel":
        """Itself: it is not trained."""
        return self
