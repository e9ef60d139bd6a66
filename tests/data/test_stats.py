"""Counts against plain Python, and what verification finds."""

import json
import shutil
from collections import Counter

import pytest

from robe.data import CriteoSpec, PreparedDataset, TableSpec, generate_kaggle, prepare_criteo, prepare_table
from robe.data import verify as verify_module
from robe.data.stats import _draw_frequency, _draw_new, distinct_counts, save_plots, stats
from robe.data.verify import verify


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats")
    file = generate_kaggle(folder / "train.txt", 3000, scale=0.0005)
    spec = CriteoSpec("criteo-kaggle", ids="vocabulary")
    return prepare_criteo(file, folder / "out", spec, piece_bytes=40_000)


@pytest.fixture
def copied(made, tmp_path):
    shutil.copytree(made.path, tmp_path / "copy")
    return tmp_path / "copy"


def all_rows(dataset):
    """Label and ids of all rows in the order of the raw file."""
    shards = {}
    for name, info in dataset.manifest.splits.items():
        for shard, columns in zip(info.shards, dataset.split(name).shards(), strict=True):
            shards[shard.file] = list(zip(columns.label.tolist(), columns.ids.tolist(), strict=True))
    return [row for file in sorted(shards) for row in shards[file]]


def test_fields(made):
    found = stats(made.path)
    rows = all_rows(made)
    assert len(rows) == 3000
    for f, field in enumerate(found.fields):
        counts = Counter(ids[f] for _, ids in rows)
        top = [n for _, n in counts.most_common()]
        assert (field.distinct, field.once, field.values) == (len(top), top.count(1), 3000)
        assert field.distinct == made.fields[f].num_embeddings
        for rank, share in field.coverage:
            assert share == pytest.approx(sum(top[:rank]) / 3000)
        assert field.coverage[-1] == (len(top), pytest.approx(1.0))
    assert list(distinct_counts(made).values()) == [field.distinct for field in found.fields]


def test_periods(made):
    found = stats(made.path)
    rows = all_rows(made)
    assert len(found.periods) == 7
    start, seen = 0, [set() for _ in range(26)]
    for period in found.periods:
        part = rows[start : start + period.rows]
        start += period.rows
        assert abs(period.rows - 3000 / 7) <= 1
        assert period.label_rate == pytest.approx(sum(label for label, _ in part) / len(part))
        for f in range(26):
            new = sum(ids[f] not in seen[f] for _, ids in part) / len(part)
            assert period.unseen[f] == pytest.approx(new)
        for f in range(26):
            seen[f] |= {ids[f] for _, ids in part}
    assert start == 3000


def test_a_table_with_bags(tmp_path):
    (tmp_path / "t.csv").write_text("y,u,g\n1,a,x|y\n0,b,\n1,a,x\n0,c,z\n")
    dataset = prepare_table(tmp_path / "t.csv", tmp_path / "out", TableSpec("y", ("u",), multi=("g:|",)))
    user, genre = stats(dataset.path).fields
    assert (user.distinct, user.once, user.values) == (3, 2, 4)
    assert (genre.distinct, genre.once, genre.values) == (3, 2, 4)


def test_plots(made, tmp_path):
    files = save_plots(stats(made.path), tmp_path / "plots")
    assert [file.name for file in files] == ["frequency.svg", "label_rate.svg", "new_tokens.svg"]
    assert all(file.read_text().lstrip().startswith("<?xml") for file in files)


def test_26_fields_can_be_told_apart(made):
    from matplotlib.figure import Figure

    for draw in (_draw_frequency, _draw_new):
        axes = Figure().subplots()
        draw(stats(made.path), axes)
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 26


def outcome(checks):
    return {check.what: check.passed for check in checks}


def test_verify(made):
    found = outcome(verify(made.path))
    assert found.pop("26 token counts of the paper's Appendix C") is None
    assert set(found.values()) == {True}
    assert len(found) == 5


def test_verify_compares_with_the_appendix(made, monkeypatch):
    monkeypatch.setattr(verify_module, "KAGGLE_LINES", 3000)
    (*_, check) = verify(made.path)
    assert check.passed is False
    assert "C3 has" in check.found
    counts = tuple(field.num_embeddings for field in made.fields)
    monkeypatch.setattr(verify_module, "CRITEO_CARDINALITIES", counts)
    (*_, check) = verify(made.path)
    assert check.passed is True


@pytest.mark.parametrize("spec", [{"min_count": 2}, {"vocabulary_from": "train"}, {"max_ind_range": 1000}])
def test_the_appendix_does_not_apply_to_fewer_ids(tmp_path, monkeypatch, spec):
    monkeypatch.setattr(verify_module, "KAGGLE_LINES", 300)
    file = generate_kaggle(tmp_path / "train.txt", 300, scale=0.0005)
    dataset = prepare_criteo(file, tmp_path / "out", CriteoSpec("criteo-kaggle", ids="vocabulary", **spec))
    (*_, check) = verify(dataset.path)
    assert check.passed is None
    assert "lines" not in check.found


def test_verify_finds_damage(copied):
    shard = sorted((copied / "rows").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)
    (check,) = verify(copied)
    assert check.passed is False
    assert shard.name in check.found


def change(folder, **values):
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_verify_finds_what_does_not_add_up(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    change(copied, rows_read=3001, rows_quarantined=1)
    assert outcome(verify(copied))["read = written + quarantined"] is False
    fields = manifest["fields"]
    fields[3]["num_embeddings"] = 2
    change(copied, rows_read=3000, rows_quarantined=0, fields=fields)
    found = outcome(verify(copied))
    assert found["values of the rows"] is False
    assert found["vocabularies"] is False
    assert found["read = written + quarantined"] is True
    manifest["splits"]["test"]["label_rate"] += 0.01
    change(copied, splits=manifest["splits"])
    assert outcome(verify(copied))["label rates"] is False


def test_shards_are_the_split(made):
    dataset = PreparedDataset.open(made.path)
    split = dataset.split("train")
    labels = [label for columns in split.shards() for label in columns.label.tolist()]
    assert labels == split.columns(0, split.rows).label.tolist()
