"""
What scoring and evaluation can be told on the command line. Imports nothing that takes long, as arguments.py.
"""

import json
from dataclasses import dataclass
from typing import Literal

from transformers.hf_argparser import HfArg

from .conditions import NAMES as CONDITION_NAMES


Direction = Literal["bonafide", "spoof"]


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
