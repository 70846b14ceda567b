"""The matrix products of an exported model's encoder in int8, where that makes it faster.

Weights are rounded once, each row by a scale of its own; what they are multiplied by is rounded at run time,
by one scale for the whole input (onnxruntime's dynamic quantisation). Convolutions, which int8 makes slower
on a CPU, front end, attention, back end and last layer stay in float32: the back end has few products, but in
int8 they made most of the difference of a score.
"""

import statistics
import time
from pathlib import Path

import numpy as np
from torch import nn

from .onnx_model import import_package, open_session


REPEATS = 7  # of the measurement of which the median counts
SMALLEST_GAIN = 1.1  # times as fast


def list_linear_weights(model: nn.Module) -> set[str]:
    """The names of the weights of the encoder's linear layers; a `ValueError` where there is none."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not (weights := {f"{name}.weight" for name in layers if name.startswith("encoder.")}):
        raise ValueError(
            "--int8 is for the matrix products of an encoder, and the model has none: the rest of a network "
            "gains nothing by it. Leave it out."
        )
    return weights


def quantize_products(file: Path, weights: set[str], example: np.ndarray) -> tuple[float, float]:
    """
    Quantise `model.onnx`, in place.

    Args:
        weights: what [`list_linear_weights`] gave for the model.
        example: `input_values` (batch, num_samples) by which it is timed, an utterance at a time.

    Returns:
        Milliseconds of an utterance in float32 and in int8, on this machine and torch's number of threads.

    Raises:
        ImportError: a package of the extra `onnx` is missing.
        ValueError: int8 is not `SMALLEST_GAIN` times as fast. The file is as it was.
    """
    ir, optimizer = import_package("onnxscript").ir, import_package("onnxscript.optimizer")
    quantization = import_package("onnxruntime.quantization")
    exported = ir.load(file)
    products = [
        node.name
        for node in exported.graph
        if node.op_type in ("MatMul", "Gemm") and _find_source(node.inputs[1]) in weights
    ]
    folded, rounded = file.with_suffix(".folded"), file.with_suffix(".int8")
    optimizer.fold_constants(exported, input_size_limit=2**31, output_size_limit=2**31)  # transposed weights
    optimizer.remove_unused_nodes(exported)
    metadata = dict(exported.metadata_props)
    exported.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"  # or it asks for that
    ir.save(exported, folded)
    quantization.quantize_dynamic(
        folded,
        rounded,
        per_channel=True,
        nodes_to_quantize=products,
        extra_options={"MatMulConstBOnly": True},
    )
    folded.unlink()
    quantized = ir.load(rounded)  # in whose metadata onnxruntime has left notes
    quantized.metadata_props.clear()
    quantized.metadata_props.update(metadata)
    ir.save(quantized, rounded)
    before, after = time_both(file, rounded, example)
    if before < SMALLEST_GAIN * after:
        rounded.unlink()
        raise ValueError(
            f"An utterance takes {before:.1f} ms in float32 and {after:.1f} ms with the products with linear "
            f"layers' weights ({len(products)}) in int8, which is no gain: leave out --int8."
        )
    rounded.replace(file)
    return before, after


def time_both(first: Path, second: Path, example: np.ndarray) -> tuple[float, float]:
    """Milliseconds of an utterance by two exported models, which take turns."""
    sessions, seconds = [open_session(file) for file in (first, second)], ([], [])
    for repeat in range(REPEATS + 1):  # the first is not counted
        for session, times in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.run(["score"], {"input_values": example[repeat % len(example), None]})
            times.append(time.perf_counter() - started)
    return tuple(1000 * statistics.median(times[1:]) for times in seconds)


def _find_source(value) -> str | None:
    """The name, in the model, of the weights that a product takes as they are or transposed."""
    producer = value.producer()
    value = producer.inputs[0] if producer and producer.op_type == "Transpose" else value
    return value.name.removeprefix("model.")
