"""The converter of XLS-R with AASIST or SLS: state dicts with the published names, made here in small sizes,
against a float64 forward written from the authors' description with those names, on torchaudio's import of
fairseq's encoder."""

import dataclasses
import json
import re

import pytest
import torch
import yaml
from torch.nn import functional as F
from torchaudio.models import wav2vec2_model
from torchaudio.models.wav2vec2.utils.import_fairseq import _convert_state_dict
from transformers import AutoModelForAudioClassification, Wav2Vec2Config, Wav2Vec2Model

from hub_cards.recipe import find_recipe, load_recipe
from modeling import Wav2Vec2AntiSpoofingConfig
from modeling.conversion import rename
from modeling.convert_ssl_checkpoint import main, make_table


SYSTEMS = ["xlsr-aasist", "xlsr-sls"]
WIDTH, LAYERS, CHANNELS = 32, 3, 16
NUM_SAMPLES = 8000  # 24 frames
XLS_R = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
ENCODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [CHANNELS] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
# Of transformers' convert_wav2vec2_original_pytorch_checkpoint_to_pytorch.py: a part of fairseq's name, ours.
MAPPING = {
    "post_extract_proj": "feature_projection.projection",
    "encoder.pos_conv.0": "encoder.pos_conv_embed.conv",
    "self_attn.k_proj": "encoder.layers.*.attention.k_proj",
    "self_attn.v_proj": "encoder.layers.*.attention.v_proj",
    "self_attn.q_proj": "encoder.layers.*.attention.q_proj",
    "self_attn.out_proj": "encoder.layers.*.attention.out_proj",
    "self_attn_layer_norm": "encoder.layers.*.layer_norm",
    "fc1": "encoder.layers.*.feed_forward.intermediate_dense",
    "fc2": "encoder.layers.*.feed_forward.output_dense",
    "final_layer_norm": "encoder.layers.*.final_layer_norm",
    "encoder.layer_norm": "encoder.layer_norm",
    "w2v_model.layer_norm": "feature_projection.layer_norm",
}
PRE_TRAINING = {
    "mask_emb": (WIDTH,),
    "quantizer.vars": (1, 16, 8),
    "quantizer.weight_proj.weight": (16, CHANNELS),
}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int, *, of_batch: bool = True) -> dict[str, tuple]:
    names = ["weight", "bias", *(["running_mean", "running_var"] if of_batch else [])]
    counter = {f"{name}.num_batches_tracked": ()} if of_batch else {}
    return {f"{name}.{part}": (size,) for part in names} | counter


def conv(name: str, *shape: int) -> dict[str, tuple]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def shapes_of_encoder() -> dict[str, tuple]:
    shapes = {**PRE_TRAINING, **linear("project_q", 8, 8), **linear("final_proj", WIDTH, 8)}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        layer = f"feature_extractor.conv_layers.{i}"
        shapes |= conv(f"{layer}.0", CHANNELS, CHANNELS if i else 1, kernel)
        shapes |= norm(f"{layer}.2.1", CHANNELS, of_batch=False)
    shapes |= norm("layer_norm", CHANNELS, of_batch=False) | linear("post_extract_proj", CHANNELS, WIDTH)
    shapes |= {"encoder.pos_conv.0.bias": (WIDTH,), "encoder.pos_conv.0.weight_g": (1, 1, 16)}
    shapes |= {"encoder.pos_conv.0.weight_v": (WIDTH, WIDTH // 4, 16)}
    for i in range(LAYERS):
        layer = f"encoder.layers.{i}"
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", WIDTH, WIDTH)
        shapes |= linear(f"{layer}.fc1", WIDTH, 64) | linear(f"{layer}.fc2", 64, WIDTH)
        for part in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= norm(f"{layer}.{part}", WIDTH, of_batch=False)
    shapes |= norm("encoder.layer_norm", WIDTH, of_batch=False)
    return {f"ssl_model.model.{name}": shape for name, shape in shapes.items()}


def shapes_of_aasist() -> dict[str, tuple]:
    shapes = {"pos_S": (1, 42, 64), "master1": (1, 1, 64), "master2": (1, 1, 64)}
    shapes |= (
        linear("LL", WIDTH, 128) | linear("out_layer", 160, 2) | norm("first_bn", 1) | norm("first_bn1", 64)
    )
    for i, (inputs, outputs) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64), (64, 64), (64, 64)]):
        block = f"encoder.{i}.0"
        shapes |= norm(f"{block}.bn1", inputs) if i else {}
        shapes |= conv(f"{block}.conv1", outputs, inputs, 2, 3) | norm(f"{block}.bn2", outputs)
        shapes |= conv(f"{block}.conv2", outputs, outputs, 2, 3)
        shapes |= conv(f"{block}.conv_downsample", outputs, inputs, 1, 3) if inputs != outputs else {}
    shapes |= (
        conv("attention.0", 128, 64, 1, 1) | norm("attention.2", 128) | conv("attention.3", 64, 128, 1, 1)
    )
    projections = ("att_proj", "proj_with_att", "proj_without_att")
    for graph in ("S", "T"):
        layer = f"GAT_layer_{graph}"
        shapes |= {
            f"{layer}.att_weight": (64, 1),
            **norm(f"{layer}.bn", 64),
            **linear(f"pool_{graph}.proj", 64, 1),
        }
        for part in projections:
            shapes |= linear(f"{layer}.{part}", 64, 64)
        for i in (1, 2):
            shapes |= linear(f"pool_h{graph}{i}.proj", 32, 1)
    for number, inputs in (("11", 64), ("12", 32), ("21", 64), ("22", 32)):
        layer = f"HtrgGAT_layer_ST{number}"
        shapes |= {f"{layer}.att_weight{kind}": (32, 1) for kind in ("11", "22", "12", "M")}
        shapes |= norm(f"{layer}.bn", 32)
        for part in ("proj_type1", "proj_type2"):
            shapes |= linear(f"{layer}.{part}", inputs, inputs)
        for part in (*projections, *(f"{name}M" for name in projections)):
            shapes |= linear(f"{layer}.{part}", inputs, 32)
    return shapes


