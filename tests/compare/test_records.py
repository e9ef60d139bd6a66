import csv
import json
import statistics

import pytest

from robe.compare import Comparison, files, read_json, records, words


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_spread_is_the_sample_standard_deviation(comparison):
    summary = comparison.summaries()[0]
    values = [r.test_auc for r in comparison.records if r.arm == "full"]
    assert summary.test_auc.mean == pytest.approx(sum(values) / 3, abs=1e-12)
    assert summary.test_auc.spread == pytest.approx(statistics.stdev(values), abs=1e-15)
    assert summary.test_auc.seeds == 3


def test_one_seed_has_no_spread_and_says_so(make):
    comparison = make(seeds=1)
    assert all(s.test_auc.spread is None and s.test_auc.seeds == 1 for s in comparison.summaries())
    assert "one seed" in words.headline(comparison)[0]
    assert any("one seed" in note for note in words.caveats(comparison))


def test_difference_is_paired_by_seed_with_the_t_interval():
    # t quantile of 2 degrees of freedom: 4.303; differences 1, 2, 3 have standard deviation 1.
    result = records.paired_difference({0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0, 8: 0.0})
    assert result.mean == 2.0
    assert result.seeds == 3
    assert result.interval == pytest.approx(4.303 / 3**0.5)


def test_difference_of_one_seed_has_no_interval():
    result = records.paired_difference({0: 0.5}, {0: 0.75})
    assert (result.mean, result.spread, result.interval) == (-0.25, None, None)
    assert records.paired_difference({0: 0.5}, {1: 0.75}) is None


def test_many_seeds_use_the_normal_quantile():
    values = {seed: float(seed % 2) for seed in range(40)}
    result = records.paired_difference(values, dict.fromkeys(values, 0.0))
    assert result.interval == pytest.approx(1.96 * statistics.stdev(values.values()) / 40**0.5)


def test_failed_runs_are_left_out_and_counted(make):
    comparison = make(failed=True)
    summary = next(s for s in comparison.summaries() if s.arm.key == "robe-z1-1000x")
    assert (summary.finished, summary.failed, summary.test_auc.seeds) == (2, 1, 2)
    assert "1 of 30 runs failed and are left out of the means." in words.caveats(comparison)


def test_json_reads_back_equal(make, tmp_path):
    comparison = make(failed=True, best_auc=0.81)
    files.write_json(comparison, tmp_path / "results.json")
    assert read_json(tmp_path / "results.json") == comparison
    assert len(json.loads((tmp_path / "results.json").read_text())["summaries"]) == len(comparison.arms)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": "robe-comparison", "version": 2}', "not json"])
def test_other_json_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"Expecting value|expected a robe comparison of format version 1"):
        read_json(path)


def test_results_csv_has_a_line_a_run_and_the_config_that_differs(make, tmp_path):
    comparison = make(failed=True)
    files.write_results_csv(comparison, tmp_path / "results.csv")
    rows = read_csv(tmp_path / "results.csv")
    assert len(rows) == len(comparison.records)
    assert {"embedding.init_std", "train.seed"} <= rows[0].keys()
    failed = [row for row in rows if row["error"]]
    assert [row["run"] for row in failed] == ["robe-z1-1000x-seed1"]
    assert failed[0]["test_auc"] == ""
    assert float(rows[0]["test_auc"]) == comparison.records[0].test_auc


def test_config_that_is_the_same_everywhere_is_no_column(comparison, tmp_path):
    files.write_results_csv(comparison, tmp_path / "results.csv")
    assert "train.epochs" not in read_csv(tmp_path / "results.csv")[0]


def test_summary_csv_has_a_line_an_arm(comparison, tmp_path):
    files.write_summary_csv(comparison, tmp_path / "summary.csv")
    rows = read_csv(tmp_path / "summary.csv")
    assert [row["arm"] for row in rows] == [arm.key for arm in comparison.arms]
    assert float(rows[1]["test_auc_mean"]) == comparison.summaries()[1].test_auc.mean
    assert rows[0]["delta_auc_mean"] == ""


def test_headline_says_size_and_difference_in_numbers(comparison):
    main, peer = words.headline(comparison)
    best = next(s for s in comparison.summaries() if s.arm.key in ("robe-z1-1000x", "robe-z4-1000x"))
    assert "23,062 parameters instead of 23,062,400 (1000\N{MULTIPLICATION SIGN} compression)" in main
    assert f"{abs(best.delta_auc.mean):.4f} below the full tables" in main
    assert "hashing trick" in peer


def test_headline_picks_by_validation_never_by_test(comparison):
    """The arm shown is the best on validation even when another one is better on test."""
    changed = [
        records.Record(**(vars(r) | {"test_auc": 0.99 if r.arm == "robe-z4-1000x" else r.test_auc}))
        for r in comparison.records
    ]
    validation = {s.arm.key: s.validation_auc.mean for s in comparison.summaries() if s.arm.size == "1000x"}
    assert validation["robe-z1-1000x"] > validation["robe-z4-1000x"]
    assert "robe Z=1" in words.headline(Comparison(**(vars(comparison) | {"records": tuple(changed)})))[0]


def test_headline_says_when_the_seeds_cannot_tell(make):
    comparison = make()
    level = [
        records.Record(**(vars(r) | {"test_auc": 0.79 + 0.001 * (r.seed * len(r.arm) % 4)})) for r in comparison.records
    ]
    changed = Comparison(**(vars(comparison) | {"records": tuple(level)}))
    summary = next(s for s in changed.summaries() if s.arm.key == "robe-z1-1000x")
    assert abs(summary.delta_auc.mean) < summary.delta_auc.interval
    assert "cannot tell from zero" in words.headline(changed)[0]


def test_choice_at_the_edge_of_the_grid_is_told(comparison):
    assert "full" in words.at_edge(comparison)
    assert not any(label.startswith("robe") for label in words.at_edge(comparison))


def test_data_without_a_vocabulary_has_no_compression(make):
    comparison = make()
    unknown = tuple(
        records.Record(**(vars(r) | {"compression": None, "full_parameters": None}))
        for r in comparison.records
        if r.arm != "full"
    )
    arms = comparison.arms[1:]
    changed = Comparison(**(vars(comparison) | {"records": unknown, "arms": arms}))
    assert "parameters reaches a test AUC of" in words.headline(changed)[0]
    assert "No full tables were trained, so there is no difference to them." in words.caveats(changed)
