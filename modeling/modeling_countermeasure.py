"""What the models of all countermeasures have: labels and a loss that are asked for when weights are loaded,
the scores' threshold, what of a model is trained, and what makes a network a classifier."""

import os

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, XVectorOutput
from transformers.utils import can_return_tuple, logging

from .configuration_countermeasure import CountermeasureConfig
from .cosine_classifier import CosineClassifier, make_classifier
from .float32 import apply_unrounded
from .loss import LOSSES


logger = logging.get_logger(__name__)
# What says where and how a config is fetched, of the arguments of `from_pretrained`.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)


class CountermeasurePreTrainedModel(PreTrainedModel):
    """Base of the countermeasures' models. Their last layer is `classifier`, unless they have none."""

    main_input_name = "input_values"
    accepts_loss_kwargs = True  # `num_items_in_batch`, by the Trainer
    _keep_in_fp32_modules = ["classifier"]  # also where a library quantises what it finds
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # a network is read from a classifier's weights

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs):
        """
        As in [`PreTrainedModel`]; the config says how the logits are to be labelled, by `id2label` or
        otherwise. The labels of the weights in another order permute the last layer. Others make a new one,
        without a decision threshold, as another number of labels does, with `ignore_mismatched_sizes`. So
        does a loss, given by `loss`, that takes another last layer than that of the weights.

        Raises:
            ValueError: such labels or such a loss, without `ignore_mismatched_sizes`.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if pretrained_model_name_or_path is not None:
            hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
            try:  # of the model that an adapter is for, `name_or_path` is the one that was read
                saved = cls.config_class.from_pretrained(model.config.name_or_path, **hub_arguments)
            except OSError:  # weights without a config, which was given
                saved = model.config
            is_replaced = kwargs.get("ignore_mismatched_sizes", False)
            model._follow_labels(list_labels(saved), is_replaced=is_replaced)
            if model._follow_loss(saved.loss, is_replaced=is_replaced) and isinstance(loaded, tuple):
                keys = loaded[1]["mismatched_keys"]  # of `output_loading_info`: what did not fit
                loaded[1]["mismatched_keys"] = {key for key in keys if not key[0].startswith("classifier.")}
        if model._hf_peft_config_loaded:  # by which it is decided what is trained
            model._forget_decision()
        else:
            model.freeze()
        return loaded

    def get_input_embeddings(self) -> None:
        """None: a waveform has no tokens. (A library that quantises asks, to leave such embeddings alone.)"""

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """As in [`PreTrainedModel`]; the config names the saved code for each Auto class that can load it."""
        classes = [each for each in type(self).__mro__ if getattr(each, "_auto_class", None)]
        named = {each._auto_class: f"{each.__module__.split('.')[-1]}.{each.__name__}" for each in classes}
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **named}
        super().save_pretrained(save_directory, *args, **kwargs)

    def add_classifier(self, in_features: int, dropout: float = 0.0) -> None:
        """Make what follows embeddings (batch, in_features): in the network alone, nothing."""

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **inputs: torch.Tensor | None,
    ) -> BaseModelOutputWithPooling:
        """
        The network without its last layer, `embed`, whose docstring says what its states are.

        Args:
            input_values: (batch, num_samples) waveform at `config.sampling_rate`, amplitude in [-1, 1].
            attention_mask: (batch, num_samples), 0 in padding at the end, which not every model takes.
            output_hidden_states: whether to return all states, and not only the last.
            inputs: what else `embed` takes.

        Returns:
            `pooler_output` (batch, size), the embeddings, at least float32, and `last_hidden_state`.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        last, embeddings, states = self.embed(input_values, attention_mask, output_hidden_states, **inputs)
        return BaseModelOutputWithPooling(
            last_hidden_state=last,
            pooler_output=embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)),
            hidden_states=states if output_hidden_states else None,
        )

    @staticmethod
    def refuse_padding(attention_mask: torch.Tensor | None) -> None:
        """Raise a `ValueError` if a mask marks padding, of a model that takes waveforms of one length."""
        if attention_mask is not None and not attention_mask.all():
            raise ValueError(
                "attention_mask marks padding, but this model uses no mask: bring the waveforms to one "
                "length by its own feature extractor."
            )

    def _follow_labels(self, saved: list[str], *, is_replaced: bool) -> None:
        """Make the last layer that of the config's labels, from one of the saved labels."""
        labels, classifier = list_labels(self.config), getattr(self, "classifier", None)
        if labels == saved:
            return
        if sorted(labels) == sorted(saved):
            for tensor in () if classifier is None else (*classifier.parameters(), *classifier.buffers()):
                if len(tensor) > 1:  # OC-softmax has one direction
                    tensor.data = tensor.data[[saved.index(label) for label in labels]]
            return
        if not is_replaced:
            raise ValueError(
                f"The weights are of the labels {', '.join(saved)}, not of {', '.join(labels)}. Pass "
                "ignore_mismatched_sizes=True for a new last layer, which has to be trained; to keep the "
                "trained one under other names, load it without them and set config.id2label and label2id."
            )
        logger.warning(
            f"The weights are of the labels {', '.join(saved)}: for {', '.join(labels)} the last layer is "
            "new and has to be trained."
        )
        self._forget_decision()
        if classifier is not None:
            classifier.reset_parameters()

    def _follow_loss(self, saved: str, *, is_replaced: bool) -> bool:
        """Make a new last layer where the config's loss takes another than the saved one; say whether so."""
        loss, of_cosines = self.config.loss, self.config.losses_of_cosines
        is_linear = saved not in of_cosines and loss not in of_cosines
        if saved == loss or is_linear or not hasattr(self, "classifier"):
            return False
        found = f"The weights were trained with the loss {saved}; {loss} takes another last layer"
        if not is_replaced:
            raise ValueError(f"{found}. Pass ignore_mismatched_sizes=True for a new one, to be trained.")
        logger.warning(f"{found}, which is new and has to be trained.")
        self._forget_decision()
        self.classifier.reset_parameters()
        return True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CosineClassifier):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def loss_function(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | None:
        """
        The loss `config.loss` of this model's logits (batch, num_labels) and class indices (batch,), in which
        an utterance counts as `config.class_weights`, by label name, weigh its class; `None` where there are
        no class indices. (The library's is chosen by the name of the class.)

        By itself it is the weighted mean over the batch. Of a part of an optimizer step it is a sum, divided
        by `num_items_in_batch`, the number of utterances in the whole step: the parts add up to one loss,
        however the step is divided. An utterance may count there as its class's weight over the mean of the
        weights, as `AntiSpoofingTrainer` counts, whose loss is the weighted mean of the step; the library's
        `Trainer` counts it as 1.
        """
        if labels is None:
            return None
        if self.config.loss in self.config.losses_of_cosines:  # whose shift by a threshold is not trained
            logits = logits - self.classifier.bias.to(logits)
        losses = LOSSES[self.config.loss](logits, labels, self.config)  # (batch,)
        weights = logits.new_tensor(self.config.normalized_class_weights)[labels]
        return (weights * losses).sum() / (
            weights.sum() if num_items_in_batch is None else num_items_in_batch
        )

    def freeze(self) -> None:
        """Take gradients from what the config says is not trained; `from_pretrained` gives them to all."""

    def train(self, mode: bool = True) -> "CountermeasurePreTrainedModel":
        """As in `nn.Module`; decision threshold and calibration do not survive training, which changes the
        weights."""
        if mode:
            self._forget_decision()
        return super().train(mode)

    def _forget_decision(self) -> None:
        """Drop what holds only for the weights as they were."""
        self.config.decision_threshold = self.config.calibration = None

    def calibrate(self, logits: torch.Tensor) -> torch.Tensor:
        """
        The logits (batch, 2) as they are, or, where the config has a calibration, half of the log-likelihood
        ratio, for spoof with the other sign: their softmax, which `pipeline` gives, is then the probability
        of each label at equal priors. Between the calibration's bounds, to which it is cut, the score is
        ((logit of bona fide - logit of spoof) - b) / a.
        """
        calibration = self.config.calibration
        if calibration is None:
            return logits
        signs = logits.new_tensor([1.0 if name == "bonafide" else -1.0 for name in list_labels(self.config)])
        llrs = calibration["a"] * (logits @ signs) + calibration["b"]  # (batch,)
        llrs = llrs.clamp(*calibration.get("bounds", (-torch.inf, torch.inf)))
        return llrs[:, None] * signs / 2

    @torch.no_grad()
    def set_decision_threshold(self, threshold: float) -> None:
        """
        Set above which score an utterance is bona fide. The bias of the last layer is shifted, half for each
        label, so that this is 0: then the higher logit, which `pipeline` names, is the verdict. A calibration
        of the scores as they were is dropped. A model without a last layer keeps its scores, and the config
        has the threshold.
        """
        if hasattr(self, "classifier"):
            for label, shift in (("bonafide", -threshold / 2), ("spoof", threshold / 2)):
                self.classifier.bias[self.config.label2id[label]] += shift
            threshold, self.config.calibration = 0.0, None
        self.config.decision_threshold = threshold


class CountermeasureForAudioClassification:
    """
    What makes a classifier of a network, the next base class: dropout and a last layer on its embeddings.

    The score of an utterance is the logit of bona fide minus the logit of spoof; `config.id2label` says which
    is which.
    """

    _keys_to_ignore_on_load_unexpected = None
    make_classifier = staticmethod(make_classifier)

    def add_classifier(self, in_features: int, dropout: float = 0.0) -> None:
        self.dropout = nn.Dropout(dropout)
        self.classifier = self.make_classifier(in_features, self.config)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        attention_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **inputs: torch.Tensor | None,
    ) -> XVectorOutput:
        """
        Args:
            input_values: (batch, num_samples) waveform at `config.sampling_rate`, amplitude in [-1, 1].
            labels: (batch,) class indices in the order of `config.id2label`.
            output_hidden_states, attention_mask, inputs: as for the network.
            num_items_in_batch: utterances of the whole optimizer step; see `loss_function`.

        Returns:
            `logits` (batch, num_labels), `embeddings` (batch, size), which they are made of, before dropout,
            and, where labels are given, `config.loss` of the logits as `loss`.
        """
        outputs = super().forward(
            input_values, attention_mask, output_hidden_states, return_dict=True, **inputs
        )
        embeddings = outputs.pooler_output
        logits = apply_unrounded(self.classifier, self.dropout(embeddings))
        return XVectorOutput(
            loss=self.loss_function(logits, labels, num_items_in_batch),
            logits=self.calibrate(logits),
            embeddings=embeddings,
            hidden_states=outputs.hidden_states,
        )


def list_labels(config: CountermeasureConfig) -> list[str]:
    """Labels in the order of the logits."""
    return [config.id2label[index] for index in range(config.num_labels)]


__all__ = ["CountermeasureForAudioClassification", "CountermeasurePreTrainedModel", "list_labels"]
