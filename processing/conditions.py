"""
The conditions under which `eval.py --conditions` scores every recording again: augmentations with fixed
values, as a recipe states them (see `augmentation.py`). Imports nothing, as the arguments name them.
"""

from collections.abc import Iterable


CLEAN = "clean"  # recordings as they are
GROUPS: dict[str, dict[str, dict]] = {
    "codecs": {  # bit rates in kb/s
        "mp3-64k": {"codec": {"codecs": ["mp3-64"]}},
        "mp3-16k": {"codec": {"codecs": ["mp3-16"]}},
        "aac-32k": {"codec": {"codecs": ["aac-32"]}},
        "opus-32k": {"codec": {"codecs": ["opus-32"]}},
        "opus-16k": {"codec": {"codecs": ["opus-16"]}},
        "g722-64k": {"codec": {"codecs": ["g722-64"]}},
        "alaw-64k": {"codec": {"codecs": ["alaw"]}},  # G.711
        "gsm-13k": {"codec": {"codecs": ["gsm"]}},
        "amrnb-12.2k": {"codec": {"codecs": ["amrnb-12.2"]}},
        "amrnb-4.75k": {"codec": {"codecs": ["amrnb-4.75"]}},
    },
    "noise": {  # white; the signal-to-noise ratio
        "noise-20db": {"noise": {"snr": [20, 20]}},
        "noise-10db": {"noise": {"snr": [10, 10]}},
        "noise-0db": {"noise": {"snr": [0, 0]}},
    },
    "bandwidth": {
        "8khz": {"resample": {"sampling_rate": 8000}},  # and back
    },
    "silence": {
        "no-leading-silence": {"trim_silence": {"trailing": False}},
        "no-silence": {"trim_silence": {}},  # neither leading nor trailing
    },
    "level": {
        "level-20db": {"gain": {"gain": [-20, -20]}},
        "level+20db": {"gain": {"gain": [20, 20], "clip": True}},
    },
}
CONDITIONS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
NAMES = ["all", *GROUPS, *CONDITIONS]


def choose_conditions(names: Iterable[str]) -> dict[str, dict]:
    """The entries of the conditions that names of `NAMES` stand for, each once, in the order of the table."""
    groups = {**GROUPS, "all": CONDITIONS}
    chosen = {condition for name in names for condition in groups.get(name, [name])}
    return {name: entry for name, entry in CONDITIONS.items() if name in chosen}
