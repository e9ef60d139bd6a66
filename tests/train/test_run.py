import dataclasses
import json
import logging
import math
from contextlib import nullcontext

import pytest
import torch
import yaml

from robe.data import Loader, PreparedDataset
from robe.train import evaluate, load_result, load_run, predict, resolve, run
from robe.train.checkpoint import load_checkpoint, read_json
from robe.train.loop import Loop


def weights(folder):
    return load_run(folder).model.state_dict()


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{k: v for k, v in line.items() if k != "samples_per_second"} for line in lines]


class CrashError(Exception):
    """Stands for a crash."""


def crash_at(monkeypatch, step):
    """The process dies in the given step; undone by ``monkeypatch.undo()``."""
    original = Loop._step

    def stopping(self, batch):
        if self.state.step == step:
            raise CrashError
        return original(self, batch)

    monkeypatch.setattr(Loop, "_step", stopping)


class TestRunFolder:
    def test_holds_all_that_is_documented(self, config, tmp_path):
        result = run(config(), tmp_path / "run")
        files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
        name = read_json(tmp_path / "run/best.json")["checkpoint"]
        checkpoint = {f"checkpoints/{name}/{f}" for f in ("model.safetensors", "optimizer.safetensors", "state.json")}
        assert files == checkpoint | {
            ".lock", "config.yaml", "dataset.json", "environment.json", "metrics.jsonl", "best.json", "result.json",
        }  # fmt: skip
        assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["embedding"]["compression"] == 4.0
        assert read_json(tmp_path / "run/environment.json")["packages"]["torch"] == torch.__version__
        assert load_result(tmp_path / "run", config()) == result
        assert load_result(tmp_path / "run", config("train.seed=1")) is None
        assert load_result(tmp_path) is None

    def test_metrics_lines(self, config, tmp_path):
        result = run(config(), tmp_path / "run")  # 24 steps an epoch
        found = lines(tmp_path / "run")
        assert [x["step"] for x in found if x["split"] == "train"] == [
            7, 14, 21, 24, 28, 35, 42, 48, 49, 56, 63, 70, 72,
        ]  # fmt: skip
        assert [(x["step"], x["epoch"]) for x in found if x["split"] == "validation"] == [(24, 1), (48, 2), (72, 3)]
        assert [x["split"] for x in found].count("test") == 1
        assert result.history == [
            {k: x[k] for k in ("step", "epoch", "auc", "logloss")} for x in found if x["split"] == "validation"
        ]


