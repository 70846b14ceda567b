"""What is checked before a card and the files beside it leave the machine: that no text tells a token or a
path of this machine."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import yaml
from huggingface_hub import get_token

from processing.files import strip_folder


# Of paths of one machine, and of tokens.
_REST = r"""[^\s"'`<>)\]]*"""  # of a path
_ROOTS = "home|root|users|tmp|mnt|media|scratch|workspace|volumes|var/folders"
PATHS = (
    r"\bfile:/\S*",
    rf"(?<![\w.:/~-])/(?:{_ROOTS})(?:/{_REST}|\b)",
    rf"(?<!\w)[a-z]:[\\/]{{1,2}}(?:users|documents and settings|windows|temp)[\\/]{_REST}",
)
_NAMES = r"(?:(?:api|access|secret|auth)[_-]?key|(?:\b|[a-z]_)(?:token|password|secret))"
TOKENS = (
    r"\b(?:hf_|api_org_)[a-z0-9]{16,}",
    r"\b(?:gh[opsur]_|github_pat_)\w{20,}",
    r"\bsk-[a-z0-9_-]{20,}",
    r"\bakia[0-9a-z]{16}\b",  # Amazon
    r"\bxox[abpr]-[a-z0-9-]{10,}",  # Slack
    r"-----begin [a-z ]*private key-----",
    r"\bbearer\s+[a-z0-9._~+/=-]{12,}",
    rf"""{_NAMES}["']?\s*[:=]\s*["']?(?=[a-z_-]*[0-9])[a-z0-9_-]{{16,}}""",
)


def find_leaks(name: str, text: str, folder: Path | None = None) -> list[str]:
    """What a text must not tell to be published, by line: paths of this machine, above all of `folder`, and
    tokens. In a file whose name is that of JSON or YAML, every value that is an absolute path is found."""
    own = [str(path) for path in (Path.home(), folder) if path and len(path.parts) > 1]
    paths = [*PATHS, *(rf"(?<![\w./-]){re.escape(path)}(?![\w-]){_REST}" for path in own)]
    found = {match.start(): f"a path of this machine, {match[0]}" for match in _search(paths, text)}
    found |= {match.start(): f"what looks like a token, {match[0][:6]}…" for match in _search(TOKENS, text)}
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


def _search(patterns: Iterable[str], text: str) -> Iterator[re.Match]:
    return re.finditer("|".join(f"(?:{pattern})" for pattern in patterns), text, re.IGNORECASE)
