"""
The parser of the command line, and what corpora and training can be told on it, but for `TrainingArguments`.
Imports nothing that takes long, so that help and errors are there at once.
"""

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg, string_to_bool

from .corpus_names import CORPORA, DEMO
from .near_names import suggest


if TYPE_CHECKING:
    from transformers import TrainingArguments

RANDOM = "none"  # instead of a base model: random initial weights
SWA = "swa"  # instead of a number of checkpoints to average: stochastic weight averaging


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of every argument that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class ArgumentParser(HfArgumentParser):
    """
    [`HfArgumentParser`] with defaults that are known only once some arguments have been read, and with errors
    of one line that give the nearest name.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)
        for action in self._actions:  # a flag without a default is true where it stands alone, as the others
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def peek(self, argv: list[str], *names: str) -> argparse.Namespace:
        """Values of a few arguments, `None` where the command line does not give them."""
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        early.error = self.error
        for action in self._actions:
            if action.dest in names:
                early.add_argument(*action.option_strings, nargs=action.nargs)
        return early.parse_known_args(argv)[0]

    def parse(self, argv: list[str]) -> tuple[tuple, dict]:
        """
        The dataclasses, and by name what of them the command line gives. Defaults that are text are converted
        as if the command line gave them. An argument that is not known or not valid ends the program.
        """
        values, unknown = self.parse_known_args(argv)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            self.error(f"unknown argument {unknown[0]}{suggest(unknown[0].split('=')[0], options)}")
        for action in self._actions:  # argparse does not check defaults
            value = getattr(values, action.dest, None)
            if action.choices and value is not None and action.nargs != "+" and value not in action.choices:
                self.error(f"{action.dest} {value!r} is not one of {', '.join(map(str, action.choices))}")
        options = {token.split("=")[0] for token in argv}
        try:
            groups = self.parse_dict(vars(values), allow_extra_keys=True)
        except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:  # of the dataclasses
            self.error(str(error))
        given = {}
        for action in self._actions:
            if options & set(action.option_strings):
                given[action.dest] = getattr(values, action.dest)
        for group in groups:  # JSON, which a dataclass reads when it is made
            read = {k: v for k, v in vars(group).items() if isinstance(v, (dict, list))}
            given |= {k: v for k, v in read.items() if str(given.get(k)).startswith(("{", "["))}
        return groups, given


@dataclass
class CorpusArguments:
    """Which corpus, and how to read it."""

    _argument_group_name = "corpus"

    dataset: list[str] | None = HfArg(
        default=None,
        help=f"Corpus: {', '.join([*CORPORA, DEMO])}, a folder, or the id of a data set on the Hub. "
        "Several, the named ones by their folders, are pooled; NAME:2 is seen twice in an epoch of training. "
        "Without it, the layout of --data_dir decides; without both, the demo corpus is used.",
    )
    data_dir: str | None = HfArg(default=None, help="Folder of the corpus.")
    allow_missing: bool = HfArg(
        default=False, help="Leave out listed utterances without audio, and record their count."
    )
    allow_unreadable: bool = HfArg(
        default=False, help="Leave out recordings that cannot be read, and record their count."
    )
    dataset_config: str | None = HfArg(
        default=None, help="Configuration of a data set on the Hub that has several."
    )
    audio_column: str | None = HfArg(default=None, help="Audio column, where it cannot be guessed.")
    label_column: str | None = HfArg(default=None, help="Label column, where it cannot be guessed.")
    label_map: str | None = HfArg(
        default=None,
        help="What labels mean that are spelt otherwise, of the corpus or of --model of eval.py: "
        "real=bonafide,deepfake=spoof,0=bonafide.",
    )
    id_column: str | None = HfArg(default=None, help="Column of the utterance id; default: file names.")
    speaker_column: str | None = HfArg(default=None, help="Column of the speaker.")
    attack_column: str | None = HfArg(default=None, help="Column of the attack.")
    breakdown: list[str] | None = HfArg(
        default=None,
        help="Columns by which results are broken down, beside the corpus's own: speaker_id, gender, …",
    )

    def __post_init__(self):
        if isinstance(self.dataset, str):
            self.dataset = [self.dataset]

    @property
    def is_demo(self) -> bool:
        """Whether the demo corpus alone is meant: by name, or because none is named."""
        return self.dataset == [DEMO] or (self.dataset is None and self.data_dir is None)


@dataclass
class SplitArguments:
    """Which splits of the corpus."""

    _argument_group_name = "splits"

    train_split: str = HfArg(
        default="train",
        help="Split to train on; may be a slice, train[:90%%]; of several corpora one for all that have it, "
        "or a list of one for each, - for none: 'train, train[:90%%], -'. Also of the other splits.",
    )
    dev_split: str = HfArg(default="dev", help="Split for model choice; may be a slice, train[90%%:].")
    eval_split: str = HfArg(default="eval", help="Split to evaluate on at the end, where there is one.")


@dataclass
class GradientArguments:
    """What training by gradient can be told beside `TrainingArguments`."""

    _argument_group_name = "training by gradient (all systems but lfcc-gmm)"

    crop: str = HfArg(
        default="start",
        help="Where training crops: start or random.",
        metadata={"choices": ["start", "random"]},
    )
    augmentation: list[dict] | str | None = HfArg(
        default=None,
        help="How training utterances are changed before the crop, as JSON, one after the other: "
        """'[{"rawboost": {"algorithm": 5}, "probability": 0.5}]'; '[]' for none.""",
    )
    optimizer: str | None = HfArg(
        default=None,
        help="adam: torch.optim.Adam instead of --optim, its weight decay as an L2 term in the "
        "gradient of every parameter.",
        metadata={"choices": ["adam"]},
    )
    layer_decay: float | None = HfArg(
        default=None,
        help="Systems on a pretrained encoder: what the learning rate is multiplied by from layer to layer, "
        "from the head, which has --learning_rate, down: 0.9. 1: all have the same.",
    )
    lora_rank: int | None = HfArg(
        default=None,
        help="Systems on a pretrained encoder: train low-rank adapters of this rank in all blocks (LoRA, by "
        "peft) instead of the encoder's own weights. 0: none.",
    )
    cache_frozen_trunk: bool = HfArg(
        default=False,
        help="Compute what the frozen part of the model gives of every utterance once, keep it on "
        "disk, and train on that.",
    )
    streaming: bool = HfArg(
        default=False,
        help="Read the training data from where they are in each epoch, instead of downloading them; of a "
        "data set of Parquet files, whose dev and eval are downloaded.",
    )
    shuffle_buffer: int = HfArg(
        default=1000, help="Utterances that each worker shuffles at a time, with --streaming."
    )
    early_stopping_patience: int | None = HfArg(
        default=None, help="Stop after so many evaluations in a row without a lower dev EER."
    )
    average_checkpoints: str | None = HfArg(
        default=None,
        help="Average the parameters of so many checkpoints of lowest dev EER; or swa: of all whose dev EER "
        "is at most the lowest before, and at most 1%%. The average is kept unless the dev EER of the best "
        "checkpoint is lower. 1: no average.",
    )

    def __post_init__(self):
        if isinstance(self.augmentation, str):
            try:
                self.augmentation = json.loads(self.augmentation)
            except ValueError as error:
                raise ValueError(f"augmentation {self.augmentation!r} is not valid JSON: {error}") from error
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay {self.layer_decay} must be above 0 and at most 1.")
        if self.shuffle_buffer < 1:
            raise ValueError(f"shuffle_buffer {self.shuffle_buffer} must be at least 1.")
        if self.lora_rank is not None and self.lora_rank < 0:
            raise ValueError(f"lora_rank {self.lora_rank} must be at least 1, or 0 for none.")
        value = self.average_checkpoints
        if value not in (None, SWA) and not (value.isdecimal() and int(value) > 0):
            raise ValueError(f"average_checkpoints {value!r} is neither a number of checkpoints nor {SWA}.")

    @property
    def is_averaging(self) -> bool:
        """Whether checkpoints are averaged at the end of training."""
        return self.average_checkpoints not in (None, "1")


@dataclass(frozen=True)
class EMSettings:
    """Settings of [`train_gmm`]."""

    num_iterations: int = 30  # at most
    tolerance: float = 1e-4  # EM stops once an iteration gains less log-likelihood per frame, in nats
    variance_floor: float = 1e-3  # smallest variance of a component, relative to the variance of all frames
    sample_frames: int = 100_000  # drawn for the start by k-means++, about 200 a component
    seed: int | None = 0  # of that draw and of k-means++; `None` starts from the mixture's own parameters

    def __post_init__(self):
        if self.num_iterations < 1 or not 0 <= self.variance_floor < 1:
            raise ValueError(
                f"num_iterations {self.num_iterations} must be at least 1, and variance_floor "
                f"{self.variance_floor} from 0 to below 1."
            )


@dataclass
class EMArguments:
    """Settings of EM beside its iterations (`num_train_epochs`) and its `seed`; see [`EMSettings`]."""

    _argument_group_name = "lfcc-gmm only"
    em_variance_floor: float = HfArg(
        default=EMSettings.variance_floor,
        help="lfcc-gmm: smallest variance of a component, relative to the variance of all frames.",
    )
    em_tolerance: float = HfArg(
        default=EMSettings.tolerance,
        help="lfcc-gmm: stop once an iteration gains less log-likelihood per frame, in nats.",
    )
    em_start_frames: int = HfArg(
        default=EMSettings.sample_frames, help="lfcc-gmm: frames that are drawn for the start by k-means++."
    )

    def make_settings(self, args: "TrainingArguments", *, is_new: bool = True) -> EMSettings:
        """The settings of a run; `is_new`: from k-means++, and not from the mixtures that the model has."""
        epochs = args.num_train_epochs
        if epochs < 1 or epochs != int(epochs):
            raise ValueError(f"num_train_epochs is {epochs}, but EM makes whole iterations, one at least.")
        return EMSettings(
            num_iterations=int(epochs),
            tolerance=self.em_tolerance,
            variance_floor=self.em_variance_floor,
            sample_frames=self.em_start_frames,
            seed=args.seed if is_new else None,
        )
