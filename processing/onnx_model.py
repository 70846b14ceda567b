"""A model that `python -m modeling.export_onnx` wrote, in the place of a PyTorch one that scores."""

import importlib
from pathlib import Path
from types import ModuleType

import torch
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_outputs import XVectorOutput

from .files import ONNX_NAME


def import_package(name: str) -> ModuleType:
    """A package that ONNX needs; an ImportError says how it is installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{error}. Install what ONNX needs by pip install -e ".[onnx]".') from error


class OnnxModel:
    """What scoring asks of a `PreTrainedModel`, by onnxruntime on the CPU."""

    device = torch.device("cpu")

    def __init__(self, session, config: PreTrainedConfig):
        self.session = session
        self.config = config

    @classmethod
    def load(cls, folder: Path) -> "OnnxModel":
        """The model of an exported folder, on as many threads as torch has."""
        onnxruntime = import_package("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(folder / ONNX_NAME, options, providers=providers)
        return cls(session, AutoConfig.from_pretrained(folder))

    def __call__(self, input_values: torch.Tensor, **masks: torch.Tensor) -> XVectorOutput:
        """`logits` (batch, 2) and `embeddings` (batch, size) of `input_values` (batch, num_samples), of which
        nothing is padding."""
        names = ["logits", "embeddings"]
        found = self.session.run(names, {"input_values": input_values.numpy()})
        return XVectorOutput(**dict(zip(names, map(torch.from_numpy, found), strict=True)))

    def num_parameters(self) -> int:
        """Of the model that was exported."""
        return int(self.session.get_modelmeta().custom_metadata_map["num_parameters"])

    def to(self, device: torch.device) -> "OnnxModel":
        """Itself: it stays on the CPU."""
        return self

    def eval(self) -> "OnnxModel":
        """Itself: it is not trained."""
        return self
