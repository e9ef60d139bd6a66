import dataclasses
import json

import pytest

from robe.train import EmbeddingConfig, RunConfig, TrainConfig, load_config, resolve, to_dict, to_yaml


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 3, batch_size: 64}\nmodel:\n  top_mlp: [8, 4]\n")
    config = load_config(file, ["train.epochs=7", "train.learning_rate=1e-2"])
    assert (config.train.epochs, config.train.batch_size, config.train.learning_rate) == (7, 64, 0.01)
    assert config.model.top_mlp == (8, 4)
    assert config.train.optimizer == "adam"


def test_json_and_mapping(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"embedding": {"kind": "hashing"}}))
    assert load_config(file, {"embedding.compression": 10}).embedding == EmbeddingConfig("hashing", compression=10.0)


def test_a_saved_configuration_reads_back(tmp_path):
    config = resolve(load_config(None, ["model.bottom_mlp=[]", "train.early_stop_patience=none", "data.path=x"]))
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert config.model.bottom_mlp == ()
    assert config.train.early_stop_patience is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=5", r"unknown key train\.epoch; did you mean 'epochs'\? Known: \["),
        ("trian.epochs=5", r"unknown section 'trian'; did you mean 'train'\?"),
        ("epochs=5", r"expected section\.key such as train\.epochs, did you mean 'train\.epochs'"),
        ("train.epochs", r"expected section\.key=value"),
        ("train.epochs=0", r"train\.epochs: expected greater than 0, got 0"),
        ("train.epochs=many", r"train\.epochs: .*valid integer.*got 'many'"),
        ("train.learning_rate=.nan", r"train\.learning_rate: .*got nan"),
        ("train.learning_rate=.inf", r"train\.learning_rate: .*finite.*got inf"),
        ("train.optimizer=lamb", r"train\.optimizer: expected 'adam', 'sgd' or 'adagrad', got 'lamb'"),
        ("embedding.kind=tt", r"embedding\.kind: expected 'robe', 'full', 'hashing' or 'capped'"),
        ("train.epochs=[", r"cannot be read as YAML"),
    ],
)
def test_bad_overrides_are_explained(override, message):
    with pytest.raises(ValueError, match=message):
        load_config(None, [override])


def test_none_is_a_word_of_some_keys_and_nothing_for_the_others():
    config = load_config(None, ["model.name=deepfm", "model.first_order=none", "train.autocast=none"])
    assert (config.model.first_order, config.train.autocast) == ("none", "none")
    assert load_config(None, ["train.clip_norm=none", "train.eval_every= none"]).train == TrainConfig()


@pytest.mark.parametrize("content", ["train: [", "- a\n- b\n", "train: 3\n", "just text", "\x00\x01"])
def test_bad_files_are_explained(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        load_config(file)


def test_missing_and_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "no.yaml")
    with pytest.raises(FileNotFoundError, match="expected a YAML or JSON configuration file, found none"):
        load_config(tmp_path)
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml") == RunConfig()


def test_a_wrong_value_is_told_once():
    with pytest.raises(ValueError, match=r"^configuration: embedding.memory: expected [^;]* or [^;]*, got 0$"):
        load_config(None, ["embedding.memory=0"])
    with pytest.raises(ValueError, match=r"^configuration: unknown key train.x; Known"):
        load_config(None, ["train.x=0"])


class TestSize:
    def test_default_is_filled_in_when_resolved(self):
        assert resolve(RunConfig()).embedding.compression == 1000.0
        assert resolve(RunConfig(embedding=EmbeddingConfig("full"))).embedding.compression is None

    def test_a_later_layer_replaces_the_size(self, tmp_path):
        file = tmp_path / "run.yaml"
        file.write_text("embedding: {compression: 100}\n")
        config = load_config(file, ["embedding.memory=64MB"])
        assert (config.embedding.compression, config.embedding.memory) == (None, "64MB")
        assert load_config(file, ["embedding.kind=full"]).embedding.compression is None

    def test_two_sizes_at_once(self):
        with pytest.raises(ValueError, match="at most one of compression, num_slots, memory"):
            load_config(None, ["embedding.memory=64MB", "embedding.num_slots=10"])

    def test_full_tables_take_none(self):
        with pytest.raises(ValueError, match="full tables have no size to choose"):
            load_config(None, ["embedding.kind=full", "embedding.compression=10"])
        with pytest.raises(ValueError, match="full tables have no size to choose"):
            resolve(RunConfig(embedding=EmbeddingConfig("full", num_slots=10)))