def shapes_of_sls() -> dict[str, tuple]:
    cells = (24 // 3) * (WIDTH // 3)
    return {
        **norm("first_bn", 1),
        **linear("fc0", WIDTH, 1),
        **linear("fc1", cells, 12),
        **linear("fc3", 12, 2),
    }


BACK_ENDS = {"xlsr-aasist": shapes_of_aasist, "xlsr-sls": shapes_of_sls}


def published_state(system: str) -> dict[str, torch.Tensor]:
    """A state dict with the published names in which no two tensors have a value in common."""
    generator, state = torch.Generator().manual_seed(0), {}
    for number, (name, shape) in enumerate({**shapes_of_encoder(), **BACK_ENDS[system]()}.items()):
        noise = torch.rand(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1000 + number)
        elif name.endswith(("running_var", "weight_g")) or (name.endswith("weight") and len(shape) == 1):
            state[name] = 0.5 + noise
        else:
            fan_in = noise[0].numel() if noise.ndim > 1 and shape[-1] > 1 else 2
            state[name] = (2 * noise - 1) * 2 / fan_in**0.5
    return state


def encode(state: dict[str, torch.Tensor], waveform: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """By torchaudio: the blocks' outputs, and the last one after the norm above it, (1, frames, width)."""
    model = wav2vec2_model(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[
            (CHANNELS, kernel, stride)
            for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)
        ],
        extractor_conv_bias=True,
        encoder_embed_dim=WIDTH,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=16,
        encoder_pos_conv_groups=4,
        encoder_num_layers=LAYERS,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=True,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    ).eval()
    prefix = "ssl_model.model."
    theirs = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    model.load_state_dict(_convert_state_dict(theirs))
    model, waveform = model.double(), waveform.double()
    with torch.no_grad():
        return model.extract_features(waveform)[0], model(waveform)[0]


class Published:
    """Layers of the published back ends in eval mode, in float64."""

    def __init__(self, state: dict[str, torch.Tensor]):
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def conv(self, x, name, padding=0):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=padding)

    def norm(self, x, name):
        parts = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{part}"] for part in parts))

    def block(self, x, name):
        y = F.selu(self.norm(self.conv(x, f"{name}.conv1", (1, 1)), f"{name}.bn2"))
        is_wider = f"{name}.conv_downsample.weight" in self.state
        x = self.conv(x, f"{name}.conv_downsample", (0, 1)) if is_wider else x
        return x + self.conv(y, f"{name}.conv2", (0, 1))

    def project(self, nodes, energies, name, temperature):
        x = (energies / temperature).softmax(2) @ nodes
        x = self.linear(x, f"{name}.proj_with_att") + self.linear(nodes, f"{name}.proj_without_att")
        return F.selu(self.norm(x.transpose(1, 2), f"{name}.bn").transpose(1, 2))

    def pairs(self, nodes, name):
        return torch.tanh(self.linear(nodes[:, :, None] * nodes[:, None], f"{name}.att_proj"))

    def graph(self, nodes, name):
        energies = (self.pairs(nodes, name) @ self.state[f"{name}.att_weight"])[..., 0]
        return self.project(nodes, energies, name, 2.0)

    def heterogeneous(self, temporal, spectral, master, name):
        split = temporal.shape[1]
        parts = self.linear(temporal, f"{name}.proj_type1"), self.linear(spectral, f"{name}.proj_type2")
        nodes = torch.cat(parts, dim=1)
        hidden = self.pairs(nodes, name)
        of = {kind: (hidden @ self.state[f"{name}.att_weight{kind}"])[..., 0] for kind in ("11", "22", "12")}
        energies = of["12"]
        energies[:, :split, :split] = of["11"][:, :split, :split]
        energies[:, split:, split:] = of["22"][:, split:, split:]
        energy = (
            torch.tanh(self.linear(nodes * master, f"{name}.att_projM")) @ self.state[f"{name}.att_weightM"]
        )
        gathered = (energy / 100.0).softmax(1).transpose(1, 2) @ nodes
        master = self.linear(gathered, f"{name}.proj_with_attM") + self.linear(
            master, f"{name}.proj_without_attM"
        )
        nodes = self.project(nodes, energies, name, 100.0)
        return nodes[:, :split], nodes[:, split:], master

    def keep(self, nodes, name):
        weights = torch.sigmoid(self.linear(nodes, f"{name}.proj"))
        places = weights[0, :, 0].topk(nodes.shape[1] // 2).indices
        return (nodes * weights)[:, places]


def aasist_logits(state: dict[str, torch.Tensor], encoded: tuple) -> torch.Tensor:
    net = Published(state)
    x = net.linear(encoded[1], "LL").transpose(1, 2)[:, None]
    x = F.selu(net.norm(F.max_pool2d(x, 3), "first_bn"))
    for i in range(6):
        x = net.block(x, f"encoder.{i}.0")
    x = F.selu(net.norm(x, "first_bn1"))
    w = net.conv(net.norm(F.selu(net.conv(x, "attention.0")), "attention.2"), "attention.3")
    spectral = (x * w.softmax(-1)).sum(-1).transpose(1, 2) + net.state["pos_S"]
    temporal = (x * w.softmax(-2)).sum(-2).transpose(1, 2)
    spectral = net.keep(net.graph(spectral, "GAT_layer_S"), "pool_S")
    temporal = net.keep(net.graph(temporal, "GAT_layer_T"), "pool_T")
    branches = []
    for i in (1, 2):
        t, s, m = net.heterogeneous(temporal, spectral, net.state[f"master{i}"], f"HtrgGAT_layer_ST{i}1")
        t, s = net.keep(t, f"pool_hT{i}"), net.keep(s, f"pool_hS{i}")
        added = net.heterogeneous(t, s, m, f"HtrgGAT_layer_ST{i}2")
        branches.append([a + b for a, b in zip((t, s, m), added, strict=True)])
    t, s, m = (torch.maximum(*parts) for parts in zip(*branches, strict=True))
    readout = [t.abs().amax(1), t.mean(1), s.abs().amax(1), s.mean(1), m[:, 0]]
    return net.linear(torch.cat(readout, dim=1), "out_layer")[0]


def sls_logits(state: dict[str, torch.Tensor], encoded: tuple) -> torch.Tensor:
    net, layers = Published(state), torch.stack(encoded[0], dim=1)  # (1, layers, frames, width)
    gates = torch.sigmoid(net.linear(layers.mean(2), "fc0"))[:, :, None]
    x = F.selu(net.norm((layers * gates).sum(1, keepdim=True), "first_bn"))
    x = F.selu(net.linear(F.max_pool2d(x, 3).flatten(1), "fc1"))
    return F.selu(net.linear(x, "fc3"))[0]


LOGITS = {"xlsr-aasist": aasist_logits, "xlsr-sls": sls_logits}


def write_system(folder, system: str):
    """A YAML of the system in the small size."""
    recipe = dataclasses.asdict(load_recipe(find_recipe(system)[0]))
    recipe["model"]["num_samples"] = NUM_SAMPLES
    recipe["model"]["encoder_config"] |= ENCODER
    recipe["model"] |= {"classifier_proj_size": 12} if system == "xlsr-sls" else {}
    path = folder / f"{system}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="module", params=SYSTEMS)
def converted(request, tmp_path_factory):
    """A system, the state dict, which is saved as from several GPUs, and the folder of the model."""
    folder, state = tmp_path_factory.mktemp(request.param), published_state(request.param)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "best.pth")
    paths = {"--checkpoint": folder / "best.pth", "--output_dir": folder / "out"}
    paths["--system"] = write_system(folder, request.param)
    main([str(word) for option in paths.items() for word in option])
    return request.param, state, folder / "out"


