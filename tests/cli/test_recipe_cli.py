import json


def test_list_and_show(robe):
    code, out, _ = robe("recipe", "list")
    assert code == 0
    assert any(line.startswith("criteo_kaggle_dlrm_robe_z16_1000x ") for line in out.splitlines())
    code, out, _ = robe("recipe", "show", "criteo_tb_dlrm_full")
    assert code == 0
    assert "max_ind_range: 40000000" in out
    assert "validation" not in out
    assert "top_mlp: [1024, 1024, 512, 256]" in out


def test_a_shown_recipe_is_a_configuration(robe, tmp_path):
    from robe.recipes import get_recipe
    from robe.train import load_config

    name = "criteo_kaggle_xdeepfm_robe_z8_1000x"
    (tmp_path / "run.yaml").write_text(robe("recipe", "show", name)[1])
    assert load_config(tmp_path / "run.yaml") == get_recipe(name).config


def test_errors_are_one_line(robe, tmp_path):
    code, _, err = robe("recipe", "run", "criteo_kaggle_dlmr_full", "--out", tmp_path)
    assert code == 1
    assert "did you mean criteo_kaggle_dlrm_full, " in err
    assert len(err) < 300
    code, _, err = robe("recipe", "run", "criteo_kaggle_dlrm_full", "train.txt", "--scale", "0.1", "--out", tmp_path)
    assert code == 1
    assert "--scale: for generated lines" in err
    code, _, err = robe("recipe", "run", "criteo_kaggle_dlrm_full", tmp_path / "train.txt", "--out", tmp_path / "x")
    assert code == 1
    assert "train.txt" in err


def test_a_trial_on_generated_lines(robe, tmp_path):
    small = ("--scale", "0.00005", "--set", "train.max_steps=2", "--set", "train.batch_size=64")
    code, out, _ = robe("recipe", "run", "criteo_kaggle_deepfm_robe_z4_1000x", *small, "--out", tmp_path, "--json")
    assert code == 0
    assert json.loads(out)["parameters"]["embedding"] == 1024


def test_another_size_replaces_the_recipes(robe, tmp_path):
    small = ("--scale", "0.00005", "--set", "train.max_steps=1", "--set", "train.batch_size=64")
    name = "criteo_kaggle_dlrm_robe_z4_1000x"
    for size, slots in (("embedding.memory=64KB", 16_000), ("embedding.num_slots=2000", 2000)):
        code, out, _ = robe("recipe", "run", name, *small, "--set", size, "--out", tmp_path, "--overwrite", "--json")
        assert code == 0
        assert json.loads(out)["parameters"]["embedding"] == slots
