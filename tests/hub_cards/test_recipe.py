"""The YAMLs of the systems, and the errors of those that are wrong."""

import pytest
import yaml

from hub_cards.recipe import find_recipe, load_recipe, systems
from modeling import RawNet2Config


def write(path, **changes):
    content = {"system": "mine", "description": "d", "corpus": "demo", "model": {}, "training": {}, **changes}
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return path


@pytest.mark.parametrize("system", systems())
def test_every_system_loads_under_its_own_name(system):
    assert load_recipe(find_recipe(system)[0]).system == system


@pytest.mark.parametrize("system", ["rawnet2", "rawnet2-plateau"])
def test_rawnet2_states_what_the_studys_card_states(system):
    recipe = load_recipe(find_recipe(system)[0])
    settings = {k: v for k, v in recipe.model.items() if k != "model_type"}
    config = RawNet2Config(**settings)

    assert config.id2label == {0: "spoof", 1: "bonafide"}
    assert config.class_weights == {"spoof": 8.837, "bonafide": 1.0}
    assert config.num_samples == 64_000 and config.sinc_filters == 128 and config.sinc_filter_length == 129
    assert list(config.block_channels) == [128, 128, 512, 512, 512, 512]
    assert recipe.training["per_device_train_batch_size"] == 32
    assert float(recipe.training["learning_rate"]) == 1e-4
    assert float(recipe.training["weight_decay"]) == 2e-4
    assert recipe.training["max_grad_norm"] == 1.0
    assert recipe.training["num_train_epochs"] == 60 and recipe.training["early_stopping_patience"] == 15


def test_plateau_and_cosine_schedules():
    plateau, cosine = (load_recipe(find_recipe(name)[0]).training for name in ("rawnet2-plateau", "rawnet2"))

    assert plateau["lr_scheduler_type"] == "reduce_lr_on_plateau"
    assert plateau["lr_scheduler_kwargs"]["patience"] == 3 and plateau["lr_scheduler_kwargs"]["mode"] == "min"
    assert cosine["lr_scheduler_type"] == "cosine"


def test_unknown_system_is_an_error_with_the_nearest_name():
    with pytest.raises(FileNotFoundError, match="did you mean 'rawnet2'"):
        find_recipe("rawnet")


def test_name_of_a_system_means_the_system_even_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "rawnet2").mkdir()
    (tmp_path / "rawnet2" / "recipe.yaml").write_text("system: another")
    monkeypatch.chdir(tmp_path)

    path, weights = find_recipe("rawnet2")

    assert load_recipe(path).system == "rawnet2" and weights is None


def test_folder_of_a_trained_model_is_found_under_the_home_directory(tmp_path, monkeypatch):
    write(tmp_path / "recipe.yaml")
    monkeypatch.setenv("HOME", str(tmp_path.parent))

    path, weights = find_recipe(f"~/{tmp_path.name}")

    assert load_recipe(path).system == "mine" and weights == tmp_path


def test_empty_section_is_an_error_that_names_it(tmp_path):
    path = write(tmp_path / "mine.yaml", training="")

    with pytest.raises(ValueError, match="training must be a mapping"):
        load_recipe(path)


def test_folder_without_recipe_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no recipe.yaml"):
        find_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainning": {}}, "unknown key 'trainning' .did you mean 'training'"),
        ({"corpus": None}, "missing 1 required positional argument: 'corpus'"),
    ],
)
def test_wrong_key_is_an_error_that_names_the_file_and_the_key(tmp_path, changes, message):
    path = write(tmp_path / "mine.yaml", **changes)

    with pytest.raises(ValueError, match=f"mine.yaml.*{message}"):
        load_recipe(path)


@pytest.mark.parametrize("text", ["just text", "a: [1", ""])
def test_file_that_is_no_mapping_is_an_error_that_names_it(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match="mine.yaml is not"):
        load_recipe(path)
