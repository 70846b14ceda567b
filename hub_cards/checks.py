"""Whether a card is fit for the Hub: the rules of `ModelCard.validate` that need no network, links that lead
somewhere, and nothing of the machine it was made on."""

import math
import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results


PIPELINE_TAGS = {"audio-classification"}  # what this package makes
# Identifiers of https://huggingface.co/docs/hub/repositories-licenses.
LICENSES = set(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m
    bigscience-bloom-rail-1.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause
    bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0
    epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0
    gpl-3.0 grok2-community h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2
    llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
    """.split()
)

# What a path or token begins with or holds, and then the whole of it: most texts lack the first, and to
# search for that alone is fast.
_END = r"""[^\s"'`<>)\]]*"""
_SECRET = r"""["']?\s*[:=]\s*["']?(?=[a-z_-]*[0-9])[a-z0-9_-]{16,}"""
LOCAL_PATHS = {
    "file:/": re.compile(r"\bfile:/{1,3}\S*"),
    **{
        f"/{name}": re.compile(rf"(?<![\w.:/~-])/{name}(?:/{_END}|\b)")
        for name in "home root Users tmp mnt media scratch workspace Volumes var/folders".split()
    },
    **{
        name: re.compile(rf"(?<!\w)[A-Za-z]:[\\/]{{1,2}}{name}[\\/]{_END}")
        for name in ("Users", "Documents and Settings", "Windows", "Temp")
    },
}
TOKENS = {
    "hf_": re.compile(r"\bhf_[A-Za-z0-9]{16,}"),
    "api_org_": re.compile(r"\bapi_org_[A-Za-z0-9]{16,}"),
    "gh": re.compile(r"\bgh[opsur]_[A-Za-z0-9]{20,}"),
    "github_pat_": re.compile(r"\bgithub_pat_\w{20,}"),
    "sk-": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "AKIA": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "xox": re.compile(r"\bxox[abpr]-[A-Za-z0-9-]{10,}"),
    "PRIVATE KEY": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "bearer": re.compile(r"\bbearer\s+[a-z0-9._~+/=-]{12,}", re.IGNORECASE),
    "key": re.compile(rf"(?:api|access|secret|auth)[_-]?key{_SECRET}", re.IGNORECASE),
    "token": re.compile(rf"(?:\b|[a-z]_)token{_SECRET}", re.IGNORECASE),
    "password": re.compile(rf"\bpassword{_SECRET}", re.IGNORECASE),
    "secret": re.compile(rf"\bsecret{_SECRET}", re.IGNORECASE),
}

_CODE_BLOCK = re.compile(r"^(?P<fence>`{3,}|~{3,}).*?^(?P=fence)[ \t]*$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL)
_TARGETS = (
    re.compile(r"\]\(\s*<([^>]*)>"),  # [text](<target>)
    re.compile(r"\]\(\s*([^\s<)][^\s)]*)"),  # [text](target "title"), ![text](target)
    re.compile(r"\]\(\s*()\)"),  # [text]()
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE),  # [reference]: target
    re.compile(r"<(?:img|source|audio|video)\b[^>]*?\bsrc\s*=\s*[\"']?([^\"'\s>]*)", re.IGNORECASE),
    re.compile(r"<a\b[^>]*?\bhref\s*=\s*[\"']?([^\"'\s>]*)", re.IGNORECASE),
)
_SCHEME = re.compile(r"^(?:https?|mailto):", re.IGNORECASE)


# The whole of a value that is a path of one machine: absolute, in a home folder, on a drive or a server.
_FOLDER = re.compile(r"(?:/|~[^/\\\s]*[/\\]|[A-Za-z]:[\\/]|\\\\)\S")


def without_folder(value: str) -> str:
    """A value, but of a path of one machine its last name only."""
    if not _FOLDER.match(value):
        return value
    return PureWindowsPath(value).name or value  # which parts at / and at \\


def local_values(content, name: str = "") -> Iterator[str]:
    """Names and values in JSON or YAML that are paths of one machine."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from local_values(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from local_values(value, name)
    elif isinstance(content, str) and without_folder(content) != content:
        yield f"{name}: {content}"


def check_card(text: str, files: Collection[str]) -> None:
    """
    Args:
        text: of a card with its YAML header.
        files: that will lie beside it, relative to it.

    Raises:
        ValueError: all that is wrong with it.
    """
    problems = [*header_problems(text), *link_problems(text, files), *check_text("the card", text)]
    if problems:
        raise ValueError("The card is not fit to be published:\n" + "\n".join(f"- {p}" for p in problems))


def header_problems(text: str) -> list[str]:
    """What is wrong with the YAML header of a card."""
    block = REGEX_YAML_BLOCK.search(text)
    if block is None:
        return ["it has no YAML header between lines of ---"]
    try:
        header = yaml.safe_load(block.group(2))
    except yaml.YAMLError as error:
        return [f"its YAML header does not parse: {error}"]
    if not isinstance(header, dict):
        return ["its YAML header is no mapping of keys to values"]
    problems = [f"header: {problem}" for problem in _strange_values(header)]
    if (found := header.get("license")) is not None and found not in LICENSES:
        problems.append(
            f"header: license {found!r} is none of the Hub's identifiers; for another one write `other`"
        )
    if header.get("pipeline_tag") not in PIPELINE_TAGS:
        problems.append(f"header: pipeline_tag {header.get('pipeline_tag')!r} is not audio-classification")
    for key in ("tags", "datasets", "metrics"):
        value = header.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            problems.append(f"header: {key} must be a list of names, not {value!r}")
    if "model-index" in header:
        try:
            model_index_to_eval_results(header["model-index"])
            if ModelCard(text).data.to_dict() != header:
                problems.append("header: huggingface_hub reads it back as something else")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problems.append(f"header: model-index is not valid: {error!r}")
    return problems


def link_problems(text: str, files: Collection[str]) -> list[str]:
    """Links and pictures of a Markdown text that lead to no file."""
    block = REGEX_YAML_BLOCK.search(text)
    body = text[block.end() :] if block else text
    body = _CODE.sub("", _CODE_BLOCK.sub("", body))
    problems = []
    for target in dict.fromkeys(target for pattern in _TARGETS for target in pattern.findall(body)):
        if _SCHEME.match(target) or target.startswith("#"):
            continue
        path = posixpath.normpath(unquote(re.split(r"[#?]", target)[0]))
        if not target or path not in files:
            problems.append(f"it links to {target or 'nothing'}, which is no file beside it")
    return problems


def check_text(name: str, text: str) -> list[str]:
    """
    What a text must not hold to be published: paths of a machine and tokens.

    Args:
        name: of the file, for the messages.
        text: its content.
    """
    paths = _found(LOCAL_PATHS, text)
    home = str(Path.home())
    if len(Path(home).parts) > 1:
        paths |= _found({home: re.compile(rf"(?<![\w./:-]){re.escape(home)}(?![\w-]){_END}")}, text)
    problems = {start: f"a path of a machine, {path}" for start, path in paths.items()}
    for start, token in _found(TOKENS, text).items():
        problems[start] = f"what looks like a token or key, {token[:6]}…"
    return [
        f"{name}, line {text.count(chr(10), 0, start) + 1}: {problem}"
        for start, problem in sorted(problems.items())
    ]


def _found(patterns: Mapping[str, re.Pattern], text: str) -> dict[int, str]:
    """What matches, by where it starts."""
    lowered = text.lower()
    found = {}
    for beginning, pattern in patterns.items():
        if beginning.lower() in lowered:
            found |= {match.start(): match[0] for match in pattern.finditer(text)}
    return found


def _strange_values(value, where: str = "") -> Iterator[str]:
    """Values that JSON, and so the Hub, does not know."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"the key {key!r} is no text"
            yield from _strange_values(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _strange_values(item, where)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is {value}"
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        yield f"{where} is a {type(value).__name__}, {value}, which the Hub does not know; quote it"
