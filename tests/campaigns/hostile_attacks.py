"""The attacks of `hostile_folders.py`: each writes something hostile and returns the call that meets it."""

# ruff: noqa: E402  the modules of the tests lie above

import io
import json
import os
import pickle
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml


sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import TINY_RECIPE
from made_run import add_evaluation, gradient_log, made_scores, made_trials, make_run, write_log
from tiny_base_model import ENCODER_SIZES, save_base_model
from tiny_model import save_tiny_model


RATE = 16_000
WILD = (0, -1, 10**12, 1e308, float("nan"), "x", None, [], {}, [[1]], True)


@dataclass(frozen=True)
class Place:
    """Where an attack takes place: `kept` is made once, `input` and `output` are empty before each."""

    root: Path

    @property
    def kept(self) -> Path:
        return self.root / "cache" / "kept"

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def canary(self) -> Path:
        return self.root / "surroundings" / "canary"

    @property
    def secret(self) -> Path:
        return self.root / "surroundings" / "secret.txt"

    def prepare(self) -> None:
        """A small model, a corpus, a run that can be resumed, and the run of a publication."""
        import eval as eval_script
        import train

        save_tiny_model(self.kept / "model")
        save_base_model(self.kept / "base", do_normalize=True)
        generator = np.random.default_rng(0)
        for split, label in ((split, label) for split in ("train", "dev") for label in ("real", "fake")):
            (self.kept / "corpus" / split / label).mkdir(parents=True)
            for i in range(16):
                path = self.kept / "corpus" / split / label / f"{split}-{label}-{i}.wav"
                soundfile.write(path, 0.1 * generator.standard_normal(RATE), RATE)
        training = {**TINY_RECIPE["training"], "num_train_epochs": 2, "dataloader_num_workers": 0}
        recipe = {**TINY_RECIPE, "training": {**training, "report_to": "none"}}
        (self.kept / "tiny.yaml").write_text(yaml.safe_dump(recipe))
        encoder = {**ENCODER_SIZES, "model_type": "wav2vec2"}
        of_encoder = {"model_type": "wav2vec2-antispoofing", "num_samples": 8000, "encoder_config": encoder}
        (self.kept / "encoder.yaml").write_text(yaml.safe_dump({**recipe, "model": of_encoder}))
        train.main([*map(str, [*self.training(self.kept / "tiny.yaml"), "--output_dir", self.kept / "run"])])
        calibrated = Path(shutil.copytree(self.kept / "model", self.kept / "calibrated"))
        corpus = ["--dataset", self.kept / "corpus", "--split", "dev", "--calibrate"]
        eval_script.main([*map(str, ["--model", calibrated, *corpus])])
        run, trials = make_run(self.kept / "published"), made_trials()
        add_evaluation(run, trials, made_scores(trials, seed=1))

    def training(self, recipe: Path, corpus: Path | None = None) -> list:
        return ["--model", recipe, "--dataset", corpus or self.kept / "corpus", "--use_cpu", "true"]

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.kept / name, self.input / name))

    def change_json(self, path: Path, **values) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def score(self, model: Path, *more) -> list:
        files = self.kept / "corpus" / "dev" / "real" / "dev-real-0.wav"
        return ["eval", "--model", model, "--files", files, "--output_dir", self.output / "scores", *more]

    def publish(self, run: Path) -> list:
        return ["hub_cards.publish", run, "--repo_id", "org/name", "--dry_run"]


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def write_pickle(place: Place, path: Path, *, by_torch: bool = True) -> Path:
    content = {"weight": Payload(place.canary)}
    torch.save(content, path) if by_torch else path.write_bytes(pickle.dumps(content))
    return path


def attack_weights(place: Place, name: str) -> list:
    model = place.copy("model")
    (model / "model.safetensors").unlink()
    write_pickle(place, model / name)
    return place.score(model)


def attack_base_model(place: Place) -> list:
    base = place.copy("base")
    (base / "model.safetensors").unlink()
    write_pickle(place, base / "pytorch_model.bin")
    return [
        "train",
        *place.training(place.kept / "encoder.yaml"),
        "--base_model",
        base,
        "--output_dir",
        place.output / "run",
    ]


def attack_converter(place: Place, converter: str, by_torch: bool) -> list:
    checkpoint = write_pickle(place, place.input / "best.pth", by_torch=by_torch)
    system = ["--system", "lcnn"] if converter == "study" else []
    return [
        f"modeling.convert_{converter}_checkpoint",
        "--checkpoint",
        checkpoint,
        "--output_dir",
        place.output / "m",
        *system,
    ]


