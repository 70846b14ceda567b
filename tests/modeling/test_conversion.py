"""What all converters have in common: which files are read, and which tensors fit."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling.conversion import load_renamed, read_checkpoint, rename


STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1.0, 2.0])}


def write(path, content, **arguments):
    torch.save(content, path, **arguments)
    return path


def check_is_state(tensors):
    assert tensors.keys() == STATE.keys()
    assert all(torch.equal(tensors[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_state_dict_is_read_alone_or_beside_other_things(tmp_path, wrapper):
    content = STATE if wrapper is None else {"epoch": 3, wrapper: STATE, "optimizer": {"state": {0: 1}}}

    check_is_state(read_checkpoint(write(tmp_path / "best.pt", content)))


def test_what_is_beside_the_weights_is_named(tmp_path, caplog):
    check_is_state(read_checkpoint(write(tmp_path / "best.pt", {"epoch": 3, "model": STATE, "ema": {}})))

    assert "model is read, and nothing else of it: epoch, ema" in caplog.text


def test_two_sets_of_weights_are_refused(tmp_path):
    path = write(tmp_path / "best.pt", {"model": STATE, "state_dict": STATE})

    with pytest.raises(
        ValueError, match="best.pt holds weights under 'state_dict' and 'model'. Save only those to convert"
    ):
        read_checkpoint(path)


def test_settings_of_a_model_beside_its_weights_are_no_weights(tmp_path):
    check_is_state(read_checkpoint(write(tmp_path / "best.pt", {"model": {"d": 1}, "state_dict": STATE})))


def test_checkpoint_of_old_torch_and_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")

    check_is_state(read_checkpoint(write(tmp_path / "old.pth", STATE, _use_new_zipfile_serialization=False)))
    check_is_state(read_checkpoint(tmp_path / "model.safetensors"))


def test_prefix_of_data_parallel_is_taken_off_where_all_have_it(tmp_path):
    everywhere = {f"module.{name}": tensor for name, tensor in STATE.items()}
    somewhere = {"module.a": torch.ones(1), "b": torch.ones(1)}

    check_is_state(read_checkpoint(write(tmp_path / "a.pth", everywhere)))
    assert read_checkpoint(write(tmp_path / "b.pth", somewhere)).keys() == somewhere.keys()


class Malicious:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("by", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_checkpoint_that_runs_something_is_refused_and_not_run(tmp_path, by):
    trace, path = tmp_path / "trace", tmp_path / "best.pt"
    by({**STATE, "x": Malicious(os.mkdir, str(trace))}, path)

    with pytest.raises(ValueError, match=r"best.pt cannot be read as tensors.*Nothing of it was run"):
        read_checkpoint(path)
    assert not trace.exists()


def test_whole_module_instead_of_its_state_dict_is_refused_with_the_remedy(tmp_path):
    path = write(tmp_path / "model.pt", torch.nn.Linear(2, 2))

    with pytest.raises(ValueError, match="Linear.*save its state dict alone"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "best.pt cannot be read as tensors: it is empty"),
        (b"not a checkpoint", "best.pt cannot be read"),
        (b"PK\x03\x04 cut off", "best.pt cannot be read as tensors: it is empty, damaged"),
    ],
)
def test_what_is_no_checkpoint_is_one_line_of_error_that_names_the_file(tmp_path, content, message):
    (tmp_path / "best.pt").write_bytes(content)

    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(tmp_path / "best.pt")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("is_zip", [True, False])
def test_cut_off_checkpoint_is_an_error(tmp_path, part, is_zip):
    path = write(tmp_path / "best.pt", STATE, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])

    with pytest.raises(ValueError, match="best.pt cannot be read"):
        read_checkpoint(path)


def test_weights_that_were_damaged_are_refused(tmp_path):
    path = write(tmp_path / "best.pt", {"weight": torch.full((1000,), 0.5)})
    content = path.read_bytes()
    place = content.index(torch.full((1000,), 0.5).numpy().tobytes())
    path.write_bytes(content[: place + 402] + b"\x01" + content[place + 403 :])

    with pytest.raises(ValueError, match=r"best.pt .*damaged.*the checksum of best/data/0 is wrong"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(3), "holds a Tensor"),
        ({}, "an empty one"),
        ({"epoch": 3}, "'epoch' is a int"),
        ({"a": torch.tensor([1.0, float("nan")])}, "'a' holds NaN"),
        ({"a": torch.tensor([float("inf")], dtype=torch.float16)}, "'a' holds NaN, infinity"),
        ({"a": torch.tensor([1e300], dtype=torch.float64)}, "too large for float32"),
        (
            {"a": torch.arange(3)},
            "'a' is no tensor of floating-point numbers, but of torch.int64",
        ),
        ({"a": torch.tensor([True])}, "'a' is no tensor .* torch.bool"),
        ({"a": torch.tensor([1j])}, "'a' is no tensor .* torch.complex64"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(write(tmp_path / "best.pt", content))


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth"):
        read_checkpoint(tmp_path / "none.pth")


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Of a `Network`, as another project names them, without the counter of batches."""
    state = {f"head.0.{name}": tensor for name, tensor in nn.Linear(3, 2).state_dict().items()}
    names = ("weight", "bias", "running_mean", "running_var")
    return state | {f"bn.{name}": torch.rand(2) for name in names} | {"aux.weight": torch.ones(1)}


TABLE = {"head.0": "fc", "bn": "norm", "aux": None}


def test_longest_prefix_counts_and_ends_at_a_dot():
    table = {"head": "a", "head.0": "b", "head.0.bias": "c", "aux": None}

    renamed = {name: rename(name, table) for name in ("head.1.x", "head.0.w", "head.0.bias", "header.w")}

    assert renamed == {"head.1.x": "a.1.x", "head.0.w": "b.w", "head.0.bias": "c", "header.w": "header.w"}
    assert rename("aux.weight", table) is None


def test_tensors_go_to_their_places(tensors):
    network = Network()

    places = load_renamed(network, tensors, TABLE, where="best.pt")

    assert places["aux.weight"] is None and places["head.0.bias"] == "fc.bias"
    assert torch.equal(network.fc.weight, tensors["head.0.weight"])
    assert torch.equal(network.norm.running_var, tensors["bn.running_var"])
    assert network.norm.num_batches_tracked == 0  # which the checkpoint lacks


def test_everything_that_does_not_fit_is_listed_at_once(tensors):
    tensors |= {"stray": torch.ones(1), "bn.bias": torch.ones(5)}
    del tensors["head.0.bias"]

    with pytest.raises(ValueError) as error:
        load_renamed(Network(), tensors, TABLE, where="best.pt")

    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines == [
        "best.pt does not fit the network:",
        "bn.bias (5,): the network's norm.bias is (2,)",
        "stray (1,): the network has no stray",
        "fc.bias (2,): not in the checkpoint, where it is of head.0",
    ]


def test_two_tensors_that_get_one_place_are_refused(tensors):
    tensors["fc.bias"] = torch.ones(2)

    with pytest.raises(ValueError, match="^best.pt: both head.0.bias and fc.bias give the network's fc.bias"):
        load_renamed(Network(), tensors, TABLE, where="best.pt")


def test_batch_counters_of_no_dimension_are_tensors_like_others(tmp_path, tensors):
    tensors["bn.num_batches_tracked"] = torch.tensor(7)
    network = Network()

    load_renamed(network, read_checkpoint(write(tmp_path / "best.pt", tensors)), TABLE, where="best.pt")

    assert network.norm.num_batches_tracked == 7
