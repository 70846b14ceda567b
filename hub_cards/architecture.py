"""A model's architecture in words, filled from its config: no row states what the config does not hold."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from .tables import number


Rows = list[tuple[str, str]]
# Of every config, and not of the network.
NOT_OF_THE_NETWORK = {
    "architectures",
    "auto_map",
    "class_weights",
    "decision_threshold",
    "dtype",
    "id2label",
    "label2id",
    "model_type",
    "num_samples",
    "sampling_rate",
    "transformers_version",
}


def architecture_rows(config: Mapping) -> Rows:
    """
    Component and value of each part of the network, in the order in which data flows.

    Args:
        config: the content of `config.json`; of an unknown model type, its fields are the rows.

    Raises:
        ValueError: a field is missing.
    """
    model_type = config.get("model_type")
    describe = DESCRIPTIONS.get(model_type, _fields)
    try:
        return describe(config)
    except KeyError as error:
        raise ValueError(
            f"config.json of model type {model_type} lacks {error}: load the model and save it anew by "
            "save_pretrained."
        ) from error


def input_rows(config: Mapping, extractor: Mapping) -> Rows:
    """
    What the network is given.

    Args:
        config: the content of `config.json`.
        extractor: the content of `preprocessor_config.json`.
    """
    rate, samples = _rate_and_samples(config, extractor)
    waveform = f"mono waveform at {number(rate)} Hz, amplitude in [-1, 1]"
    if samples is None:
        crop = "none: whole utterances, zero-padded in a batch; an attention mask leaves the padding out"
        rows = [("Input", waveform), ("Crop", crop)]
    else:
        padding = {"repeat": "tiled (repeated)", "zero": "zero-padded at the end"}
        padding = padding.get(extractor.get("padding"), f"padded ({extractor.get('padding', 'not stated')})")
        rows = [
            ("Input", f"{waveform}: {number(samples)} samples ({samples / rate:g} s)"),
            ("Longer recordings", f"cropped: the first {number(samples)} samples"),
            ("Shorter recordings", f"{padding} to {number(samples)} samples"),
        ]
    if extractor.get("do_normalize"):
        rows.append(("Normalisation", "each crop to zero mean and unit variance"))
    return rows


def input_seconds(config: Mapping, extractor: Mapping) -> float | None:
    """Length of the crop, `None` where whole utterances are taken; args as [`input_rows`]."""
    rate, samples = _rate_and_samples(config, extractor)
    return None if samples is None else samples / rate


def _rate_and_samples(config: Mapping, extractor: Mapping) -> tuple[int, int | None]:
    """
    Raises:
        ValueError: neither of both states them.
    """
    values = []
    for name in ("sampling_rate", "num_samples"):
        source = extractor if name in extractor else config
        if name not in source:
            raise ValueError(f"Neither preprocessor_config.json nor config.json states {name}.")
        values.append(source[name])
    return values[0], values[1]


def _rawnet2(config: Mapping) -> Rows:
    slope = f"LeakyReLU({config['leaky_relu_slope']:g})"
    before = f"batch norm, {slope} (not in the first block), " if config["pre_activation"] else ""
    return [
        _sinc_bank(config),
        ("After the bank", "absolute value, max-pooling by 3, batch norm, SELU"),
        *_stages(config["block_channels"]),
        (
            "Each block",
            f"{before}convolution(3), batch norm, {slope}, convolution(3), skip connection (1×1 convolution "
            "where channels change), max-pooling by 3, filter-wise feature map scaling x·s + s",
        ),
        (
            "GRU",
            f"batch norm and SELU, then {_count(config['num_gru_layers'], 'layer')} of "
            f"{number(config['gru_hidden_size'])}, last step",
        ),
        ("Embedding", _linear(config["gru_hidden_size"], config["embedding_size"])),
        ("Classifier", _linear(config["embedding_size"], _num_labels(config))),
    ]


def _aasist(config: Mapping) -> Rows:
    before = "batch norm, SELU (not in the first block), " if config["pre_activation"] else ""
    size, heterogeneous = number(config["graph_size"]), config["heterogeneous_graph_size"]
    ratios, temperatures = config["pool_ratios"], config["temperatures"]
    graphs = "graph attention to width {} at temperature {:g}, graph pooling keeps {:g} of the nodes"
    spectral, temporal = (graphs.format(size, temperatures[i], ratios[i]) for i in (0, 1))
    return [
        _sinc_bank(config),
        ("After the bank", "absolute value, max-pooling by 3 × 3 (bands, frames), batch norm, SELU"),
        *_stages(config["block_channels"]),
        (
            "Each block",
            f"{before}convolution(2×3), batch norm, SELU, convolution(2×3), skip connection (1×3 convolution "
            "where channels change), max-pooling by 3 over frames",
        ),
        (
            "Spectral graph",
            f"largest magnitude over frames, {config['sinc_filters'] // 3} nodes with learnt positions; "
            f"{spectral}",
        ),
        ("Temporal graph", f"largest magnitude over bands, a node per frame; {temporal}"),
        (
            "Max graph operation",
            "larger of two branches, each of two heterogeneous stacking graph attention layers to width "
            f"{number(heterogeneous)} at temperature {temperatures[2]:g} with a stack node; graph pooling "
            f"keeps {ratios[2]:g} of the nodes after the first",
        ),
        ("Readout", "largest magnitude and mean of both kinds of nodes, and the stack node"),
        (
            "Classifier",
            f"dropout {config['classifier_dropout']:g}, {_linear(5 * heterogeneous, _num_labels(config))}",
        ),
    ]


def _sinc_bank(config: Mapping) -> tuple[str, str]:
    taps = config["sinc_filter_length"] // 2 * 2 + 1  # an even length is raised by one
    kind = "learnable" if config["sinc_learnable"] else "fixed (not learnable)"
    return (
        "Sinc filter bank",
        f"{number(config['sinc_filters'])} filters of {taps} taps, {config['sinc_scale']} scale from "
        f"{number(config['sinc_min_frequency'])} to {number(config['sinc_max_frequency'])} Hz, {kind}",
    )


def _stages(channels: Sequence[int]) -> Rows:
    """Neighbouring blocks of as many channels are a stage."""
    stages = [(width, len(list(group))) for width, group in groupby(channels)]
    return [
        (f"Residual blocks, stage {i}", f"{count} × {number(width)} channels")
        for i, (width, count) in enumerate(stages, start=1)
    ]


def _wav2vec2(config: Mapping) -> Rows:
    encoder = config["encoder_config"]
    hidden, layers = encoder["hidden_size"], encoder["num_hidden_layers"]
    projection = config["classifier_proj_size"]
    seen = "last block's output"
    if config["use_weighted_layer_sum"]:
        seen = "sum of the first block's input and all blocks' outputs with trained weights"
    pooling = "mean over time"
    if config["pooling"] == "attentive":
        pooling = f"attentive (width {number(config['attention_size'])})"
    return [
        ("Encoder", f"{encoder['model_type']}, {_count(layers, 'transformer block')} of width {hidden}"),
        ("Trained in the encoder", _trained_part(config, layers)),
        (
            "Masking in training",
            f"`mask_time_prob` {encoder['mask_time_prob']:g}, `mask_feature_prob` "
            f"{encoder['mask_feature_prob']:g}, layerdrop {encoder['layerdrop']:g}",
        ),
        ("What the head sees", f"{seen}; pooling: {pooling}"),
        (
            "Classification head",
            f"{_linear(hidden, projection)}, GELU, dropout {config['classifier_dropout']:g}, "
            f"{_linear(projection, _num_labels(config))}",
        ),
    ]


def _trained_part(config: Mapping, num_layers: int) -> str:
    trained = config["num_trainable_layers"]
    if trained == 0:
        return "nothing: the encoder is frozen"
    if trained not in ("all", num_layers):
        return f"the top {_count(trained, 'transformer block')}; everything below is frozen"
    parts = {
        "train_positional_convolution": "positional convolution",
        "train_feature_projection": "feature projection",
        "train_feature_encoder": "convolutional feature encoder",
    }
    also = [name for key, name in parts.items() if config[key]]
    frozen = [name for key, name in parts.items() if not config[key]]
    text = ", ".join(["all transformer blocks", *also])
    return f"{text}; frozen: {', '.join(frozen)}" if frozen else text


def _lcnn(config: Mapping) -> Rows:
    sizes = zip(config["channels"], config["kernel_sizes"], config["pool_sizes"], strict=True)
    return [
        ("Front end", _cqt(config) if config["front_end"] == "cqt" else _lfcc(config)),
        *(
            (
                f"Convolution {i}",
                f"{kernel}×{kernel}, {2 * channels} channels, max-feature-map to {channels}, max-pooling by "
                f"{pool}, batch norm",
            )
            for i, (channels, kernel, pool) in enumerate(sizes, start=1)
        ),
        (
            "Fully connected",
            f"{number(2 * config['fc_size'])}, max-feature-map to {number(config['fc_size'])}, dropout "
            f"{config['dropout']:g}",
        ),
        ("Classifier", _linear(config["fc_size"], _num_labels(config))),
    ]


def _lfcc_gmm(config: Mapping) -> Rows:
    features = (1 + config["lfcc_num_deltas"]) * config["lfcc_num_coefficients"]
    components = _count(config["num_components"], "Gaussian component")
    return [
        ("Front end", _lfcc(config)),
        (
            "Models",
            f"one mixture per class: {components} with diagonal covariances of {features} features each",
        ),
        ("Logits", "mean log-likelihood per frame under each class's mixture"),
    ]


def _lfcc(config: Mapping) -> str:
    rate = config["sampling_rate"]
    deltas = ["", " with delta", " with delta and double delta"][config["lfcc_num_deltas"]]
    total = (1 + config["lfcc_num_deltas"]) * config["lfcc_num_coefficients"]
    energy = ", the zeroth replaced by the log energy" if config["lfcc_use_energy"] else ""
    emphasis = config["lfcc_pre_emphasis"]
    snapped = ", edges at bins of the FFT" if config.get("lfcc_snap_to_bins") else ""
    return (
        f"LFCC: {config['lfcc_num_coefficients']} coefficients{energy}{deltas} = {total} features; windows "
        f"of {1000 * config['lfcc_window_length'] / rate:g} ms every "
        f"{1000 * config['lfcc_hop_length'] / rate:g} ms, {config['lfcc_fft_size']}-point FFT, "
        f"{config['lfcc_num_filters']} linear filters from {number(config['lfcc_min_frequency'])} to "
        f"{number(config['lfcc_max_frequency'])} Hz{snapped}, "
        + (f"pre-emphasis {emphasis:g}" if emphasis else "no pre-emphasis")
    )


def _cqt(config: Mapping) -> str:
    low, bins, per_octave = (
        config[f"cqt_{name}"] for name in ("min_frequency", "num_bins", "bins_per_octave")
    )
    return (
        f"constant-Q transform (log power): {bins} bins, {per_octave} per octave, from {number(low)} Hz to "
        f"{number(low * 2 ** (bins / per_octave))} Hz, every "
        f"{1000 * config['cqt_hop_length'] / config['sampling_rate']:g} ms"
    )


def _fields(config: Mapping) -> Rows:
    """The config's own fields, of a model type that is not known here."""
    rows = [("Model type", str(config.get("model_type", "not stated")))]
    for key, value in config.items():
        if key not in NOT_OF_THE_NETWORK:
            rows.append((f"`{key}`", f"`{json.dumps(value)}`"))
    return rows


def _linear(inputs: int, outputs: int) -> str:
    return f"linear({number(inputs)} → {number(outputs)})"


def _count(count: int, noun: str) -> str:
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def _num_labels(config: Mapping) -> int:
    return len(config["id2label"])


DESCRIPTIONS: dict[str, Callable[[Mapping], Rows]] = {
    "aasist": _aasist,
    "rawnet2": _rawnet2,
    "wav2vec2-antispoofing": _wav2vec2,
    "lcnn": _lcnn,
    "lfcc-gmm": _lfcc_gmm,
}
