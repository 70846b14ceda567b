"""Text files of a trial on each line, as tables of text; what does not parse is named with file and line."""

import codecs
import csv
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd


BONAFIDE_ATTACKS = ("-", "bonafide")  # what stands where a bona fide trial has no attack
# Windows PowerShell writes UTF-16 into a file.
ENCODING_OF_MARK = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_table(
    path: Path, names: Sequence[str], *, values: Mapping[str, Mapping[str, str]], is_csv: bool = False
) -> pd.DataFrame:
    """
    Read a file of one trial on each line; "-" or "bonafide" as the attack of a bona fide one becomes "-".

    Args:
        path: the file.
        names: what the fields of a line are, in order; "-" for one that is not kept.
        values: what the values allowed in a column become, by its name.
        is_csv: fields that may be quoted between commas, under a header, instead of white space between them.

    Raises:
        ValueError: a line with other fields or values; the message names it.
    """
    sep, values = "," if is_csv else " ", {name: of for name, of in values.items() if name in names}
    expected = f"`{sep.join(names)}`"
    expected += "".join(f", the {name} {' or '.join(allowed)}" for name, allowed in values.items())
    expected += ", the attack - or bonafide unless the key is spoof" if "attack" in names else ""
    table = read_fields(path, len(names), expected, sep=sep).iloc[int(is_csv) :]
    table.columns = [*names, "more"]
    wrong = (table[names[0]] == "") | (table[names[-1]] == "") | (table["more"] != "")
    for name, allowed in values.items():
        wrong |= ~table[name].isin(allowed)
        table[name] = table[name].replace({text: value for text, value in allowed.items() if text != value})
    if "attack" in names:
        without = table["attack"].isin(BONAFIDE_ATTACKS)
        wrong |= without != (table["key"] != "spoof")
        table["attack"] = table["attack"].mask(without, "-")
    refuse_lines(path, wrong, expected)
    return table.drop(columns=["-", "more"], errors="ignore")


def read_fields(path: Path, num_fields: int, expected: str, *, sep: str = " ") -> pd.DataFrame:
    """
    The fields of a file's lines, without empty ones, as text: "001" and "NA" stay so. A row's index is its
    line's number; a field that a line lacks is "", and one too many stands in column `num_fields`. Of a line
    that does not parse the error says that it is not `expected`.
    """
    try:
        # A first line that is too long is a warning, any other an error.
        with warnings.catch_warnings(action="ignore", category=pd.errors.ParserWarning):
            table = pd.read_csv(
                path,
                sep=r"\s+" if sep == " " else sep,
                skipinitialspace=True,
                header=None,
                names=range(num_fields + 1),
                index_col=False,
                dtype="str",
                keep_default_na=False,
                quoting=csv.QUOTE_NONE if sep == " " else csv.QUOTE_MINIMAL,
                skip_blank_lines=False,
                encoding=_find_encoding(path),
                encoding_errors="backslashreplace",
            )
    except pd.errors.ParserError as error:  # "Expected 6 fields in line 3, saw 8"
        number = re.search(r"(?P<line>line|EOF inside string starting at row) (\d+)", str(error))
        if number is None:
            raise ValueError(f"{path} does not parse: {error}") from error
        raise _line_error(path, int(number[2]) + (number["line"] != "line"), expected) from None
    table.index += 1
    return table[(table != "").any(axis=1)]


def refuse_lines(path: Path, wrong: pd.Series, expected: str) -> None:
    """Raise a ValueError that names the first line that is `wrong`, by its number."""
    if wrong.any():
        raise _line_error(path, wrong.idxmax(), expected)


def read_first_line(path: Path) -> str:
    """
    The first line of a file that is not empty, "" where there is none.

    Raises:
        ValueError: a NUL byte in it, so the file is no text, or UTF-16 that does not say so.
    """
    with _open_text(path) as lines:
        first = next((line.rstrip("\n") for line in lines if not line.isspace()), "")
    if "\0" in first:
        raise ValueError(f"{path} is not a text file: it holds NUL bytes. Save it as text in UTF-8.")
    if len(first) > csv.field_size_limit():
        raise ValueError(f"{path}: its first line of {len(first):,} characters is not of a table of trials.")
    return first


def find_delimiter(line: str) -> str:
    """What stands between the fields of a line: a tab, a semicolon or a comma where it has one, else white
    space, " "."""
    return next((sep for sep in "\t;," if sep in line), " ")


def split_line(line: str, sep: str) -> list[str]:
    """The fields of a line, without the white space around them."""
    fields = line.split() if sep == " " else next(csv.reader([line], delimiter=sep), [])
    return [field.strip() for field in fields]


def quote_text(text: str) -> str:
    """A text of a file for an error, of which a megabyte is not shown."""
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _line_error(path: Path, number: int, expected: str) -> ValueError:
    with _open_text(path) as lines:
        line = next(itertools.islice(lines, number - 1, None)).strip()
    return ValueError(f"{path}, line {number}: {quote_text(line)} is not {expected}.")


def _open_text(path: Path) -> TextIO:
    return open(path, encoding=_find_encoding(path), errors="backslashreplace")


def _find_encoding(path: Path) -> str:
    """By the byte order mark, UTF-8 where there is none."""
    with open(path, "rb") as stream:
        return ENCODING_OF_MARK.get(stream.read(2), "utf-8-sig")