def attack_checkpoint(place: Place, name: str) -> list:
    """The newest checkpoint and the finished model are gone; in the other lies a pickle."""
    run = Path(shutil.copytree(place.kept / "run", place.output / "run"))
    shutil.rmtree(max(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])))
    for path in (run / "config.json", run / "model.safetensors"):
        path.unlink()
    write_pickle(place, next(run.glob("checkpoint-*")) / name)
    return [
        "train",
        *place.training(place.kept / "tiny.yaml"),
        "--output_dir",
        run,
        "--resume_from_checkpoint",
        "last",
    ]


def attack_segment_labels(place: Place) -> list:
    np.save(place.input / "labels.npy", np.array([Payload(place.canary)], dtype=object), allow_pickle=True)
    return place.score(place.kept / "model", "--segment_labels", place.input / "labels.npy")


def attack_onnx(place: Place, content: bytes) -> list:
    model = place.copy("model")
    (model / "model.onnx").write_bytes(content)
    return place.score(model)


def attack_auto_map(place: Place, config: str, reference: str, **values) -> list:
    model = place.copy("model")
    code = f"import pathlib\npathlib.Path({str(place.canary)!r}).touch()\nclass Model: pass\n"
    for folder in (model, place.input, model / "kept"):
        folder.mkdir(exist_ok=True)
        (folder / "evil.py").write_text(code)
    auto = {
        name: reference for name in ("AutoConfig", "AutoModelForAudioClassification", "AutoFeatureExtractor")
    }
    place.change_json(model / config, auto_map=auto, **values)
    return place.score(model)


def attack_config(place: Place, config: str, name: str, value: object) -> list:
    model = place.copy("model")
    place.change_json(model / config, **{name: value})
    return place.score(model)


def attack_nesting(place: Place) -> list:
    model = place.copy("model")
    (model / "config.json").write_text('{"model_type": "rawnet2", "x": ' + "[" * 10**5 + "]" * 10**5 + "}")
    return place.score(model)


def attack_header(place: Place, length: int | None, header: dict | bytes) -> list:
    """A safetensors file whose header lies."""
    model = place.copy("model")
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", length or len(text)) + text + bytes(64))
    return place.score(model)


def attack_index(place: Place, name: str, publish: bool) -> list:
    """An index that names weights of another folder."""
    folder = place.copy("published" if publish else "model")
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "results", ignore_errors=True)  # which are of the weights that were there
    (folder / "model.safetensors").rename(place.input / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"weight": name}})
    )
    return place.publish(folder) if publish else place.score(folder)


def attack_recipe(place: Place, text: str) -> list:
    recipe = place.input / "recipe.yaml"
    recipe.write_text((place.kept / "tiny.yaml").read_text() + text.replace("CANARY", str(place.canary)))
    return ["train", *place.training(recipe), "--num_train_epochs", "1", "--save_total_limit", "1"]


def attack_run(place: Place, change: Callable[[Place, Path], object]) -> list:
    """A run that is published, in which something is changed."""
    run = place.copy("published")
    change(place, run)
    return place.publish(run)


def name_system(place: Place, run: Path, name: str) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "system": name, "description": name}))
    place.change_json(run / "training.json", system=name, corpus=name)
    write_log(run, gradient_log([1.0, 2.0], [0.2, 0.1]), 20)


