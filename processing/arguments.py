"""
What can be asked for on the command line, but for `TrainingArguments`, and the parser of it. Imports nothing
that takes long, so that help and errors are there at once.
"""

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from transformers import HfArgumentParser
from transformers.hf_argparser import HfArg, string_to_bool

from .conditions import NAMES as CONDITION_NAMES
from .corpus_names import CORPORA, DEMO
from .near_names import suggest


if TYPE_CHECKING:
    from transformers import TrainingArguments

RANDOM = "none"  # instead of a base model: random initial weights
SWA = "swa"  # instead of a number of checkpoints to average: stochastic weight averaging
Direction = Literal["bonafide", "spoof"]


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


@dataclass(unsafe_hash=True)
class ScoringArguments:
    """A trained model, and how its scores are computed."""

    _argument_group_name = "the model and its scores"

    model: str | None = HfArg(
        default=None,
        help="Folder or Hub id of a trained model, of this package or any for audio classification that has "
        "two labels (see --label_map).",
    )
    seconds: float | None = HfArg(
        default=None,
        help="A model that is not of this package scores so much of the beginning of a recording; default: "
        "all that its feature extractor takes.",
    )
    batch_size: int = HfArg(default=32, help="Utterances at a time, on each process.")
    num_workers: int | None = HfArg(
        default=None, help="Processes that decode; default: 0 on a CPU, up to 8 for a GPU."
    )
    num_threads: int | None = HfArg(
        default=None, help="CPU threads of each process; default: the cores, shared out over the processes."
    )
    revision: str | None = HfArg(default=None, help="Branch, tag or commit of a Hub model.")
    trust_remote_code: bool = HfArg(default=False, help="Run the code of a model of an unknown architecture.")
    use_cpu: bool = HfArg(default=False, help="Do not use a GPU.")
    bf16: bool = HfArg(default=False, help="Compute the network in bfloat16, by autocast; default: float32.")
    tf32: bool = HfArg(default=False, help="Compute the network in TF32, on an Ampere or newer GPU.")
    torch_compile: bool = HfArg(default=False, help="Compile the network by torch.compile.")