def test_logits_are_those_of_the_published_description(converted):
    system, state, folder = converted
    waveform = 0.1 * torch.randn(1, NUM_SAMPLES, generator=torch.Generator().manual_seed(1))

    model = AutoModelForAudioClassification.from_pretrained(folder).double()
    with torch.no_grad():
        logits = model(waveform.double()).logits[0]

    expected = LOGITS[system](state, encode(state, waveform))
    assert expected.diff().abs() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-8, rtol=0)
    assert model.config.id2label == {0: "spoof", 1: "bonafide"}


def test_encoder_has_the_tensors_that_transformers_own_converter_gives_it(converted):
    _, state, folder = converted
    encoder = Wav2Vec2Model(Wav2Vec2Config(**ENCODER, **XLS_R, mask_time_prob=0.0))
    places = {}
    for name in state:
        theirs = name.replace("ssl_model.model.", "w2v_model.")
        if found := re.search(r"conv_layers\.(\d)\.(0|2\.1)\.(weight|bias)", theirs):
            part = "conv" if found[2] == "0" else "layer_norm"
            places[f"feature_extractor.conv_layers.{found[1]}.{part}.{found[3]}"] = name
        elif theirs.startswith("w2v_model."):
            for part, ours in MAPPING.items():
                if part in theirs:
                    layer = theirs.split(part)[0].split(".")[-2] if "*" in ours else ""
                    places[f"{ours.replace('*', layer)}.{theirs.rpartition('.')[2]}"] = name
    # Into the module, whose weight norm knows its older names.
    encoder.load_state_dict({place: state[name] for place, name in places.items()})

    loaded = AutoModelForAudioClassification.from_pretrained(folder).encoder.state_dict()
    assert loaded.keys() == encoder.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in encoder.state_dict().items())


