import pytest

from robe.compare import make_plan


def test_arms_are_methods_times_sizes_times_blocks():
    plan = make_plan("d", methods=["full", "robe", "hashing"], compression=[10, 100], block_size=[1, 4], seeds=3)
    assert [arm.key for arm in plan.arms] == [
        "full", "robe-z1-10x", "robe-z1-100x", "robe-z4-10x", "robe-z4-100x", "hashing-10x", "hashing-100x",
    ]  # fmt: skip
    assert plan.seeds == (0, 1, 2)
    assert plan.choices() == ({},)


def test_config_of_a_run():
    plan = make_plan(
        "d", methods=["full", "robe"], compression=[10], overrides=["train.epochs=5", "train.seed=7"], seeds=2,
        tune=["embedding.init_std=0.001,1e-2"],
    )  # fmt: skip
    full, robe = plan.arms
    config = plan.config(robe, {"embedding.init_std": 0.01}, 8)
    assert (config.embedding.kind, config.embedding.compression, config.embedding.init_std) == ("robe", 10.0, 0.01)
    assert (config.train.epochs, config.train.seed, config.embedding.seed) == (5, 8, 8)
    assert plan.config(full, {}, 7).embedding.compression is None
    assert plan.seeds == (7, 8)
    assert plan.choices() == ({"embedding.init_std": 0.001}, {"embedding.init_std": 0.01})
    assert plan.run_name(robe, plan.choices()[1], 8) == "robe-z4-10x-init_std=0.01-seed8"


def test_default_is_full_and_robe_at_1000():
    assert [arm.label for arm in make_plan("d").arms] == ["full", "robe Z=4 1000\N{MULTIPLICATION SIGN}"]


def test_variants_from_a_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        """
        train: {epochs: 3, batch_size: 512}
        compression: [10, 100]
        seeds: 2
        tune: {embedding.init_std: [0.01, 0.05]}
        variants:
          - {name: slow tables, embedding: {kind: full}, train: {learning_rate: 0.0001}}
          - {name: signed, embedding: {kind: robe, use_sign: true, block_size: 8}}
          - {name: fixed, embedding: {num_slots: 5000}}
        """
    )
    plan = make_plan("d", config=file, overrides=["train.batch_size=256"])
    assert [arm.key for arm in plan.arms] == [
        "slow-tables-full", "signed-z8-10x", "signed-z8-100x", "fixed-z4-5000-slots",
    ]  # fmt: skip
    config = plan.config(plan.arms[0], {}, 0)
    assert (config.train.learning_rate, config.train.epochs, config.train.batch_size) == (0.0001, 3, 256)
    assert plan.config(plan.arms[2], {}, 0).embedding.use_sign
    fixed = plan.config(plan.arms[3], {}, 0).embedding
    assert (fixed.num_slots, fixed.compression) == (5000, None)
    assert (plan.seeds, plan.tune) == ((0, 1), {"embedding.init_std": (0.01, 0.05)})


def test_methods_and_variants_together(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("variants: [{name: small, embedding: {memory: 1MB}}]")
    plan = make_plan("d", methods=["full"], config=file)
    assert [arm.key for arm in plan.arms] == ["full", "small-z4-1MB"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["rob"]}, "unknown method 'rob'; did you mean 'robe'?"),
        ({"overrides": ["train.epoch=1"]}, "did you mean 'epochs'"),
        ({"overrides": ["epochs"]}, "section.key=value"),
        ({"tune": ["embedding.init=1,2"]}, "did you mean 'init_std'"),
        ({"tune": ["embedding.init_std"]}, "expected section.key=value,value"),
        ({"tune": ["embedding.init_std=0.1"]}, "two or more different values"),
        ({"tune": ["embedding.init_std=0.1,1e-1"]}, "two or more different values"),
        ({"tune": ["embedding.init_std=0.1,-1"]}, "greater than or equal to 0"),
        ({"tune": ["train.seed=0,1"]}, "cannot be tuned"),
        ({"tune": ["embedding.block_size=0,1"]}, "greater than 0"),
        ({"seeds": 0}, "seeds: expected a positive int, got 0"),
        ({"compression": [-1]}, "greater than 0"),
        ({"block_size": [0]}, "greater than 0"),
        ({"compression": [10, 10.0]}, "both called 'robe-z4-10x'"),
        ({"methods": ["robe"], "overrides": ["train.sparse_gradients=true"]}, "sparse_gradients"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        make_plan("d", **arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("varants: []", "did you mean 'variants'"),
        ("train: {epoch: 1}", "did you mean 'epochs'"),
        ("train: 3", "train: expected keys and values"),
        ("[1]", "expected sections at the top"),
        ("a: [", "expected a YAML or JSON configuration"),
        ("variants: [{embedding: {kind: full}}]", r"variants\[0\]: expected"),
        ("variants: [{name: a, embeding: {}}]", "did you mean 'embedding'"),
        ("variants: [{name: a, embedding: 3}]", r"variants\[0\].embedding: expected keys"),
        ("variants: [{name: a, embedding: {kind: rob}}]", "embedding.kind"),
        ("variants: [{name: a, embedding: {kind: full, compression: 3}}]", "full tables have no size"),
        ("variants: [{name: a}, {name: a}]", "both called 'a-z4-1000x'"),
        ("methods: [ful]", "did you mean 'full'"),
        ("tune: {model.top_mlp: [[1], [2]]}", "is a list"),
    ],
)
def test_mistakes_in_the_file_are_told(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        make_plan("d", config=file)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        make_plan("d", config=tmp_path / "none.yaml")