@dataclass
class EvaluationArguments(ScoringArguments):
    """What is evaluated, and how. A model on a corpus, a score file, or a model on recordings (--files)."""

    _argument_group_name = "what is evaluated, and how"

    split: str | None = HfArg(
        default=None,
        help="Split of the corpus or protocol; may be a slice of a corpus; default: the only one, or eval.",
    )
    score_file: str | None = HfArg(
        default=None,
        aliases=["--scores"],
        help="Scores to evaluate: `utterance score`, `utterance [attack] key score`, CSV with a header, …; "
        "or the folder that processing.scale wrote.",
    )
    score_columns: str | None = HfArg(
        default=None,
        help="What the columns of --score_file are, where it does not say it: _,utterance,key,score, with "
        "spoof,bonafide for a score of each class.",
    )
    protocol: str | None = HfArg(
        default=None,
        help="Protocol of the scored trials, or any key file with a header; needed where the score file has "
        "no keys.",
    )
    higher_is: Direction = HfArg(default="bonafide", help="What a higher score in --score_file means.")
    compare: str | None = HfArg(
        default=None, help="Score file of another system on the same trials, for a paired test."
    )
    compare_columns: str | None = HfArg(default=None, help="As --score_columns, of --compare.")
    compare_higher_is: Direction = HfArg(default="bonafide", help="What a higher score in --compare means.")
    files: list[str] | None = HfArg(default=None, help="Recordings, or folders of them, for --model.")
    stream: bool = HfArg(
        default=False,
        help="Score what comes through a pipe, for --model, with a line for each window when it is there: "
        "ffmpeg … -f wav - | python eval.py --model M --stream.",
    )
    min_seconds: float | None = HfArg(
        default=None,
        help="A first, early score of --stream after so many seconds, and again at twice as many until the "
        "crop is whole; default: when the crop is whole.",
    )
    window_hop: float | None = HfArg(
        default=None, help="Seconds from window to window in longer recordings; default: half a window."
    )
    plot_timeline: bool = HfArg(default=False, help="Plot the scores of each longer recording over its time.")
    family_wise_rate: float = HfArg(
        default=0.05,
        help="Share of bona fide recordings, as long as the one at hand, of which a passage may be taken for "
        "spoofed, by a calibrated model.",
    )
    segment_labels: str | None = HfArg(
        default=None,
        help="Which parts of --files are spoofed, to measure how well their windows tell: lines `utterance "
        "seconds label start-end-label …`, or RTTM.",
    )
    prior: float | None = HfArg(
        default=None,
        help="Probability that a recording is bona fide before it is heard, for the verdict of a calibrated "
        "model; default: 0.5.",
    )
    cost_miss: float | None = HfArg(
        default=None, help="Cost of calling a bona fide recording spoofed; default: 1."
    )
    cost_false_alarm: float | None = HfArg(
        default=None, help="Cost of calling a spoofed recording bona fide; default: 1."
    )
    cost_abstain: float | None = HfArg(
        default=None,
        help="Cost of no statement, which is made where that is cheapest; default: never for that reason.",
    )
    report: bool = HfArg(
        default=False,
        help="Write a report on each recording of --files for a reader who is no engineer, an HTML page that "
        "fetches nothing, and the same as JSON. The model must be calibrated.",
    )
    report_audio: bool = HfArg(
        default=False, help="As --report, and the page holds the recording itself, to be listened to."
    )
    conditions: list[str] | None = HfArg(
        default=None,
        help="Score every recording also as it is under conditions such as codecs and white noise: "
        f"{', '.join(CONDITION_NAMES)}.",
        metadata={"choices": CONDITION_NAMES, "metavar": "CONDITION"},
    )
    asv_score_file: str | None = HfArg(
        default=None, help="ASV scores for the t-DCF; default: those in the corpus folder."
    )
    set_decision_threshold: bool = HfArg(
        default=False,
        help="Write the EER threshold of this evaluation into the config of --model, a folder, as the "
        "threshold of its verdicts; to be done on a development set.",
    )
    calibrate: bool = HfArg(
        default=False,
        help="Fit log-likelihood ratios (LLRs) to the scores of this evaluation, and write the calibration "
        "into the config of --model, a folder; to be done on a development set. Scores stay as they are.",
    )
    calibrate_on: list[str] | None = HfArg(
        default=None,
        help="Score file of a development set, on which LLRs for --score_file are fitted; "
        "--score_file itself is cross-validated. With --fuse one more for each of its files.",
    )
    calibrate_protocol: str | None = HfArg(
        default=None, help="As --protocol, of the trials of --calibrate_on; needed where it has no keys."
    )
    fuse: list[str] | None = HfArg(
        default=None,
        help="Score files of other systems on the same trials, to be fused with --score_file by logistic "
        "regression on --calibrate_on A_DEV B_DEV …, in the order of the systems.",
    )
    calibration_prior: float = HfArg(
        default=0.5, help="Effective prior of bona fide at which a calibration or fusion is fitted."
    )
    output_dir: str | None = HfArg(
        default=None, help="Where results go; default: beside a local model, else in evaluation/."
    )
    submission: str | None = HfArg(
        default=None,
        help="Folder with a meta.yaml, into which a submission to the Speech Anti-Spoofing Arena is written; "
        "--dataset is a data set of its benchmark on the Hub.",
    )
    overwrite: bool = HfArg(default=False, help="Replace the results in --output_dir.")
    num_resamples: int = HfArg(default=1000, help="Bootstrap resamples for the intervals; 0: no intervals.")

    @property
    def mode(self) -> str:
        """What is evaluated: "corpus", "files" and "stream" by a model, or a "score_file"."""
        if self.score_file is not None:
            return "score_file"
        if self.stream:
            return "stream"
        return "corpus" if self.files is None else "files"


@dataclass
class ScaleArguments:
    """What is scored shard by shard, where its scores go, and on what it runs."""

    _argument_group_name = "shards"

    input: list[str] | None = HfArg(
        default=None,
        help="Parquet files with an audio column, tar files (WebDataset), .txt lists of a path or URL on "
        "each line; or folders of them, patterns (*), URLs (hf://, s3://, https://).",
    )
    output: str | None = HfArg(
        default=None, help="Folder, or its URL, for a parquet file of scores of each shard."
    )
    audio_column: str | None = HfArg(default=None, help="Audio column of parquet files; default: audio.")
    id_column: str | None = HfArg(
        default=None,
        help="Column of the utterance id; default: utterance_id, utterance, file_id, else paths.",
    )
    label_map: str | None = HfArg(
        default=None, help="What the two labels of a model mean that are spelt otherwise: fake=spoof,…"
    )
    list_size: int = HfArg(default=10_000, help="Lines of a list that make a shard.")
    workers: int | None = HfArg(
        default=None, help="Shards that are scored at once; default: 1 on this machine, elsewhere all."
    )
    executor: Literal["local", "slurm", "ray", "jobs"] = HfArg(
        default="local", help="datatrove's executor: processes here, a Slurm array, Ray, Hugging Face Jobs."
    )
    executor_options: dict | str | None = HfArg(
        default=None,
        help="""Arguments of that executor, as JSON: '{"partition": "gpu", "time": "8:00:00"}'.""",
    )

    def __post_init__(self):
        try:
            self.executor_options = json.loads(self.executor_options or "{}")
        except ValueError as error:
            raise ValueError(
                f"executor_options {self.executor_options!r} is not valid JSON: {error}"
            ) from error
        if self.list_size < 1 or (self.workers is not None and self.workers < 1):
            raise ValueError(f"list_size {self.list_size} and workers {self.workers} must be positive.")
