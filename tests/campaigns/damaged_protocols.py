"""
Read damaged protocols, score files and ASV score files of all formats:

    PYTHONPATH=. python tests/campaigns/damaged_protocols.py --files 1000

Bytes are flipped, lines lost, doubled and joined, columns swapped and missing; other encodings and ends of
lines, NUL bytes, huge lines, scores that are no numbers, unknown keys. Each file must be refused with an
error that names it and what is wrong in it, or give the trials, keys and scores (to the last bit) of a plain
reading of the same bytes. Every 20th score file goes through eval.py, whose EER must be that of a plain
formula in float64. Takes a minute on one core.
"""

import argparse
import contextlib
import csv
import io
import json
import math
import random
import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd

import eval as eval_script
from processing.joint_scores import read_joint_scores
from processing.layouts import read_protocol
from processing.scores import read_asv_scores, read_scores


PLACES = r"line \d+|column|fields|holds no|lists no|listed|labels|text file|empty|first line|does not say"


@dataclass(frozen=True)
class Format:
    """A line's template, where utterance, key and score stand in it, and what reads it."""

    line: str
    places: tuple[int, ...]  # of what `read` returns
    read: Callable[[Path], pd.DataFrame]
    header: str = ""

    @property
    def sep(self) -> str:
        return next((sep for sep in "\t;," if sep in self.line), " ")


def read_trials(path: Path) -> pd.DataFrame:
    return pd.concat(read_protocol(path).splits.values())[["utterance_id", "key"]]


def pick(*names: str) -> Callable[[Path], pd.DataFrame]:
    return lambda path: read_scores(path).reindex(columns=names).dropna(axis="columns")


LA = "S{s} {u} codec trans {a} {k} notrim eval"
FORMATS = {
    "2019 LA": Format("S{s} {u} - {a} {k}", (1, 4), read_trials),
    "2021 LA": Format(LA, (1, 5), read_trials),
    "2021 DF": Format("S{s} {u} nocodec asv {a} {k} notrim eval voc vcc team F_F en", (1, 5), read_trials),
    "ASVspoof 5": Format("S{s} {u} F C1 1 2 AC {a} {k} -", (1, 8), read_trials),
    "In-the-Wild": Format("{u}.wav,S{s},{k}", (0, 2), read_trials, "file,speaker,label"),
    "named columns": Format("{u};S{s};{k}", (0, 2), read_trials, "utterance;speaker;key"),
    "score": Format("{u} {x}", (0, 1), pick("utterance_id", "score")),
    "key score": Format("{u} {k} {x}", (0, 1, 2), pick("utterance_id", "key", "score")),
    "attack key score": Format("{u} {a} {k} {x}", (0, 2, 3), pick("utterance_id", "key", "score")),
    "score of ASVspoof 5": Format("S{s} {u} {x} {k}", (1, 3, 2), pick("utterance_id", "key", "score")),
    "line and score": Format(f"{LA} {{x}}", (1, 5, 8), pick("utterance_id", "key", "score")),
    "score, header": Format(
        "{x}\t{k}\t{u}", (2, 1, 0), pick("utterance_id", "key", "score"), "score\tkey\tutt"
    ),
    "ASV": Format("{a} {t} {x}", (1, 2), lambda path: read_asv_scores(path)[["key", "score"]]),
    "joint": Format(
        "S{s},{u},{x},{x},{x},{t}",
        (1, 5, 4),
        lambda path: read_joint_scores(path).reindex(columns=["utterance_id", "key", "sasv_score"]),
        "spk,filename,cm-score,asv-score,sasv-score,asv-label",
    ),
}


def write_lines(of: Format, rng: random.Random) -> list[str]:
    lines = [of.header] if of.header else []
    for i in range(40):
        key, kind = rng.choice(["bonafide", "spoof"]), rng.choice(["target", "nontarget", "spoof"])
        key, kind = ("bonafide", "target") if i == 0 else ("spoof", "nontarget") if i == 1 else (key, kind)
        attack = "A07" if (kind if "{t}" in of.line else key) == "spoof" else "-"
        values = {"u": f"LA_E_{i:05d}", "k": key, "t": kind, "a": attack, "x": repr(rng.gauss(0, 3))}
        lines.append(of.line.format(s=f"{i % 5:04d}", **values))
    return lines