def link_secret(place: Place, run: Path, name: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(place.secret)


def name_condition(place: Place, run: Path) -> None:
    place.change_json(run / "results" / "eval" / "results.json", conditions={"../../../../x": {}})
    (place.input / "x").mkdir()
    shutil.copy(place.secret, place.input / "x" / "scores.txt")


def write_tar(path: Path, name: str, content: bytes = b"", **about) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        for key, value in about.items():
            setattr(member, key, value)
        archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_bomb(path: Path) -> None:
    """Three gibibytes of zeros in three megabytes."""
    chunk = bytes(2**26)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(6):
                with archive.open(f"real/{i}.wav", "w") as member:
                    for _ in range(8):
                        member.write(chunk)
        return
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for i in range(6):
            member = tarfile.TarInfo(f"real/{i}.wav")
            member.size = 8 * len(chunk)
            archive.addfile(member, io.BytesIO(8 * chunk))


def attack_archive(place: Place, name: str, write: Callable[[Path], object]) -> list:
    """An archive in place of a corpus."""
    write(place.input / name)
    return [
        "eval",
        "--model",
        place.kept / "model",
        "--dataset",
        place.input / name,
        "--output_dir",
        place.output / "e",
    ]


def attack_corpus(place: Place, write: Callable[[Place, Path], object], split: str = "dev") -> list:
    corpus = place.copy("corpus")
    write(place, corpus)
    arguments = ["--dataset", corpus, "--split", split, "--output_dir", place.output / "e"]
    return ["eval", "--model", place.kept / "model", *arguments]


def write_script(place: Place, corpus: Path) -> None:
    """What `datasets` once ran: a script of the folder's name."""
    shutil.rmtree(corpus / "train")
    for name in ("corpus.py", "dataset.py", "evil.py", "__init__.py"):
        (corpus / name).write_text(f"open({str(place.canary)!r}, 'w')\n")
    (corpus / "README.md").write_text(
        f"---\nconfigs: !!python/object/apply:os.system ['touch {place.canary}']\n---\n"
    )


def write_metadata(place: Place, corpus: Path, file: str) -> None:
    """All is one split, "train"."""
    shutil.rmtree(corpus / "train")
    (corpus / "dev").rename(corpus / "all")
    (corpus / "metadata.csv").write_text(f"file_name,label\n{file},real\nall/fake/dev-fake-0.wav,fake\n")


def write_saved(place: Place, corpus: Path) -> None:
    shutil.rmtree(corpus)
    corpus.mkdir()
    state = {
        "_data_files": [{"filename": "../../surroundings/secret.txt"}],
        "_fingerprint": "../../surroundings/x",
    }
    (corpus / "state.json").write_text(json.dumps({**state, "_format_type": None, "_split": "train"}))
    for name in ("dataset_info.json", "data.arrow"):
        (corpus / name).write_text("{}")


def attack_name(place: Place, name: str) -> list:
    file = place.input / name
    shutil.copy(place.kept / "corpus" / "dev" / "real" / "dev-real-0.wav", file)
    return [*place.score(place.copy("calibrated"), "--report"), "--files", file]


def attack_shard(place: Place) -> list:
    content = (place.kept / "corpus" / "dev" / "real" / "dev-real-0.wav").read_bytes()
    write_tar(place.input / "a.tar", "../../surroundings/evil.wav", content)
    arguments = ["--input", place.input / "a.tar", "--output", place.output / "scores", "--use_cpu"]
    return ["processing.scale", "--model", place.kept / "model", *arguments]


def list_attacks() -> Iterator[tuple[str, Callable[[Place], list], bool]]:
    """Name, what writes it and returns the call, and whether the call can only be refused."""
    for name in ("pytorch_model.bin", "model.safetensors", "model.bin", "adapter_model.bin"):
        yield f"pickle: {name}", partial(attack_weights, name=name), True
    yield "pickle: base model", attack_base_model, True
    for converter in ("rawnet2", "aasist", "ssl", "study", "lfcc_gmm"):
        for by_torch in (True, False):
            build = partial(attack_converter, converter=converter, by_torch=by_torch)
            yield f"pickle: {converter} converter, {'torch' if by_torch else 'plain'}", build, True
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "pytorch_model.bin"):
        must = name in ("optimizer.pt", "scheduler.pt", "rng_state.pth")
        yield f"pickle: checkpoint, {name}", partial(attack_checkpoint, name=name), must
    yield "pickle: segment labels", attack_segment_labels, True
    for kind, content in (("garbage", b"\x08\x07garbage"), ("empty", b""), ("pickle", pickle.dumps([1]))):
        yield f"onnx: {kind}", partial(attack_onnx, content=content), True
    for reference in (
        "evil.Model",
        "../evil.Model",
        "..evil.Model",
        "kept/evil.Model",
        "org/evil--evil.Model",
    ):
        for kind, config, values in (
            ("known type", "config.json", {}),
            ("unknown type", "config.json", {"model_type": "evil"}),
            ("extractor", "preprocessor_config.json", {"feature_extractor_type": "Evil"}),
        ):
            build = partial(attack_auto_map, config=config, reference=reference, **values)
            yield f"auto_map: {kind}, {reference}", build, bool(values)
    keys = (
        "num_samples sinc_filters block_channels gru_hidden_size num_gru_layers id2label dtype architectures"
    )
    keys += (
        " decision_threshold calibration quantization_config _attn_implementation model_type sampling_rate"
    )
    for i, key in enumerate(keys.split()):
        for value in (WILD[i % len(WILD)], WILD[(i + 2) % len(WILD)], WILD[(i + 5) % len(WILD)]):
            yield (
                f"config: {key} {value!r}",
                partial(attack_config, config="config.json", name=key, value=value),
                False,
            )
    for key in ("num_samples", "sampling_rate", "padding", "feature_extractor_type"):
        for value in WILD[:6]:
            build = partial(attack_config, config="preprocessor_config.json", name=key, value=value)
            yield f"config: extractor, {key} {value!r}", build, False
    for value in ("kernels-community/evil", "org/evil:run"):
        yield (
            f"config: attention {value}",
            partial(attack_config, config="config.json", name="_attn_implementation", value=value),
            False,
        )
    yield "config: nesting", attack_nesting, True
    tensor = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    for kind, length, header in (
        ("length", 2**62, {"weight": tensor}),
        ("zero length", 2**31, b"{}"),
        ("offsets", None, {"weight": {**tensor, "data_offsets": [0, 2**60]}}),
        ("negative", None, {"weight": {**tensor, "data_offsets": [-4, 60]}}),
        ("shape", None, {"weight": {**tensor, "shape": [2**40, 2**40]}}),
        ("type", None, {"weight": {**tensor, "dtype": "PICKLE"}}),
        ("overlap", None, {"weight": tensor, "other": tensor}),
        ("no JSON", None, b"{" * 1000),
        ("names", None, {"../../weight": tensor}),
    ):
        yield f"safetensors: {kind}", partial(attack_header, length=length, header=header), True
    for name in ("../other.safetensors", "/etc/passwd", "../../surroundings/secret.txt"):
        for publish in (False, True):
            yield (
                f"index: {name}, {'published' if publish else 'scored'}",
                partial(attack_index, name=name, publish=publish),
                True,
            )
    levels = "".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
    for kind, text in (
        ("object", "\nsystem: !!python/object/apply:os.system ['touch CANARY']\n"),
        ("name", "\nsystem: !!python/name:os.system\n"),
        ("aliases", f"\nreported:\n  l0: &l0 [lol, lol]\n{levels}"),
        ("../", "\nsystem: ../../../surroundings/evil\n"),
        ("absolute", "\nsystem: /../../surroundings/evil\n"),
        ("output", "\ntraining: {output_dir: ../surroundings/evil, num_train_epochs: 1}\n"),
        ("push", "\ntraining: {push_to_hub: true, hub_model_id: evil/x}\n"),
        ("logging", "\ntraining: {logging_dir: ../surroundings/evil, num_train_epochs: 1}\n"),
        ("deepspeed", "\ntraining: {deepspeed: ../surroundings/secret.txt, num_train_epochs: 1}\n"),
    ):
        yield f"recipe: {kind}", partial(attack_recipe, text=text), True
    for name in (
        "../../../surroundings/evil",
        "{{ 7 * 7 }}<script>alert(1)",
        "a\n---\nb: !!python/name:os.system",
        "[x](javascript:a)|`",
    ):
        yield f"card: {name!r}", partial(attack_run, change=partial(name_system, name=name)), False
    for name in (
        "training.json",
        "results/eval/results.json",
        "results/eval/scores.txt",
        "learning_curves/tiny.png",
    ):
        yield f"card: {name} is a link", partial(attack_run, change=partial(link_secret, name=name)), True
    yield "card: condition ../", partial(attack_run, change=name_condition), True
    for kind, name, write in (
        (
            "../",
            "a.zip",
            partial(write_zip, members={"../../../../../../../../../evil.wav": b"x", "real/a.wav": b"x"}),
        ),
        ("../ of tar", "a.tar.gz", partial(write_tar, name="../../../../evil.wav", content=b"x")),
        ("absolute", "a.tar.gz", partial(write_tar, name="/evil/evil.wav", content=b"x")),
        ("link", "a.tar.gz", partial(write_tar, name="a.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        ("hard link", "a.tar.gz", partial(write_tar, name="a.wav", type=tarfile.LNKTYPE, linkname="../../x")),
        ("pipe", "a.tar.gz", partial(write_tar, name="a.wav", type=tarfile.FIFOTYPE)),
        ("size", "a.tar.gz", partial(write_tar, name="a.wav", content=b"x" * 512)),
        ("bomb", "a.zip", write_bomb),
        ("bomb of tar", "a.tar.gz", write_bomb),
        ("no zip", "a.zip", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100))),
    ):
        yield f"archive: {kind}", partial(attack_archive, name=name, write=write), True
    yield "corpus: script", partial(attack_corpus, write=write_script), False
    for file in (
        "../../surroundings/secret.txt",
        "/etc/passwd",
        "all/real/none.wav",
        "../" * 30 + "dev/zero",
    ):
        yield (
            f"corpus: metadata {file[:30]}",
            partial(attack_corpus, write=partial(write_metadata, file=file), split="train"),
            True,
        )
    yield "corpus: saved elsewhere", partial(attack_corpus, write=write_saved), True
    for kind, make in (("pipe", os.mkfifo), ("zeros", lambda path: os.symlink("/dev/zero", path))):
        yield (
            f"corpus: {kind}",
            partial(attack_corpus, write=lambda _, corpus, make=make: make(corpus / "dev/real/x.wav")),
            False,
        )
    for name in ("<img src=x onerror=alert(1)>.wav", "{{ 7 * 7 }}.wav", "a\nb.wav", "-rf.wav", "\udcff.wav"):
        yield f"recording: {name!r}", partial(attack_name, name=name), False
    yield "shard: ../", attack_shard, False