def test_every_tensor_arrives_at_one_place_or_is_named_as_unused(converted):
    system, state, folder = converted
    record = json.loads((folder / "conversion.json").read_text())

    placed = AutoModelForAudioClassification.from_pretrained(folder).state_dict()
    if system == "xlsr-sls":
        assert not placed.pop("classifier.bias").any()  # which has no counterpart
    for name in state.keys() - set(record["unused"]):
        places = [place for place, found in placed.items() if torch.equal(found, state[name])]
        assert len(places) == 1, (name, places)
        del placed[places[0]]
    assert not placed
    names = ["ssl_model.model.mask_emb"]
    names += [
        f"ssl_model.model.{n}" for n in ("final_proj", "project_q", "quantizer", "quantizer.weight_proj")
    ]
    names += [f"encoder.{i}.0.bn1" for i in range(1, 6)] if system == "xlsr-aasist" else []
    said = ", ".join(f"`{name}`" for name in sorted(names))
    assert f"that the network does not use were left out: {said}." in (folder / "README.md").read_text()


def test_tensors_that_hardly_move_the_logits_are_at_their_places():
    config = load_recipe(find_recipe("xlsr-aasist")[0]).build_config()
    table = make_table(config)

    theirs = [f"HtrgGAT_layer_ST21.att_weight{kind}" for kind in ("11", "22", "12", "M")]
    ours = [f"{kind}_energy" for kind in ("temporal", "spectral", "mixed", "stack")]
    assert [rename(name, table) for name in theirs] == [f"backend.branches.1.first.{name}" for name in ours]
    norm_of_positions = "encoder.encoder.pos_conv_embed.conv.parametrizations.weight.original"
    for part in ("parametrizations.weight.original", "weight_g", "weight_v"):
        for number in "01" if part.startswith("par") else {"weight_g": "0", "weight_v": "1"}[part]:
            name = part + number if part.startswith("par") else part
            assert rename(f"ssl_model.model.encoder.pos_conv.0.{name}", table) == norm_of_positions + number


def test_other_back_end_is_refused():
    with pytest.raises(ValueError, match="backend is mean: only aasist and sls can be converted"):
        make_table(Wav2Vec2AntiSpoofingConfig())
