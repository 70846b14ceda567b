"""Every augmentation in CPU milliseconds of one core per utterance of 4 and 12 s, and what 16 cores would
give in utterances per second; RawBoost also against its published formulation.

    python tests/benchmarks/augmentation.py
    python tests/benchmarks/augmentation.py --noise_folder musan/noise --response_folder RIRS_NOISES

Utterances are made of speech-like noise; noise and responses too, 10 and 0.5 s in WAV files, where no folders
are given. A repeat is the mean over 10 generators. The augmentations alternate within each repeat, so that
what else the machine does falls on all of them; a row gives the best repeat. What a loader does besides,
decoding the whole FLAC file, is the first row.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import soundfile as sf
import torch


ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "processing")]

from decoding import speech_like  # noqa: E402
from test_rawboost import Published  # noqa: E402

from processing.audio import decode_audio  # noqa: E402
from processing.augmentation import AUGMENTATIONS, build_augmentation  # noqa: E402
from processing.machine import keep_freed_memory  # noqa: E402
from processing.results import describe_environment  # noqa: E402
from processing.speech_codecs import CodecAugmentation  # noqa: E402


RATE, SECONDS, CORES = 16_000, (4, 12), 16
NUM_GENERATORS = 10


def plain_rawboost(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> np.ndarray:
    return Published(generator, algorithm=4)(waveform.astype(np.float64))


def list_augmentations(noise: str, responses: str) -> dict[str, Callable]:
    """By what the row is called: all of the table, and of the codecs those that are drawn by default."""
    needed = {"noise": {"folder": noise}, "reverb": {"folder": responses}}
    named = {f"rawboost, algorithm {i}": {"rawboost": {"algorithm": i}} for i in (1, 2, 3, 4, 5)}
    single = AUGMENTATIONS.keys() - {"rawboost", "codec"}
    named |= {name: {name: needed.get(name)} for name in AUGMENTATIONS if name in single}
    named |= {f"codec, {name}": {"codec": {"codecs": [name]}} for name in CodecAugmentation().codecs}
    found = {name: build_augmentation([entry]) for name, entry in named.items()}
    return {"rawboost, algorithm 4, as published (scipy.signal, float64)": plain_rawboost, **found}


def measure(ways: dict[str, Callable], waveform: np.ndarray, *, repeats: int) -> dict[str, float]:
    """Milliseconds of each, the best of the repeats, after a call that does not count."""
    best = dict.fromkeys(ways, np.inf)
    for repeat in range(repeats + 1):
        for name, augment in ways.items():
            begin = time.process_time()
            for seed in range(NUM_GENERATORS if repeat else 1):
                augment(waveform, RATE, np.random.default_rng(seed))
            if repeat:
                best[name] = min(best[name], 1000 / NUM_GENERATORS * (time.process_time() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--noise_folder", help="of recordings, instead of made ones")
    parser.add_argument("--response_folder", help="of responses of rooms, instead of made ones")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as train.py does

    columns = []
    with tempfile.TemporaryDirectory() as folder:
        made = {name: Path(folder, name) for name in ("recordings", "rooms")}
        for path in made.values():
            path.mkdir()
        for i in range(10):
            sf.write(made["recordings"] / f"{i}.wav", speech_like(RATE, 10.0, i), RATE)
            decay = np.exp(-np.arange(RATE // 2) / 1000)
            response = decay * np.random.default_rng(i).standard_normal(RATE // 2)
            sf.write(made["rooms"] / f"{i}.wav", response / np.abs(response).max(), RATE)
        folders = arguments.noise_folder or made["recordings"], arguments.response_folder or made["rooms"]
        augmentations = list_augmentations(*map(str, folders))
        for seconds in SECONDS:
            waveform = speech_like(RATE, seconds, 0)
            path = Path(folder, f"{seconds}.flac")
            sf.write(path, waveform, RATE)
            ways = {"(decoding the FLAC file)": lambda *_, path=path: decode_audio(path), **augmentations}
            columns.append(measure(ways, waveform, repeats=arguments.repeats))

    print(f"{'CPU ms of one core, best repeat':<62}{'4 s':>8}{'12 s':>8}{f'{CORES} cores: 4 s a second':>26}")
    for name, short in columns[0].items():
        print(f"{name:<62}{short:>8.2f}{columns[1][name]:>8.2f}{CORES * 1000 / short:>26,.0f}")
    environment = describe_environment()
    hardware, versions = environment["hardware"], environment["versions"]
    print(f"\n{hardware['cpu']}, {hardware['cores']} cores; numpy {np.__version__}", end=", ")
    print(f"torch {versions['torch']}; {arguments.repeats} repeats; {date.today()}")


if __name__ == "__main__":
    main()