class TestResult:
    @pytest.mark.parametrize("kind", ["robe", "full", "hashing", "capped"])
    @pytest.mark.parametrize("optimizer", ["adam", "sgd", "adagrad"])
    def test_every_kind_learns_with_every_optimizer(self, config, tmp_path, kind, optimizer):
        rate = {"adam": 0.01, "sgd": 1.0, "adagrad": 0.05}[optimizer]
        overrides = [f"embedding.kind={kind}", f"train.optimizer={optimizer}", f"train.learning_rate={rate}"]
        result = run(config(*overrides, "embedding.init_std=0.1"), tmp_path)
        assert result.metrics["test"]["auc"] > 0.65
        assert result.metrics["validation"]["auc"] == max(line["auc"] for line in result.history)

    def test_counts(self, config, tmp_path):
        result = run(config(), tmp_path / "robe")
        assert result.parameters["full"] == 120 * 4
        assert result.parameters["embedding"] == 120
        assert result.compression == 4.0
        assert result.megabytes == 120 * 4 / 1e6
        # bottom 2-8-4, then 6 pairs of 4 vectors beside the bottom's 4, top 10-8-1
        assert result.parameters["dense"] == (2 * 8 + 8) + (8 * 4 + 4) + (10 * 8 + 8) + (8 + 1)
        assert (result.steps, result.epochs_run) == (72, 3.0)
        assert result.samples_per_second > 0

    def test_the_model_of_the_best_step_is_evaluated_and_kept(self, config, tmp_path):
        """Full tables overfit here, so the best step is not the last."""
        overfit = config(
            "embedding.kind=full", "train.learning_rate=0.1", "train.epochs=20", "train.early_stop_patience=none"
        )
        result = run(overfit, tmp_path)
        assert result.best_epoch < result.epochs_run == 20
        loaded = load_run(tmp_path)
        dataset = PreparedDataset.open(overfit.data.path)
        for split in ("validation", "test"):
            scores = evaluate(loaded.model, dataset, split)
            assert scores == {**result.metrics[split], "rows": 300}

    def test_early_stop_and_fractional_epochs(self, config, tmp_path):
        overfit = config("embedding.kind=full", "train.learning_rate=0.1", "train.epochs=50", "train.eval_every=10")
        result = run(overfit, tmp_path)
        best = result.best_epoch * 24
        assert best == pytest.approx(round(best))
        assert result.steps == round(best) + 20  # patience 2
        assert result.steps < 50 * 24

    def test_patience_counts_evaluations_in_a_row(self, config, tmp_path, monkeypatch):
        scores = iter([0.6, 0.5, 0.7, 0.6, 0.6, 0.9])
        monkeypatch.setattr("robe.train.loop.auc", lambda logits, labels: next(scores))
        result = run(config("train.epochs=9"), tmp_path)
        assert (result.epochs_run, result.best_epoch) == (5, 3)

    def test_max_steps(self, config, tmp_path):
        result = run(config("train.max_steps=5"), tmp_path)
        assert (result.steps, result.epochs_run, result.best_epoch) == (5, 5 / 24, 5 / 24)
        assert math.isnan(run(config("train.max_steps=1"), tmp_path, overwrite=True).samples_per_second)
        assert math.isnan(load_result(tmp_path).samples_per_second)


class TestDeterminism:
    @pytest.mark.parametrize("kind", ["robe", "full", "capped"])
    def test_same_seed_same_bits(self, config, tmp_path, kind):
        a = run(config(f"embedding.kind={kind}"), tmp_path / "a")
        torch.rand(3)  # the global generator has no say
        b = run(config(f"embedding.kind={kind}"), tmp_path / "b")
        assert same_bits(weights(tmp_path / "a"), weights(tmp_path / "b"))
        assert a.metrics == b.metrics
        assert without_times(lines(tmp_path / "a")) == without_times(lines(tmp_path / "b"))

    def test_another_seed_changes_everything(self, config, tmp_path):
        run(config(), tmp_path / "a")
        run(config("train.seed=1"), tmp_path / "b")
        a, b = load_run(tmp_path / "a"), load_run(tmp_path / "b")
        assert not same_bits(a.model.state_dict(), b.model.state_dict())
        ids = torch.arange(30)
        assert not torch.equal(a.model.embedding.slots(0, ids), b.model.embedding.slots(0, ids))

    def test_the_hash_seed_can_be_held(self, config, tmp_path):
        run(config("embedding.seed=9"), tmp_path / "a")
        run(config("embedding.seed=9", "train.seed=1"), tmp_path / "b")
        a, b = load_run(tmp_path / "a"), load_run(tmp_path / "b")
        ids = torch.arange(30)
        assert torch.equal(a.model.embedding.slots(0, ids), b.model.embedding.slots(0, ids))

    def test_global_state_is_left_alone(self, config, tmp_path):
        torch.manual_seed(3)
        before, threads = torch.get_rng_state(), torch.get_num_threads()
        run(config("train.threads=1"), tmp_path / "run")
        load_run(tmp_path / "run")
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.get_num_threads() == threads


