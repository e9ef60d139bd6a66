import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from robe.compare import RunFailedError, compare, make_plan, read_json
from robe.compare.records import Record
from robe.compare.runner import _require_fitting, best_choice
from robe.data import PreparedDataset, SyntheticSpec, TableSpec, generate, prepare_table
from robe.train import load_result

TINY = ["train.epochs=1", "train.batch_size=512", "model.bottom_mlp=[8]", "model.top_mlp=[8]", "train.threads=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "data"
    generate(SyntheticSpec(rows=4000, scale=0.0005, num_dense=2, cardinalities=(50, 3000, 400), seed=3), folder)
    return folder


@pytest.fixture
def plan(data):
    return make_plan(
        data, methods=["full", "robe"], compression=[10], seeds=2, overrides=TINY, tune=["embedding.init_std=0.01,0.1"]
    )


def stamps(out):
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("runs/*/result.json")}


def test_whole_comparison(plan, data, tmp_path):
    out = tmp_path / "out"
    comparison = compare(plan, out, command="the command")
    assert {p.name for p in out.iterdir()} == {
        ".lock", "runs", "results.json", "results.csv", "summary.csv", "index.html",
    }  # fmt: skip
    assert read_json(out / "results.json") == comparison
    # 2 arms x (2 trials + 2 seeds - 1 shared run)
    assert len(stamps(out)) == 6
    for summary in comparison.summaries():
        assert summary.finished == 2
        assert summary.test_auc.spread > 0
    full, robe = comparison.summaries()
    assert full.compression == 1.0
    assert full.parameters == 16 * sum(f.num_embeddings for f in make_dataset(data).fields)
    assert robe.compression == pytest.approx(10, rel=0.01)
    assert robe.delta_auc.mean == pytest.approx(robe.test_auc.mean - full.test_auc.mean)
    assert comparison.data.best_auc == make_dataset(data).manifest.splits["test"].best_auc
    assert "torch" in comparison.environment["Versions"]
    assert (comparison.command, comparison.data.rows["train"]) == ("the command", 3200)


def make_dataset(data):
    return PreparedDataset.open(data)


def test_tuning_is_decided_by_validation_alone(plan, tmp_path):
    comparison = compare(plan, tmp_path / "out")
    for arm in comparison.arms:
        trials = [t for t in comparison.trials if t.arm == arm.key]
        assert len(trials) == 2
        assert all(t.test_auc is None and t.test_logloss is None for t in trials)
        results = {t.run: load_result(tmp_path / "out/runs" / t.run).metrics["validation"]["auc"] for t in trials}
        best = max(trials, key=lambda t: results[t.run])
        assert comparison.chosen[arm.key] == best.settings
        assert {r.config["embedding.init_std"] for r in comparison.records if r.arm == arm.key} == set(
            best.settings.values()
        )


def test_first_of_equals_is_chosen_and_failures_are_not():
    trials = [
        Record("a", "x", 0, {"k": 1}, error="diverged"),
        Record("b", "x", 0, {"k": 2}, validation_auc=0.7),
        Record("c", "x", 0, {"k": 3}, validation_auc=0.7),
    ]
    assert best_choice(trials) == {"k": 2}
    assert best_choice(trials[:1]) is None


