"""A small AASIST, its weights under the names of the authors' code, and a model converted from them."""

from pathlib import Path

import torch
import yaml

from hub_cards.recipe import find_recipe
from modeling import AasistConfig, AasistForAudioClassification
from modeling.conversion import SINC_BANK, rename
from modeling.convert_aasist_checkpoint import CONVERTER, make_table
from processing.files import hash_file


SIZES = {
    "sinc_filters": 10,
    "block_channels": [4, 4, 6],
    "graph_size": 5,
    "heterogeneous_graph_size": 3,
    "num_samples": 4000,
}


def write_recipe(path: Path, *, card: dict | None = None, **model) -> Path:
    """The YAML of aasist with `SIZES`, and other values of its card and of the model."""
    content = yaml.safe_load(find_recipe("aasist")[0].read_text())
    content["model"] |= {**SIZES, **model}
    content["card"] |= card or {}
    path.write_text(yaml.safe_dump({**content, "system": "small"}))
    return path


def published_weights() -> tuple[AasistForAudioClassification, dict[str, torch.Tensor]]:
    """A network, all of whose normalisations are used, and its tensors by the names of the authors' code."""
    torch.manual_seed(0)
    model = AasistForAudioClassification(AasistConfig(**SIZES, pre_activation=True)).eval()
    model.classifier.weight.data *= 10  # scores that differ from file to file
    theirs = {ours: name for name, ours in make_table(model.config).items()}
    places = model.state_dict()
    return model, {rename(place, theirs): places[place] for place in places if place != SINC_BANK}


def converted_aasist(folder: Path, *, is_published: bool = False) -> Path:
    """The folder of a converted model, made under `folder`; perhaps of the file that its recipe says is
    published."""
    torch.save(published_weights()[1], folder / "best.pth")
    card = {"checkpoint_sha256": hash_file(folder / "best.pth")} if is_published else {}
    CONVERTER.convert(
        folder / "best.pth", folder / "converted", str(write_recipe(folder / "small.yaml", card=card))
    )
    return folder / "converted"
