"""Configuration of the anti-spoofing model on a pretrained speech encoder."""

import copy
from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, Wav2Vec2Config

from .configuration_countermeasure import CountermeasureConfig


# Of the encoder's own config: what masks its input or leaves blocks out.
TURNED_OFF = ("mask_time_prob", "mask_feature_prob", "layerdrop", "encoder_layerdrop")
WHISPER_WINDOW_LENGTH = 400  # samples, of its log-mel spectrogram, and the points of its Fourier transform
WHISPER_HOP_LENGTH = 160  # samples; two hops make one position of the encoder


@strict
class Wav2Vec2AntiSpoofingConfig(CountermeasureConfig):
    r"""
    Configuration of [`Wav2Vec2AntiSpoofingForAudioClassification`]: an encoder of the wav2vec 2.0 family
    (Baevski et al., NeurIPS 2020) or of Whisper (Radford et al., ICML 2023), of which none, some or all
    transformer blocks are trained, and a small classification head. The defaults give the study's frozen
    baseline on wav2vec 2.0 base, with 94,568,322 parameters.

    Args:
        encoder_config: config of the encoder, of model type `"wav2vec2"` (which includes XLS-R and MMS),
            `"hubert"`, `"wavlm"`, `"unispeech-sat"`, `"data2vec-audio"` or `"whisper"`, whose decoder is left
            out; defaults to `Wav2Vec2Config()`, the sizes of wav2vec 2.0 base. Masking and layerdrop are
            always off: in the copy that is kept, `mask_time_prob`, `mask_feature_prob` and `layerdrop` (in
            Whisper `encoder_layerdrop`) are 0.
        num_trainable_layers: how many of the topmost transformer blocks are trained; `"all"` for all of them.
            What lies below is frozen: it has no gradients and stays in eval mode. A layer norm above the last
            block is trained with it. (The study's card calls 4 of them `freeze_last_n=4`.)
        train_feature_encoder: whether the convolutional feature encoder is trained, in Whisper its two
            convolutions of the log-mel spectrogram.
        train_feature_projection: whether the projection of the convolutions' output to the width of the
            transformer is trained.
        train_positional_convolution: whether the positional convolution, and the layer norm between it and
            the first block where there is one, are trained. All three need all blocks to be trained. Whisper
            has neither this nor the projection: its positions are fixed.
        encoder_gradient_factor: by what the gradient that reaches the encoder from the head is multiplied, as
            `feature_grad_mult` of WavLM + MHFA (Peng et al., SLT 2022); the head's own gradient is not.
        use_weighted_layer_sum: whether the head sees the mean of the first block's input and all blocks'
            outputs, weighted by the softmax of trained weights (as in SUPERB, Yang et al., Interspeech 2021),
            instead of the last block's output. A layer norm above the last block has been applied to that
            block's output. Not with a back end of all layers.
        backend: what makes one vector of the blocks' outputs: `"mean"` over time; `"attentive"`, a mean
            weighted by a trained attention over frames (Okabe et al., Interspeech 2018, without its standard
            deviations); `"aasist"`, the residual blocks and graph attention of AASIST (Tak et al., Odyssey
            2022); `"nes2net"`, Nes2Net-X (Liu et al., IEEE TIFS 2025); or, of all layers, `"mhfa"`,
            multi-head factorized attentive pooling (Peng et al., SLT 2022), and `"sls"`, sensitive layer
            selection (Zhang et al., ACM Multimedia 2024).
        attention_size: width of the attention of attentive pooling, and of the keys and values of MHFA.
        attention_heads: heads of MHFA.
        classifier_proj_size: width of the vector that the last layer gets; not of `"aasist"`, where it is
            160, nor of `"nes2net"`, where it is the width of the encoder.
        classifier_dropout: dropout of that vector.
        num_samples: length of the input in samples, of Whisper at most its positions' 30 s; `None` for whole
            utterances, which needs an encoder whose convolutions are normalised by layer norms
            (`feat_extract_norm: layer`, as in XLS-R), and another back end than SLS or AASIST.
        sampling_rate, class_weights, loss, …: see `CountermeasureConfig`.

    Example:

    ```python
    >>> from modeling import Wav2Vec2AntiSpoofingConfig, Wav2Vec2AntiSpoofingForAudioClassification

    >>> configuration = Wav2Vec2AntiSpoofingConfig(num_trainable_layers=4)
    >>> model = Wav2Vec2AntiSpoofingForAudioClassification(configuration)
    >>> model.num_parameters(only_trainable=True)
    28548866
    ```"""

    model_type = "wav2vec2-antispoofing"
    sub_configs = {"encoder_config": AutoConfig}
    encoder_types: ClassVar[tuple[str, ...]] = (
        *("wav2vec2", "hubert", "wavlm", "unispeech-sat", "data2vec-audio"),  # wav2vec2 includes XLS-R, MMS
        "whisper",
    )
    backends_of_all_layers: ClassVar[tuple[str, ...]] = ("mhfa", "sls")
    backends_of_one_length: ClassVar[tuple[str, ...]] = ("sls", "aasist")
    training_fields: ClassVar[tuple[str, ...]] = (
        *CountermeasureConfig.training_fields,
        "num_trainable_layers",
        "train_feature_encoder",
        "train_feature_projection",
        "train_positional_convolution",
        "encoder_gradient_factor",
    )

    num_samples: int | None = 64000
    encoder_config: dict | PreTrainedConfig | None = None
    num_trainable_layers: int | str = 0
    train_feature_encoder: bool = False
    train_feature_projection: bool = False
    train_positional_convolution: bool = False
    encoder_gradient_factor: float | int = 1.0
    use_weighted_layer_sum: bool = False
    backend: Literal["mean", "attentive", "mhfa", "sls", "aasist", "nes2net"] = "mean"
    attention_size: int = 128
    attention_heads: int = 32
    classifier_proj_size: int = 256
    classifier_dropout: float | int = 0.1

    def __post_init__(self, **kwargs):
        encoder = Wav2Vec2Config() if self.encoder_config is None else copy.deepcopy(self.encoder_config)
        model_type = encoder.get("model_type") if isinstance(encoder, dict) else encoder.model_type
        if model_type not in self.encoder_types:
            raise ValueError(
                f"encoder_config: model_type {model_type!r} is not one of {', '.join(self.encoder_types)}."
            )
        self.encoder_config = AutoConfig.for_model(**encoder) if isinstance(encoder, dict) else encoder
        for name in TURNED_OFF:
            if hasattr(self.encoder_config, name):
                setattr(self.encoder_config, name, 0.0)
        super().__post_init__(**kwargs)

    @property
    def num_frozen_layers(self) -> int:
        """Transformer blocks, counted from the first, that are not trained."""
        if self.num_trainable_layers == "all":
            return 0
        return self.encoder_config.num_hidden_layers - self.num_trainable_layers

    @property
    def has_frozen_trunk(self) -> bool:
        """Whether the encoder up to the first trained block is frozen."""
        return not (
            self.train_feature_encoder or self.train_feature_projection or self.train_positional_convolution
        )

    @property
    def needs_all_layers(self) -> bool:
        """Whether the head takes the first block's input and all blocks' outputs, not the last one alone."""
        return self.use_weighted_layer_sum or self.backend in self.backends_of_all_layers

    @property
    def has_last_norm(self) -> bool:
        """Whether a layer norm that the encoder has above its last block is applied; SLS goes without."""
        return self.backend != "sls"

    @property
    def takes_padding(self) -> bool:
        """Whether padding that an `attention_mask` marks leaves an utterance's logits as they are. Not where
        the back end takes one length, nor where the encoder's lower part sees what is padded."""
        is_normalized_by_frame = getattr(self.encoder_config, "feat_extract_norm", None) == "layer"
        return is_normalized_by_frame and self.backend not in self.backends_of_one_length

    def count_frames(self, num_samples: int) -> int:
        """Frames that the encoder makes of so many samples; of a tensor of lengths as well."""
        if self.encoder_config.model_type == "whisper":
            return (num_samples // WHISPER_HOP_LENGTH + 1) // 2
        frames = num_samples
        convolutions = zip(self.encoder_config.conv_kernel, self.encoder_config.conv_stride, strict=True)
        for kernel, stride in convolutions:
            frames = (frames - kernel) // stride + 1
        return frames

    def validate_encoder(self):
        if getattr(self.encoder_config, "add_adapter", False):
            raise ValueError("encoder_config: add_adapter must be False; the head takes the blocks' frames.")
        if self.sampling_rate != 16000:
            raise ValueError(f"sampling_rate {self.sampling_rate}: the encoders take 16000 Hz.")

    def validate_trainable(self):
        total = self.encoder_config.num_hidden_layers
        number = self.num_trainable_layers
        if number != "all" and (isinstance(number, str) or not 0 <= number <= total):
            raise ValueError(
                f"num_trainable_layers {number!r} is neither 'all' nor a number from 0 to {total}, the "
                "encoder's blocks."
            )
        if not self.has_frozen_trunk and self.num_frozen_layers:
            raise ValueError(
                "train_feature_encoder, train_feature_projection and train_positional_convolution need all "
                f"blocks to be trained, num_trainable_layers 'all' and not {number!r}: they lie below them."
            )
        if self.encoder_config.model_type == "whisper" and (
            self.train_feature_projection or self.train_positional_convolution
        ):
            raise ValueError(
                "train_feature_projection and train_positional_convolution must be false: below its blocks, "
                "Whisper's encoder has only convolutions (train_feature_encoder) and fixed positions."
            )

    def validate_gradient_factor(self):
        self.check_at_least(0, "encoder_gradient_factor")

    def validate_head(self):
        self.check_at_least(1, "attention_size", "attention_heads", "classifier_proj_size")
        if self.use_weighted_layer_sum and self.backend in self.backends_of_all_layers:
            raise ValueError(
                f"use_weighted_layer_sum leaves one layer, but backend {self.backend!r} weighs all layers "
                "itself: leave it false."
            )
        if self.backend == "nes2net" and self.encoder_config.hidden_size % 64:
            raise ValueError(
                f"backend 'nes2net' divides the encoder's width by 64, and {self.encoder_config.hidden_size} "
                "is no multiple of it: take another encoder or back end."
            )

    def validate_length(self):
        if self.num_samples is None and not self.takes_padding:
            raise ValueError(
                f"num_samples None, whole utterances, is not for backend {self.backend!r} on this encoder: "
                "give a number."
            )
        if self.encoder_config.model_type == "whisper":
            self.check_length(WHISPER_WINDOW_LENGTH // 2 + 1, "Whisper's log-mel spectrogram needs")
            positions = self.encoder_config.max_source_positions
            longest = (2 * positions + 1) * WHISPER_HOP_LENGTH - 1
            if self.num_samples > longest:
                raise ValueError(
                    f"num_samples {self.num_samples} is too long: the encoder has {positions} positions, "
                    f"which are at most {longest} samples."
                )
            return
        convolutions = zip(self.encoder_config.conv_kernel, self.encoder_config.conv_stride, strict=True)
        # What the convolutions make one frame of, or three, which are pooled, from the last to the first.
        shortest = 3 if self.backend in self.backends_of_one_length else 1
        for kernel, stride in reversed(list(convolutions)):
            shortest = (shortest - 1) * stride + kernel
        self.check_length(shortest, "the encoder's convolutions and the back end need")


__all__ = ["Wav2Vec2AntiSpoofingConfig"]