def test_an_arm_that_does_not_fit_the_data_is_told_before_training(tmp_path):
    raw = tmp_path / "raw.csv"
    raw.write_text("click,user,item\n" + "".join(f"{i % 2},u{i % 37},i{i % 11}\n" for i in range(400)))
    prepare_table(raw, tmp_path / "data", TableSpec("click", ("user", "item"), validation=0.2, test=0.2))
    plan = make_plan(tmp_path / "data", methods=["robe", "full"], overrides=[*TINY, "embedding.memory=1KB"])
    with pytest.raises(ValueError, match=r"^full: embedding.kind: 'full' needs the number of ids"):
        compare(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    errors = [record.error for record in compare(plan, tmp_path / "out", keep_going=True).records]
    assert errors[0] is None
    assert "needs the number of ids" in errors[1]


def test_checking_the_arms_leaves_the_generator_alone(plan, data, tmp_path):
    before = torch.get_rng_state()
    _require_fitting(plan, PreparedDataset.open(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_finished_runs_are_reused(plan, tmp_path):
    out = tmp_path / "out"
    first = compare(plan, out)
    before = stamps(out)
    again = compare(plan, out)
    assert stamps(out) == before
    assert again.records == first.records
    assert again.trials == first.trials


def test_killed_comparison_goes_on(data, tmp_path):
    out = tmp_path / "out"
    code = (
        "from robe.compare import make_plan, compare; import sys; "
        f"compare(make_plan({str(data)!r}, methods=['full','robe','hashing'], compression=[10], seeds=2, "
        f"overrides={TINY!r}), {str(out)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(stamps(out)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = stamps(out)
    assert 2 <= len(before) < 6
    assert not (out / "results.json").exists()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = stamps(out)
    assert len(after) == 6
    assert before.items() <= after.items()
    plan = make_plan(data, methods=["full", "robe", "hashing"], compression=[10], seeds=2, overrides=TINY)
    undisturbed = compare(plan, tmp_path / "two")
    assert [r.test_auc for r in read_json(out / "results.json").records] == [r.test_auc for r in undisturbed.records]


@pytest.fixture
def with_wild(data, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "variants:\n"
        "  - {name: full, embedding: {kind: full}}\n"
        "  - {name: wild, embedding: {kind: robe}, train: {learning_rate: 1.0e+30, optimizer: sgd}}\n"
        "  - {name: robe, embedding: {kind: robe}}\n"
    )
    return make_plan(data, config=file, compression=[10], overrides=TINY)


def test_failed_run_stops_the_comparison_by_name(with_wild, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RunFailedError, match=r"run wild-z4-10x-seed0 failed: .*learning_rate=1e\+30.*--keep-going"):
        compare(with_wild, out)
    assert set(stamps(out)) == {"full-seed0"}


def test_keep_going_marks_the_failed_run(with_wild, tmp_path):
    out = tmp_path / "out"
    comparison = compare(with_wild, out, keep_going=True)
    assert [s.failed for s in comparison.summaries()] == [0, 1, 0]
    assert [s.finished for s in comparison.summaries()] == [1, 0, 1]
    assert "learning_rate" in comparison.records[1].error
    assert "1 failed" in (out / "index.html").read_text()
    assert read_json(out / "results.json") == comparison


def test_tuning_where_every_value_fails(data, tmp_path):
    plan = make_plan(
        data, methods=["robe"], compression=[10], seeds=2, overrides=[*TINY, "train.optimizer=sgd"],
        tune=["train.learning_rate=1.0e+30,1.0e+31"],
    )  # fmt: skip
    comparison = compare(plan, tmp_path / "out", keep_going=True)
    assert comparison.chosen == {}
    assert [r.seed for r in comparison.records if "every value tried" in r.error] == [0, 1]


def test_run_of_another_config_is_refused_before_training(data, tmp_path):
    out = tmp_path / "out"
    compare(make_plan(data, methods=["robe"], compression=[10], overrides=TINY), out)
    other = make_plan(data, methods=["full", "robe"], compression=[10], overrides=[*TINY, "train.learning_rate=0.1"])
    with pytest.raises(FileExistsError, match=r"train\.learning_rate: 0\.001 -> 0\.1"):
        compare(other, out)
    assert set(stamps(out)) == {"robe-z4-10x-seed0"}


def test_run_on_other_data_is_refused(data, tmp_path):
    out = tmp_path / "out"
    compare(make_plan(data, methods=["robe"], compression=[10], overrides=TINY), out)
    generate(SyntheticSpec(rows=4000, num_dense=2, cardinalities=(50, 3000, 400), seed=4), tmp_path / "other")
    with pytest.raises(FileExistsError, match="the content of the data set"):
        compare(make_plan(tmp_path / "other", methods=["robe"], compression=[10], overrides=TINY), out)


def test_data_set_that_moved_is_the_same_data(data, tmp_path):
    out = tmp_path / "out"
    compare(make_plan(data, methods=["robe"], compression=[10], overrides=TINY), out)
    before = stamps(out)
    (tmp_path / "moved").symlink_to(data)
    compare(make_plan(tmp_path / "moved", methods=["robe"], compression=[10], overrides=TINY), out)
    assert stamps(out) == before


def test_folder_with_other_things_is_left_alone(plan, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        compare(plan, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileExistsError, match="found a file"):
        compare(plan, tmp_path / "thesis.tex")


def test_second_comparison_in_one_folder_is_refused(plan, tmp_path):
    import fcntl

    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FileExistsError, match="another comparison is writing"):
            compare(plan, out)


def test_data_without_a_test_part(tmp_path):
    generate(SyntheticSpec(rows=2000, num_dense=0, cardinalities=(50, 60), test=0.0), tmp_path / "data")
    with pytest.raises(ValueError, match="has none for test"):
        compare(make_plan(tmp_path / "data"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        compare(make_plan(tmp_path / "nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_printed(data, tmp_path, capfd):
    compare(make_plan(data, methods=["robe"], compression=[10], overrides=TINY), tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_without_the_extra_the_tables_are_still_there(data, tmp_path):
    """A process in which matplotlib cannot be found."""
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from robe.compare import make_plan, compare\n"
        f"plan = make_plan({str(data)!r}, methods=['robe'], compression=[10], overrides={TINY!r})\n"
        f"compare(plan, {str(tmp_path / 'out')!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        ".lock", "runs", "results.json", "results.csv", "summary.csv",
    }  # fmt: skip
    assert json.loads((tmp_path / "out/results.json").read_text())["format"] == "robe-comparison"