SPARSE = ["embedding.kind=full", "train.sparse_gradients=true"]


class TestResolve:
    def test_is_idempotent_and_fills_in(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        config = load_config(None, ["data.path=here", "train.seed=5"])
        resolved = resolve(config)
        assert resolve(resolved) == resolved
        assert resolved.embedding.seed == 5
        assert resolved.train.sparse_gradients is False
        assert resolved.data.path == str(tmp_path / "here")

    def test_checks_what_was_built_by_hand(self):
        with pytest.raises(ValueError, match=r"train\.epochs"):
            resolve(RunConfig(train=TrainConfig(epochs=0)))

    def test_sparse_gradients(self):
        full = RunConfig(embedding=EmbeddingConfig("full"))
        assert resolve(full).train.sparse_gradients is True
        decay = dataclasses.replace(full, train=TrainConfig(weight_decay=0.1, sparse_gradients=True))
        with pytest.raises(ValueError, match=r"train\.embedding_weight_decay: expected 0 with sparse gradients"):
            resolve(decay)
        with pytest.raises(ValueError, match=r"train\.sparse_gradients: a ROBE array"):
            resolve(RunConfig(train=TrainConfig(sparse_gradients=True)))

    @pytest.mark.parametrize(
        "override",
        ["train.weight_decay=0.1", "train.embedding_weight_decay=0.1", "train.clip_norm=1", "model.pooling=max"],
    )
    def test_sparse_gradients_are_left_where_something_forbids_them(self, override):
        full = load_config(None, ["embedding.kind=full", override])
        assert resolve(full).train.sparse_gradients is False
        if "decay" in override:
            vectors = load_config(full, ["train.embedding_decay_on=vectors"])
            assert resolve(vectors).train.sparse_gradients is True

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["train.momentum=0.9"], r"train\.momentum: only 'sgd' has it, got 0\.9 with 'adam'"),
            (["train.decay_steps=5"], r"expected both or neither, got None and 5"),
            (["train.batch_scaling=sqrt"], r"train\.batch_scaling: 'sqrt' scales from train\.base_batch_size"),
            ([*SPARSE, "train.clip_norm=1"], r"train\.clip_norm: torch clips no sparse gradients"),
            (
                [*SPARSE, "train.momentum=0.9", "train.optimizer=sgd"],
                r"train\.momentum: expected 0 with sparse gradients",
            ),
            (["model.mlp=[8]"], r"model\.mlp: 'dlrm' has no such option, got \(8,\); it has \['batch_norm'"),
            (["model.name=deepfm", "model.cin=[8]"], r"model\.cin: 'deepfm' has no such option"),
        ],
    )
    def test_what_does_not_go_together(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            resolve(load_config(None, overrides))

    def test_a_model_fills_in_its_own_defaults(self):
        model = resolve(load_config(None, ["model.name=xdeepfm", "model.dropout=0"])).model
        assert (model.mlp, model.cin, model.dropout, model.first_order) == ((400,) * 3, (200,) * 3, 0, "tied")
        assert model.top_mlp is None
        assert resolve(load_config(None, ["model.name=dcnv2"])).model.mlp_init_std == "torch"

    def test_embeddings_follow_the_network_unless_told(self):
        train = resolve(load_config(None, ["train.optimizer=sgd", "train.weight_decay=0.1"])).train
        assert (train.embedding_optimizer, train.embedding_weight_decay) == ("sgd", 0.1)


def test_to_dict_is_plain():
    assert to_dict(resolve(RunConfig()))["model"]["top_mlp"] == [512, 256]