class TestResume:
    @pytest.mark.parametrize("kind", ["robe", "full"])
    @pytest.mark.parametrize("step", [30, 48, 61, 72])
    def test_goes_on_to_the_same_bits(self, config, tmp_path, monkeypatch, caplog, kind, step):
        """Crashes in the middle of epochs, at their ends, and before the very first checkpoint of an epoch."""
        this = config(f"embedding.kind={kind}", "train.checkpoint_every=20", "train.epochs=4")
        whole = run(this, tmp_path / "whole")
        crash_at(monkeypatch, step)
        with pytest.raises(CrashError):
            run(this, tmp_path / "crashed")
        monkeypatch.undo()
        assert not (tmp_path / "crashed/result.json").exists()
        with caplog.at_level(logging.INFO, "robe"):
            resumed = run(this, tmp_path / "crashed")
        expected = max(s for s in (20, 24, 40, 48, 60, 72) if s <= step)
        assert f"found an unfinished run in {tmp_path / 'crashed'} at step {expected}: going on" in caplog.text
        assert same_bits(weights(tmp_path / "whole"), weights(tmp_path / "crashed"))
        assert resumed.metrics == whole.metrics
        assert resumed.history == whole.history
        assert [x["step"] for x in read_json(tmp_path / "crashed/environment.json")["resumed"]] == [expected]

    def test_metrics_are_not_written_twice(self, config, tmp_path, monkeypatch):
        this = config("train.checkpoint_every=14")
        run(this, tmp_path / "whole")
        for step in (20, 41, 47, 72):
            crash_at(monkeypatch, step)
            with pytest.raises(CrashError) if step < 72 else nullcontext():
                run(this, tmp_path / "crashed")
            monkeypatch.undo()
        assert without_times(lines(tmp_path / "crashed")) == without_times(lines(tmp_path / "whole"))

    def test_no_checkpoint_yet_starts_clean(self, config, tmp_path, monkeypatch, caplog):
        crash_at(monkeypatch, 10)
        with pytest.raises(CrashError):
            run(config(), tmp_path / "crashed")
        monkeypatch.undo()
        with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
            load_run(tmp_path / "crashed")
        with pytest.raises(FileNotFoundError, match="stopped before its first checkpoint"):
            run(config(), tmp_path / "crashed", resume="must")
        with caplog.at_level(logging.INFO, "robe"):
            run(config(), tmp_path / "crashed")
        assert "without a usable checkpoint: starting from the beginning" in caplog.text
        run(config(), tmp_path / "whole")
        assert without_times(lines(tmp_path / "crashed")) == without_times(lines(tmp_path / "whole"))

    def test_between_the_two_pointers(self, config, tmp_path, monkeypatch):
        """best.json already names the new checkpoint, last.json still the one before."""
        from robe.train import folder

        write, count = folder.write_json, []

        def dying(path, content):
            if path.name == "last.json" and len(count) == 1:
                raise CrashError
            count.extend([1] if path.name == "last.json" else [])
            write(path, content)

        run(config(), tmp_path / "whole")
        monkeypatch.setattr(folder, "write_json", dying)
        with pytest.raises(CrashError):
            run(config(), tmp_path / "crashed")
        monkeypatch.undo()
        assert read_json(tmp_path / "crashed/best.json") != read_json(tmp_path / "crashed/last.json")
        run(config(), tmp_path / "crashed")
        assert same_bits(weights(tmp_path / "whole"), weights(tmp_path / "crashed"))

    def test_before_the_result_is_written(self, config, tmp_path):
        whole = run(config(), tmp_path / "run")
        pointer = read_json(tmp_path / "run/best.json")
        assert pointer["checkpoint"].endswith("072")  # the last one is the best one, so it can be gone on from
        (tmp_path / "run/result.json").unlink()
        (tmp_path / "run/last.json").write_text(json.dumps(pointer))
        again = run(config(), tmp_path / "run", resume="must")
        assert again.metrics == whole.metrics
        assert [x["split"] for x in lines(tmp_path / "run")].count("test") == 1

    def test_never_and_must(self, config, tmp_path, monkeypatch):
        with pytest.raises(FileNotFoundError, match="no run to go on with"):
            run(config(), tmp_path / "run", resume="must")
        crash_at(monkeypatch, 30)
        with pytest.raises(CrashError):
            run(config(), tmp_path / "run")
        monkeypatch.undo()
        run(config(), tmp_path / "run", resume="never")
        assert "resumed" not in read_json(tmp_path / "run/environment.json")
        with pytest.raises(ValueError, match="did you mean 'auto'"):
            run(config(), tmp_path / "run", resume="aut")

    @pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
    def test_a_damaged_checkpoint_is_refused(self, config, tmp_path, monkeypatch, file):
        crash_at(monkeypatch, 30)
        with pytest.raises(CrashError):
            run(config(), tmp_path)
        monkeypatch.undo()
        path = tmp_path / "checkpoints" / read_json(tmp_path / "last.json")["checkpoint"] / file
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=rf"{file} is damaged"):
            run(config(), tmp_path)
        assert path.read_bytes() == content[: len(content) // 2]
        assert run(config(), tmp_path, resume="never").steps == 72

    def test_a_shortened_metrics_file_is_refused(self, config, tmp_path, monkeypatch):
        crash_at(monkeypatch, 30)
        with pytest.raises(CrashError):
            run(config(), tmp_path)
        monkeypatch.undo()
        (tmp_path / "metrics.jsonl").write_text("")
        with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
            run(config(), tmp_path)


class TestRefusals:
    def test_a_finished_run(self, config, tmp_path):
        run(config(), tmp_path)
        before = weights(tmp_path)
        with pytest.raises(FileExistsError, match=r"holds a finished run.*overwrite=True"):
            run(config(), tmp_path)
        assert same_bits(weights(tmp_path), before)
        run(config("train.seed=1"), tmp_path, overwrite=True)
        assert not same_bits(weights(tmp_path), before)

    def test_another_configuration(self, config, tmp_path):
        run(config(), tmp_path)
        with pytest.raises(FileExistsError, match=r"differs in embedding\.seed: 0 -> 1; train\.seed: 0 -> 1"):
            run(config("train.seed=1"), tmp_path)

    def test_other_data(self, config, tmp_path, write_data):
        labels = {"train": [0, 1] * 50, "validation": [0, 1] * 5}
        run(config(path=write_data(labels, name="a")), tmp_path / "run")
        other = write_data(labels | {"train": [1, 0] * 50}, name="b")
        with pytest.raises(FileExistsError, match=r"differs in data\.path: .*; the content of the data set"):
            run(config(path=other), tmp_path / "run")

    def test_moved_data_are_the_same_data(self, config, tmp_path, write_data, monkeypatch):
        path = write_data({"train": [0, 1] * 500, "validation": [0, 1] * 5})
        crash_at(monkeypatch, 15)
        with pytest.raises(CrashError):
            run(config(path=path), tmp_path / "run")
        monkeypatch.undo()
        assert run(config(path=path.rename(tmp_path / "elsewhere")), tmp_path / "run", resume="must").steps == 30

    def test_a_folder_of_something_else(self, config, tmp_path):
        (tmp_path / "thesis.tex").write_text("precious")
        with pytest.raises(FileExistsError, match=r"is no run folder, yet holds \['thesis\.tex'\]"):
            run(config(), tmp_path, overwrite=True)
        with pytest.raises(FileExistsError, match="found a file"):
            run(config(), tmp_path / "thesis.tex")
        assert (tmp_path / "thesis.tex").read_text() == "precious"

    def test_a_folder_in_use(self, config, tmp_path, monkeypatch):
        seen = []
        original = Loop._step

        def nosy(self, batch):
            if not seen:
                with pytest.raises(FileExistsError, match="another process is training into this folder") as error:
                    run(config(), tmp_path)
                seen.append(error)
            return original(self, batch)

        monkeypatch.setattr(Loop, "_step", nosy)
        run(config(), tmp_path)
        assert seen

    def test_divergence(self, config, tmp_path):
        wild = config("train.optimizer=sgd", "train.learning_rate=1e30")
        with pytest.raises(
            FloatingPointError, match=r"by step 7 with train\.learning_rate=1e\+30.*lower the learning"
        ) as error:
            run(wild, tmp_path)
        assert "checkpoint" not in str(error.value)
        assert not (tmp_path / "result.json").exists()

    def test_divergence_after_a_checkpoint(self, config, tmp_path, monkeypatch):
        original = Loop._step

        def wild(self, batch):
            return original(self, batch) * (float("nan") if self.state.step > 10 else 1)

        monkeypatch.setattr(Loop, "_step", wild)
        with pytest.raises(FloatingPointError, match="the last good checkpoint is kept in"):
            run(config("train.checkpoint_every=5"), tmp_path)
        assert (tmp_path / "last.json").exists()

    def test_data_that_cannot_be_trained_on(self, config, tmp_path, write_data):
        with pytest.raises(FileNotFoundError, match="no such folder"):
            run(config(path=tmp_path / "nowhere"), tmp_path / "run")
        with pytest.raises(ValueError, match=r"rows in the split 'validation'"):
            run(config(path=write_data({"train": [0, 1] * 10}, name="a")), tmp_path / "run")
        one_class = write_data({"train": [0, 1] * 10, "validation": [0] * 8}, name="b")
        with pytest.raises(ValueError, match=r"0 clicks in 8 rows"):
            run(config(path=one_class), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("kind", ["full", "hashing", "capped"])
    def test_direct_ids_need_robe(self, config, tmp_path, write_data, kind):
        path = write_data({"train": [0, 1] * 10, "validation": [0, 1]}, num_embeddings=None)
        with pytest.raises(ValueError, match=r"needs the number of ids of every field.*use kind 'robe'"):
            run(config(f"embedding.kind={kind}", path=path), tmp_path / "run")
        with pytest.raises(ValueError, match=r"give embedding\.num_slots or embedding\.memory"):
            run(config(path=path), tmp_path / "run")

    def test_unknown_device(self, config, tmp_path):
        with pytest.raises(ValueError, match=r"train\.device: expected 'auto', 'cpu' or 'cuda', got 'toaster'"):
            run(config("train.device=toaster"), tmp_path)


class TestData:
    @pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
    @pytest.mark.parametrize("kind", ["robe", "full"])
    def test_multi_valued_fields(self, config, tmp_path, write_data, pooling, kind):
        path = write_data({"train": [0, 1] * 500, "validation": [0, 1] * 20, "test": [1, 0, 1]})
        this = config(f"embedding.kind={kind}", f"model.pooling={pooling}", path=path)
        result = run(this, tmp_path / "run")
        assert load_run(tmp_path / "run").model.embedding.mode == pooling
        assert result.metrics.keys() == {"validation", "test"}

    def test_direct_ids(self, config, tmp_path, write_data):
        path = write_data({"train": [0, 1] * 500, "validation": [0, 1] * 20}, num_embeddings=None)
        result = run(config("embedding.memory=1KB", path=path), tmp_path / "run")
        assert result.parameters["full"] is None
        assert math.isnan(result.compression)
        assert load_result(tmp_path / "run").parameters == result.parameters

    def test_a_test_split_of_one_row(self, config, tmp_path, write_data):
        path = write_data({"train": [0, 1] * 500, "validation": [0, 1] * 20, "test": [1]})
        result = run(config(path=path), tmp_path / "run")
        assert math.isnan(result.metrics["test"]["auc"])
        assert result.metrics["test"]["logloss"] > 0
        assert math.isnan(load_result(tmp_path / "run").metrics["test"]["auc"])

    def test_a_training_split_of_one_row(self, config, tmp_path, write_data):
        path = write_data({"train": [1], "validation": [0, 1]})
        assert run(config(path=path), tmp_path / "run").steps == 3


class TestScoring:
    def test_predict_is_in_stored_order_whatever_the_batch(self, config, data, tmp_path):
        run(config(), tmp_path)
        model, dataset = load_run(tmp_path).model, PreparedDataset.open(data)
        probabilities = predict(model, dataset, "test")
        assert probabilities.shape == (300,)
        assert probabilities.dtype == torch.float32
        torch.testing.assert_close(predict(model, dataset, "test", batch_size=7), probabilities)
        batch = dataset.split("test").read(11, 12)
        torch.testing.assert_close(model(batch.dense, batch.ids).sigmoid().detach(), probabilities[11:12])

    def test_bad_splits(self, config, data, tmp_path, write_data):
        run(config(), tmp_path / "run")
        model = load_run(tmp_path / "run").model
        with pytest.raises(ValueError, match="did you mean 'test'"):
            evaluate(model, PreparedDataset.open(data), "tset")
        with pytest.raises(ValueError, match="expected rows in 'test', found none"):
            evaluate(model, PreparedDataset.open(write_data({"test": []})), "test")

    def test_a_data_set_of_other_fields(self, config, tmp_path, write_data):
        run(config(), tmp_path / "run")
        with pytest.raises(ValueError, match="its fields are not those the model was trained on"):
            load_run(tmp_path / "run").require(PreparedDataset.open(write_data({"test": [0, 1]})))

    def test_not_a_run(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected a run folder made by robe train"):
            load_run(tmp_path)


def test_checkpoint_holds_what_the_format_says(config, tmp_path, monkeypatch):
    crash_at(monkeypatch, 30)
    with pytest.raises(CrashError):
        run(config(), tmp_path)
    checkpoint = load_checkpoint(tmp_path / "checkpoints", read_json(tmp_path / "last.json"))
    assert checkpoint.state["step"] == 24
    assert checkpoint.state["loader"]["batch"] == 24
    assert checkpoint.state["best"]["pointer"] is None
    assert checkpoint.state["metrics_bytes"] > 0
    assert torch.equal(checkpoint.optimizer["rng"].to(torch.uint8), checkpoint.optimizer["rng"])


def test_tensorboard_events(config, tmp_path):
    pytest.importorskip("tensorboard")
    run(config("train.tensorboard=true"), tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_tensorboard_missing_is_explained(config, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'robe\[tensorboard\]'"):
        run(config("train.tensorboard=true"), tmp_path / "run")


def test_an_epoch_sees_every_row(config, data):
    loader = Loader(PreparedDataset.open(data), "train", 100)
    assert sum(batch.size for batch in loader) == 2400
    assert len(loader) == 24
    assert dataclasses.is_dataclass(resolve(config()))


def test_learning_rate_decays_smoothly_with_the_step(config, tmp_path, monkeypatch):
    seen = []
    original = Loop._step

    def watched(self, batch):
        loss = original(self, batch)
        seen.append([group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups])
        return loss

    monkeypatch.setattr(Loop, "_step", watched)
    run(config("train.learning_rate_decay=0.25", "train.embedding_learning_rate=0.1"), tmp_path)
    assert len(seen) == 72  # 24 an epoch
    for step, (dense, embedding) in enumerate(seen):
        assert dense == pytest.approx(0.01 * 0.25 ** (step / 24))
        assert embedding == pytest.approx(0.1 * 0.25 ** (step / 24))


def test_a_resumed_run_decays_as_an_undisturbed_one(config, tmp_path, monkeypatch):
    this = config("train.learning_rate_decay=0.25")
    crash_at(monkeypatch, 30)
    with pytest.raises(CrashError):
        run(this, tmp_path / "crashed")
    monkeypatch.undo()
    assert run(this, tmp_path / "crashed").history == run(this, tmp_path / "whole").history
    assert same_bits(weights(tmp_path / "crashed"), weights(tmp_path / "whole"))
