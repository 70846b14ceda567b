"""What is checked before a card and the files beside it leave the machine: that the card's links lead to
published files, and that no text tells a token or a path of this machine."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote

import yaml
from huggingface_hub import ModelCard, get_token

from processing.files import strip_folder


# Patterns by what they hold, in lower case: most texts lack that, and to look for that alone is fast.
_REST = r"""[^\s"'`<>)\]]*"""  # of a path
_ROOTS = "home root users tmp mnt media scratch workspace volumes var/folders".split()
PATHS = {
    "file:/": r"\bfile:/\S*",
    **{f"/{root}": rf"(?<![\w.:/~-])/{root}(?:/{_REST}|\b)" for root in _ROOTS},
    ":": rf"(?<!\w)[a-z]:[\\/]{{1,2}}(?:users|documents and settings|windows|temp)[\\/]{_REST}",
}
_VALUE = r"""["']?\s*[:=]\s*["']?(?=[a-z_-]*[0-9])[a-z0-9_-]{16,}"""
TOKENS = {
    "hf_": r"\bhf_[a-z0-9]{16,}",
    "api_org_": r"\bapi_org_[a-z0-9]{16,}",
    "gh": r"\bgh[opsur]_[a-z0-9]{20,}",
    "github_pat_": r"\bgithub_pat_\w{20,}",
    "sk-": r"\bsk-[a-z0-9_-]{20,}",
    "akia": r"\bakia[0-9a-z]{16}\b",  # Amazon
    "xox": r"\bxox[abpr]-[a-z0-9-]{10,}",  # Slack
    "private key": r"-----begin [a-z ]*private key-----",
    "bearer": r"\bbearer\s+[a-z0-9._~+/=-]{12,}",
    "key": rf"(?:api|access|secret|auth)[_-]?key{_VALUE}",
    **{word: rf"(?:\b|[a-z]_){word}{_VALUE}" for word in ("token", "password", "secret")},
}
LICENSE = re.compile(r"[a-z0-9.+-]+")
CODE = re.compile(r"(`+).+?\1", re.DOTALL)
# [text](target), ![text](target), [reference]: target, <img src="target">, <a href="target">
LINK = re.compile(r"""(?:\]\(|^\[.+\]: *|\b(?:src|href)=["']?)([^)\s"'>]*)""", re.MULTILINE)


def check_card(card: ModelCard, files: Collection[str], folder: Path | None = None) -> None:
    """ValueError: all that is wrong with a card of `folder`, beside which these files lie, relative to it."""
    problems = find_leaks("the card", str(card), folder)
    if card.data.license and not LICENSE.fullmatch(str(card.data.license)):
        problems.append(f"license {card.data.license!r} is no identifier of the Hub: write `other`")
    for target in dict.fromkeys(LINK.findall(CODE.sub("", card.text))):
        is_elsewhere = re.match("https?://|mailto:|#", target)
        if not is_elsewhere and unquote(target.partition("#")[0]) not in files:
            problems.append(f"it links to {target or 'nothing'}, which is not a file beside it")
    if problems:
        raise ValueError("The card cannot be published:\n" + "\n".join(f"- {p}" for p in problems))


def find_leaks(name: str, text: str, folder: Path | None = None) -> list[str]:
    """What a text must not tell to be published, by line: paths of this machine, above all of `folder`, and
    tokens. In a file whose name is that of JSON or YAML, every value that is an absolute path is found."""
    own = [str(path) for path in (Path.home(), folder) if path and len(path.parts) > 1]
    paths = PATHS | {path.lower(): rf"(?<![\w./-]){re.escape(path)}(?![\w-]){_REST}" for path in own}
    found = {start: f"a path of this machine, {path}" for start, path in _search(paths, text)}
    found |= {start: f"what looks like a token, {token[:6]}…" for start, token in _search(TOKENS, text)}
    if (token := get_token()) and token in text:
        found[text.index(token)] = "the token that you are logged in with"
    lines = {start: text.count("\n", 0, start) + 1 for start in sorted(found)}
    leaks = [f"{name}, line {line}: {found[start]}" for start, line in lines.items()]
    if not leaks and Path(name).suffix in (".json", ".yaml"):
        content = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
        leaks = [f"{name}: a path of this machine, {value}" for value in find_path_values(content)]
    return leaks


def find_path_values(content, name: str = "") -> Iterator[str]:
    """Names and values in JSON or YAML that are paths of this machine."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from find_path_values(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from find_path_values(value, name)
    elif isinstance(content, str) and strip_folder(content) != content:
        yield f"{name}: {content}"


def _search(patterns: Mapping[str, str], text: str) -> Iterator[tuple[int, str]]:
    """Where a pattern matches, and what matches."""
    lowered = text.lower()
    for part, pattern in patterns.items():
        if part in lowered:
            for match in re.finditer(pattern, text, re.IGNORECASE):
                yield match.start(), match[0]
