"""Every recipe takes a few steps on generated lines of its own format."""

import dataclasses
import math
from types import SimpleNamespace

import pytest

from robe.data import Field, PreparedDataset, generate_kaggle, generate_terabyte, prepare_criteo
from robe.recipes import RECIPES, get_recipe, run_recipe, scaled
from robe.train import build_model, load_run, resolve
from robe.train.optimizers import build_optimizers

LINES = 2400


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data set of a recipe, prepared once for all recipes that share it."""
    folder = tmp_path_factory.mktemp("recipes")
    raw = {"criteo-kaggle": [generate_kaggle(folder / "train.txt", LINES, scale=1e-4)]}
    generate_terabyte(folder / "tb", LINES, scale=1e-5)
    raw["criteo-tb"] = [folder / "tb" / f"day_{day}" for day in range(24)]
    made = {}

    def get(recipe):
        if recipe.spec not in made:
            made[recipe.spec] = folder / f"data{len(made)}"
            prepare_criteo(raw[recipe.spec.recipe], made[recipe.spec], recipe.spec)
        return made[recipe.spec]

    return get


def small(recipe, **train):
    train = {"max_steps": 2, "batch_size": 128, "log_every": 1, "threads": 1, **train}
    config = recipe.config
    return dataclasses.replace(
        recipe, config=dataclasses.replace(config, train=dataclasses.replace(config.train, **train))
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name, prepared, tmp_path):
    recipe = scaled(get_recipe(name), 1e-4)
    assert recipe.name == name
    result = run_recipe(small(recipe), tmp_path, data=prepared(recipe))
    assert result.steps == 2
    assert all(math.isfinite(value) for split in result.metrics.values() for value in split.values())
    assert load_run(tmp_path / "run").config.model.name == recipe.config.model.name


def test_names_and_numbers():
    assert len(RECIPES) == 6 * 6 + 6 + 4 * 3
    for name, recipe in RECIPES.items():
        embedding = recipe.config.embedding
        if "_1000x" in name:
            assert embedding.num_slots == (27_000_000 if "_tb_" in name else 540_000)
            assert f"_z{embedding.block_size}_" in name
        if name.endswith("_full"):
            assert embedding.kind == "full"
    with pytest.raises(ValueError, match=r"unknown 'criteo_kaggle_dlrm'; did you mean criteo_kaggle_dlrm_full, "):
        get_recipe("criteo_kaggle_dlrm")
    with pytest.raises(ValueError, match=r"unknown '\?\?'; `robe recipe list` has all 54 names"):
        get_recipe("??")


def test_scaled_shrinks_array_and_steps_alone():
    recipe = get_recipe("criteo_kaggle_deepfm_robe_z8_1000x")
    tenth = scaled(recipe, 0.1)
    assert tenth.config.embedding.num_slots == 54_000
    assert (tenth.config.train.max_steps, tenth.config.train.eval_every) == (30_000, 100)
    assert tenth.config.train.batch_size == recipe.config.train.batch_size
    assert tenth.config.model == recipe.config.model
    assert scaled(recipe, 1) == recipe
    for scale in (0, 1.5, -1):
        with pytest.raises(ValueError, match=r"scale: expected a fraction of the rows in \(0, 1\]"):
            scaled(recipe, scale)


def test_generates_what_it_needs_and_goes_on(tmp_path):
    recipe = small(scaled(get_recipe("criteo_tb_dlrm_robe_z8_1000x"), 1e-6))
    with pytest.raises(ValueError, match="expected the raw files of criteo-tb, got none"):
        run_recipe(recipe, tmp_path)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "day_0").write_text("what a killed process left of 24 days\n")
    run_recipe(recipe, tmp_path, rows=LINES)
    assert PreparedDataset.open(tmp_path / "data").manifest.rows_read == LINES
    again = run_recipe(recipe, tmp_path, overwrite=True)  # the data are there
    assert again.steps == 2


def test_data_prepared_in_another_way_are_refused(prepared, tmp_path):
    dlrm, dcn = (small(scaled(get_recipe(f"criteo_kaggle_{m}_full"), 1e-4)) for m in ("dlrm", "dcn"))
    with pytest.raises(ValueError, match=r"prepared in another way \(order: 'appearance', the recipe's 'value'"):
        run_recipe(dcn, tmp_path, data=prepared(dlrm))
    assert not (tmp_path / "run").exists()


def test_a_trial_of_too_few_lines(tmp_path):
    with pytest.raises(
        ValueError, match=r"rows: expected at least 500 lines, .* got 5; give a scale of 1.2e-05 or more"
    ):
        run_recipe(get_recipe("criteo_kaggle_deepfm_robe_z8_1000x"), tmp_path, rows=5)
    assert not (tmp_path / "data").exists()


def test_raw_files_of_another_trial_are_made_anew(tmp_path):
    recipe = small(scaled(get_recipe("criteo_kaggle_deepfm_robe_z8_1000x"), 5e-5))
    (tmp_path / "raw").mkdir()
    generate_kaggle(tmp_path / "raw" / "train.txt", 600)
    run_recipe(recipe, tmp_path, rows=LINES)
    assert PreparedDataset.open(tmp_path / "data").manifest.rows_read == LINES


def test_prepared_data_are_of_the_lines_asked_for(tmp_path):
    """Not those of another trial, nor generated ones where real files are given."""
    recipe = small(scaled(get_recipe("criteo_kaggle_deepfm_robe_z8_1000x"), 5e-5))
    run_recipe(recipe, tmp_path, rows=LINES)
    with pytest.raises(ValueError, match=rf"another way \(lines: {LINES}, now 3000\): give another folder"):
        run_recipe(recipe, tmp_path, rows=3000, overwrite=True)
    raw = tmp_path / "raw" / "train.txt"
    run_recipe(recipe, tmp_path, [raw], overwrite=True)
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "train.txt"
    with pytest.raises(FileNotFoundError, match=r"train\.txt"):
        run_recipe(recipe, tmp_path, [real], overwrite=True)
    generate_kaggle(real, 100)
    with pytest.raises(
        ValueError, match=r"another way \(files: train\.txt of \d+ bytes; now train\.txt of \d+ bytes\)"
    ):
        run_recipe(recipe, tmp_path, [real], overwrite=True)


def test_a_wrong_configuration_is_said_before_anything_is_prepared(tmp_path):
    recipe = small(scaled(get_recipe("criteo_kaggle_deepfm_robe_z8_1000x"), 5e-5), decay_steps=5)
    with pytest.raises(ValueError, match="expected both or neither"):
        run_recipe(recipe, tmp_path, rows=LINES)
    assert not list(tmp_path.iterdir())


def test_full_tables_are_stepped_as_the_papers():
    """By Adam that moves every row, xDeepFM's L2 on the weights of its deep part and on first-order weights."""
    for name in ("dcn", "autoint", "deepfm", "xdeepfm", "fibinet"):
        recipe = get_recipe(f"criteo_kaggle_{name}_full")
        train = resolve(recipe.config).train
        assert train.sparse_gradients is False
        assert train.seed == 1
        assert (train.weight_decay > 0) == (name in ("xdeepfm", "fibinet"))
    fields = [Field(name, 5) for name in ("a", "b")]
    model = build_model(
        get_recipe("criteo_kaggle_xdeepfm_full").config, SimpleNamespace(fields=fields, dense_names="n")
    )
    (optimizer,) = build_optimizers(resolve(get_recipe("criteo_kaggle_xdeepfm_full").config).train, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    penalised = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    deep = {"deep.0.0.weight", "deep.0.3.weight", "deep.0.6.weight", "deep.1.weight"}
    tables = {name for name in names.values() if "embeddings" in name}
    assert penalised == {"dense_weight", *deep, *tables}
    assert len(tables) == 4


def test_stops_at_the_target(prepared, tmp_path):
    recipe = scaled(get_recipe("criteo_tb_dlrm_robe_z8_1000x"), 1e-4)
    assert recipe.config.train.target_auc == 0.8025
    result = run_recipe(small(recipe, target_auc=1e-9, max_steps=5, eval_every=1), tmp_path, data=prepared(recipe))
    assert result.steps == 1
