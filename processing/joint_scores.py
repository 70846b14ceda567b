"""Joint score files of a countermeasure (CM) and speaker verification (ASV), as in ASVspoof 5 track 2: scores
of CM, ASV and both together (SASV) of a claimed speaker and an utterance, measured by a-DCF and t-EER."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from metrics.costs import min_a_dcf
from metrics.det import KINDS, SortedTrials
from metrics.names import TANDEM_METRICS, format_estimate
from metrics.statistics import MIN_TRIALS, Bootstrap, resample_intervals
from metrics.tandem import t_eer

from .columns import NAMES, normalize_name
from .evaluation_arguments import EvaluationArguments
from .files import write_json
from .results import describe_environment, find_speakers
from .scores import read_numbers
from .text_tables import find_delimiter, quote_text, read_fields, read_first_line, refuse_lines, split_line


TRIAL = ["speaker_id", "utterance_id"]
SCORES = ("cm_score", "asv_score", "sasv_score")
# What the first line may call a column, in any case, by what it is called here.
COLUMNS = {name: role for role in TRIAL for name in NAMES[role]}
COLUMNS |= {name: name for name in SCORES} | {"key": "key", "asv_label": "key"}
UNUSED = ("split", "score_columns", "higher_is", "compare", "asv_score_file", "calibrate_on", "fuse")


def is_joint(path: Path) -> bool:
    """Whether the first line of a score file names a column of SASV scores."""
    first = read_first_line(path)
    return "sasv_score" in map(normalize_name, split_line(first, find_delimiter(first)))


def read_joint_table(path: Path) -> pd.DataFrame:
    """The columns known of a file of joint scores or keys, as text by the numbers of its lines. ValueError: a
    line that does not parse, no speaker or utterance, another key, or a trial that is listed twice."""
    first = read_first_line(path)
    names = split_line(first, sep := find_delimiter(first))
    table = read_fields(path, len(names), expected := f"a line of {len(names)} fields, as the first", sep=sep)
    refuse_lines(path, (table[len(names) - 1] == "") | (table[len(names)] != ""), expected)
    roles = [COLUMNS.get(normalize_name(name)) for name in names]
    table = pd.DataFrame({role: table[i] for i, role in enumerate(roles) if role})[1:]
    if not {*TRIAL} <= {*table}:
        raise ValueError(
            f"{path}: a trial is told by its speaker and utterance. Name their columns in the first line: "
            "spk, filename, cm-score, asv-score, sasv-score, or spk, filename, asv-label. It is "
            f"{quote_text(first)}."
        )
    refuse_lines(path, table.duplicated(TRIAL), "another trial than those before it")
    if "key" in table:
        refuse_lines(path, ~table["key"].isin(KINDS), f"of a key {', '.join(KINDS)}")
    return table


def read_joint_scores(path: Path, protocol: Path | None = None) -> pd.DataFrame:
    """
    Scores of trials with their keys, of the file itself or of another with the same trials. A column of
    scores that holds "-" only is left out.

    Returns:
        speaker_id, utterance_id, key (one of `KINDS`), and those of `SCORES` that there are (float64).

    Raises:
        ValueError: as [`read_joint_table`]; no keys, other trials or keys than those of `protocol`, a score
            that is no finite number, or scores of which there is no metric.
    """
    scores = read_joint_table(path)
    for name in scores.columns.intersection(SCORES):
        numbers = scores.pop(name)
        if (numbers != "-").any():
            scores[name] = read_numbers(path, numbers)
    if "sasv_score" not in scores and not {"cm_score", "asv_score"} <= {*scores}:
        raise ValueError(
            f"{path}: the a-DCF needs SASV scores, the t-EER CM and ASV scores. There are neither."
        )
    listed = scores if protocol is None else read_joint_table(protocol)
    if "key" not in listed:
        raise ValueError(
            f"{protocol or path} does not say which trials are {', '.join(KINDS)}. Name a file of keys by "
            "--protocol, and the columns in its first line: spk, filename, asv-label."
        )
    # By what both have: the scores may have keys, too.
    joined = scores.merge(listed[[*TRIAL, "key"]], how="outer", indicator="file")
    if len(other := joined[joined["file"] != "both"]):
        only = path if other["file"].iloc[0] == "left_only" else protocol
        raise ValueError(
            f"{path} and {protocol} must list the same trials and keys, but {len(other):,} are in one only. "
            f"The first, {' '.join(other[TRIAL].iloc[0])}, is in {only}."
        )
    return joined.drop(columns="file")


def measure_joint(trials: Mapping[str, SortedTrials]) -> dict[str, float]:
    """The metrics of trials by those of `SCORES` that there are."""
    values = {"min_a_dcf": min_a_dcf(trials["sasv_score"])[0]} if "sasv_score" in trials else {}
    if {"cm_score", "asv_score"} <= trials.keys():
        values["t_eer"] = t_eer(trials["cm_score"], trials["asv_score"]).fa_spoof
    return values


def evaluate_joint_scores(args: EvaluationArguments, label_map: str | None, folder: Path) -> None:
    """Evaluate the joint score file of the arguments: print its metrics, and write them as `results.json`."""
    given = [name for name in UNUSED if getattr(args, name) != getattr(EvaluationArguments, name)]
    if given or label_map is not None:
        raise ValueError(f"--{(*given, 'label_map')[0]} cannot be combined with joint scores.")
    path, protocol = Path(args.score_file), args.protocol and Path(args.protocol)
    table = read_joint_scores(path, protocol)
    classes = [table[table["key"] == kind] for kind in KINDS]
    sizes = [*map(len, classes)]
    scored = table.columns.intersection(SCORES)
    trials = {name: SortedTrials.from_classes([of[name] for of in classes]) for name in scored}
    results = {"score_file": path.name, "protocol": protocol and protocol.name}
    results |= {f"num_{kind}": size for kind, size in zip(KINDS, sizes, strict=True)} | measure_joint(trials)
    if "t_eer" in results:
        results["t_eer_point"] = dataclasses.asdict(t_eer(trials["cm_score"], trials["asv_score"]))
    intervals = {}
    if args.num_resamples and min(sizes) >= MIN_TRIALS:
        bootstrap = Bootstrap(args.num_resamples)
        speakers, method = find_speakers([of["speaker_id"] for of in classes], bootstrap)

        def measure(*counts: np.ndarray) -> dict[str, float]:
            bar.update()
            return measure_joint({name: of.repeat(np.concatenate(counts)) for name, of in trials.items()})

        with tqdm(desc="Intervals", total=1 + args.num_resamples, unit=" resamples", delay=2) as bar:
            estimates = resample_intervals(measure, sizes, speakers=speakers, bootstrap=bootstrap)
        intervals = {**method, **{name: [of.low, of.high] for name, of in estimates.items()}}
        results["confidence_intervals"] = intervals
    write_json(folder / "results.json", {**results, **describe_environment()})
    counts = (f"{size:,} {kind}" for kind, size in zip(KINDS, sizes, strict=True))
    print(f"\n{path.name}: {', '.join(counts)}")
    for name, metric in TANDEM_METRICS.items():
        if name in results:
            print(f"  {metric.title:24}{format_estimate(name, results[name], intervals.get(name))}")
    if intervals:
        print(f"  [{100 * intervals['level']:g} % intervals: {intervals['method']}]")
    print(f"\nResults: {folder.resolve()}")