def damage(lines: list[str], sep: str, kind: str, rng: random.Random) -> bytes:
    """The content of a file, damaged in one way."""
    lines, number = [*lines], rng.randrange(40)
    fields = lines[number].split(sep)
    one, two = rng.randrange(len(fields)), rng.randrange(len(fields))
    text, encoding = "\n", "utf-8"
    if kind in SUBSTITUTES:
        fields[one] = SUBSTITUTES[kind]
        lines[number] = sep.join(fields)
    elif kind == "line lost":
        del lines[number]
    elif kind == "line doubled":
        lines.insert(rng.randrange(40), lines[number])
    elif kind == "lines joined":
        lines[number : number + 2] = ["".join(lines[number : number + 2])]
    elif kind in ("columns swapped", "column missing"):
        for i, line in enumerate(lines):
            fields = line.split(sep)
            if kind == "column missing":
                del fields[one]
            else:
                fields[one], fields[two] = fields[two], fields[one]
            lines[i] = sep.join(fields)
    elif kind == "fields swapped":
        fields[one], fields[two] = fields[two], fields[one]
        lines[number] = sep.join(fields)
    elif kind == "field missing":
        lines[number] = sep.join(fields[:one] + fields[one + 1 :])
    elif kind == "blank lines":
        lines[number:number] = ["", "  ", ""]
    elif kind == "separator":
        lines = [line.replace(sep, rng.choice(["\t", "  ", ", ", ";"])) for line in lines]
    elif kind in ("\r\n", "\r"):
        text = kind
    elif kind.startswith(("utf", "latin")):
        encoding = kind
        lines[number] = lines[number].replace("LA", "LÄ")
    content = (text.join(lines) + text).encode(encoding)
    place = rng.randrange(len(content))
    if kind == "bytes flipped":
        content = bytearray(content)
        for _ in range(int(2 ** rng.uniform(0, 5))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut off":
        content = content[:place]
    elif kind == "NUL":
        content = content[:place] + bytes(rng.choice([1, 5000])) + content[place:]
    elif kind == "huge line":
        content = content[:place] + b"x" * rng.choice([10**5, 10**7]) + content[place:]
    elif kind == "quote":
        content = content[:place] + b'"' + content[place:]
    return bytes(content)


SUBSTITUTES = {
    text: text for text in ("nan", "inf", "-inf", "1e400", "1_000", "0,5", "", "#", "Bonafide", "key", "١")
}
KINDS = ("line lost", "line doubled", "lines joined", "columns swapped", "column missing", "fields swapped")
KINDS += (
    "field missing",
    "blank lines",
    "separator",
    "\r\n",
    "\r",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "latin-1",
)
KINDS += ("bytes flipped",) * 5 + ("cut off", "NUL", "huge line", "quote", "whole", *SUBSTITUTES)


def read_plainly(content: bytes, of: Format) -> list[tuple]:
    """The fields at the format's places, without any of the package's code."""
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = content.decode(encoding, errors="backslashreplace")
    lines = [line for line in re.split(r"\r\n|\n|\r", text) if line.strip()][bool(of.header) :]
    if of.sep == " ":
        rows = [re.split(r"[ \t]+", line.strip(" \t")) for line in lines]
    else:
        csv.field_size_limit(2**30)
        rows = [*csv.reader(io.StringIO("\n".join(lines)), delimiter=of.sep, skipinitialspace=True)]
    return [tuple(row[place].strip() for place in of.places) for row in rows]


def is_same(found: tuple, plain: tuple) -> bool:
    """Whether a row has the values of a plain reading: numbers to the last bit, keys in any case, file names
    without their endings."""
    for ours, theirs in zip(found, plain, strict=True):
        if isinstance(ours, float):
            if ours != float(theirs):
                return False
        elif unquote(ours).casefold() not in (theirs.casefold(), theirs.casefold().rpartition(".")[0]):
            return False
    return True


def compute_eer(bonafide: np.ndarray, spoof: np.ndarray) -> float:
    """Of the rates where they are nearest, the mean: ASVspoof's definition in float64."""
    scores = np.concatenate([bonafide, spoof])
    order = np.argsort(scores, kind="stable")
    is_bonafide = np.arange(len(scores))[order] < len(bonafide)
    miss = np.concatenate([[0], np.cumsum(is_bonafide)]) / len(bonafide)
    false = (len(spoof) - np.concatenate([[0], np.cumsum(~is_bonafide)])) / len(spoof)
    nearest = np.argmin(np.abs(miss - false))
    return float(miss[nearest] + false[nearest]) / 2


def check(path: Path, content: bytes, of: Format, kind: str, outcomes: Counter) -> str:
    """What is wrong with how a file is read, or ""."""
    try:
        found = [*of.read(path).itertuples(index=False, name=None)]
    except (ValueError, OSError) as error:
        outcomes["refused"] += 1
        named = (
            path.name in str(error)
            and re.search(PLACES, str(error))
            and "Error" not in type(error).__name__[:-5]
        )
        long = len(str(error)) > 3000
        return ("" if named else f"no place: {error}") or (f"{len(str(error)):,} characters" if long else "")
    except Exception:
        return traceback.format_exc()
    outcomes["read"] += 1
    try:
        plain = read_plainly(content, of)
    except Exception as error:
        plain = []
        if kind not in ("columns swapped", "separator", "column missing"):
            return f"read as {found[:2]}, but plainly {error!r}"
    if kind in ("columns swapped", "separator", "column missing"):  # which are read by what they hold
        return "" if 35 <= len(found) <= 40 else f"{len(found)} trials"
    if of is not FORMATS["ASV"]:  # whose trials have no names
        found, plain = sorted(found), sorted(plain)
    differs = [pair for pair in zip(found, plain, strict=False) if not is_same(*pair)]
    if len(found) != len(plain) or differs:
        return f"{len(found)} trials, plainly {len(plain)}: {differs[:1]}"
    return ""


def check_program(path: Path, folder: Path) -> str:
    """What is wrong with how eval.py ends, or with its EER; "" if nothing is."""
    arguments = ["--score_file", path, "--num_resamples", "0", "--output_dir", folder, "--overwrite"]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            eval_script.main([*map(str, arguments)])
    except SystemExit as stop:
        return "" if path.name in str(stop.code) else f"eval.py: {stop.code}"
    except Exception:
        return traceback.format_exc()
    table, (results,) = (
        read_scores(path),
        [json.loads(path.read_text()) for path in folder.glob("**/results.json")],
    )
    is_bonafide = (table["key"] == "bonafide").to_numpy()
    expected = compute_eer(*(table["score"].to_numpy()[which] for which in (is_bonafide, ~is_bonafide)))
    return (
        "" if math.isclose(results["eer"], expected, rel_tol=1e-12) else f"{results['eer']}, not {expected}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, outcomes, findings = random.Random(args.seed), Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.files):
            name, kind = rng.choice([*FORMATS]), rng.choice(KINDS)
            of, path = FORMATS[name], Path(folder, f"f{number}.txt")
            content = damage(write_lines(of, rng), of.sep, kind, rng)
            path.write_bytes(content)
            wrong = check(path, content, of, kind, outcomes)
            if not wrong and number % 20 == 0 and name not in ("ASV", "joint") and of.read is not read_trials:
                wrong = check_program(path, Path(folder, "results"))
                outcomes["through eval.py"] += 1
            if wrong:
                findings += 1
                print(f"{number} {name}, {kind!r}: {wrong[-600:]}", flush=True)
            path.unlink()
    print(f"{args.files:,} files: {dict(outcomes)}, {findings} findings")


if __name__ == "__main__":
    main()
