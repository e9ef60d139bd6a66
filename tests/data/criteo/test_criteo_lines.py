"""Awkward lines, value by value against a plain reader."""

import gzip
import random

import pytest
from criteo_tools import expect, raw_lines, read_plainly

from robe.data import CriteoSpec, DataError, prepare_criteo

NONE = CriteoSpec("criteo-kaggle", split="none", max_bad_rows=1e9)


def field(line, number, value):
    parts = line.split(b"\t")
    parts[number] = value
    return b"\t".join(parts)


def change(number, value):
    return lambda line: field(line, number, value)


AWKWARD = {
    "empty fields": lambda line: b"\t".join([line[:1], *[b""] * 39]),
    "missing last field": change(39, b""),
    "negative count": change(2, b"-3"),
    "negative first count": change(1, b"-17"),
    "negative last count": change(13, b"-1"),
    "minus alone": change(4, b"-"),
    "minus at the end": change(4, b"3-"),
    "two minuses": change(4, b"--3"),
    "minus in a token": change(20, b"-1234567"),
    "minus after an empty field": lambda line: field(field(line, 3, b""), 4, b"-5"),
    "minus zero": change(4, b"-0"),
    "large count": change(5, b"65536"),
    "eight digits": change(5, b"99999999"),
    "nine digits": change(5, b"123456789"),
    "nine digits and a sign": change(5, b"-123456789"),
    "eighteen digits": change(5, b"123456789012345678"),
    "nineteen digits": change(5, b"1234567890123456789"),
    "leading zeros": change(5, b"00000012"),
    "a fraction": change(5, b"1.5"),
    "a letter in a count": change(5, b"1a"),
    "hexadecimal count": change(5, b"ff"),
    "a space": change(5, b" 5"),
    "plus": change(5, b"+5"),
    "short token": change(18, b"1f"),
    "one digit token": change(18, b"f"),
    "capital token": change(18, b"ABCDEF09"),
    "token of zeros": change(18, b"00000000"),
    "largest token": change(18, b"ffffffff"),
    "nine digit token": change(18, b"123456789"),
    "zero x token": change(18, b"0x123456"),
    "non-hex token": change(18, b"1234567g"),
    "colon token": change(18, b"1234567:"),
    "backquote token": change(18, b"1234567`"),
    "high byte token": change(18, b"1234567\xe9"),
    "label 2": change(0, b"2"),
    "label 10": change(0, b"10"),
    "label empty": change(0, b""),
    "label minus": change(0, b"-1"),
    "label a": change(0, b"a"),
    "CRLF": lambda line: line + b"\r",
    "CRLF after an empty last field": lambda line: field(line, 39, b"") + b"\r",
    "two CR": lambda line: line + b"\r\r",
    "CR inside": change(20, b"1234\r678"),
    "CR in a count": change(3, b"12\r"),
    "one tab less": lambda line: line.rsplit(b"\t", 1)[0],
    "one tab more": lambda line: line + b"\t",
    "no tab": lambda line: b"0",
    "blank": lambda line: b"",
    "only CR": lambda line: b"\r",
    "two lines in one": lambda line: line + b"\t" + line,
    "spaces for tabs": lambda line: line.replace(b"\t", b" "),
    "NUL in a token": change(20, b"12\x00 4567"),
    "NUL for a field": change(20, b"\x00"),
    "NUL at the end": lambda line: line + b"\0",
    "vertical tab": change(20, b"\x0b"),
    "only NULs": lambda line: b"\0" * 300,
    "low bytes": lambda line: b"\x01\x02\x08" + line,
    "very long": lambda line: b"a" * 300_000,
}


def prepared(tmp_path, content, name="train.txt", spec=NONE, **options):
    (tmp_path / name).write_bytes(content)
    return prepare_criteo(tmp_path / name, tmp_path / "out", spec, **options)


def check(dataset, content):
    good, bad = read_plainly(content)
    expect(dataset, "train", good)
    manifest = dataset.manifest
    assert manifest.rows_read == len(good) + len(bad)
    assert (manifest.rows_written, manifest.rows_quarantined) == (len(good), len(bad))
    file = dataset.path / "quarantine.tsv"
    quarantined = file.read_text().splitlines()[1:] if file.exists() else []
    assert [int(line.split("\t")[1]) for line in quarantined] == bad
    assert all(line.split("\t")[2] for line in quarantined)
    missing = [sum(row[1][j] is None for row in good) for j in range(13)]
    assert list(manifest.missing_numeric.values()) == missing


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("place", [0, 7, 19])
def test_one_awkward_line(tmp_path, name, place):
    lines = raw_lines(20, seed=place)
    lines[place] = AWKWARD[name](lines[place])
    content = b"\n".join(lines) + b"\n"
    check(prepared(tmp_path, content), content)


@pytest.mark.parametrize("piece_bytes", [50, 1000, 4096, 1 << 20])
@pytest.mark.parametrize("gz", [False, True])
def test_all_awkward_lines_over_many_pieces(tmp_path, piece_bytes, gz):
    draw = random.Random(piece_bytes)
    lines = raw_lines(600, seed=3)
    for change in AWKWARD.values():
        place = draw.randrange(len(lines))
        lines[place] = change(lines[place])
    content = b"\n".join(lines) + b"\n"
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(content))
    (tmp_path / "day_0").write_bytes(content)
    dataset = prepare_criteo(
        tmp_path / ("day_0.gz" if gz else "day_0"), tmp_path / "out", NONE, piece_bytes=piece_bytes
    )
    check(dataset, content)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n", b"\n\r\n", b"\t", b"\n0"])
def test_the_last_line(tmp_path, ending):
    content = b"\n".join(raw_lines(10)) + ending
    check(prepared(tmp_path, content), content)


def test_crlf_throughout_and_capitals(tmp_path):
    content = b"\r\n".join(line.upper() for line in raw_lines(3000)) + b"\r\n"
    check(prepared(tmp_path, content), content)


def test_gzip_of_much_text_in_few_bytes(tmp_path):
    """Blocks of text are bounded, and the end of such a file is no truncation."""
    content = (raw_lines(1)[0] + b"\n") * 100_000
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(content))
    dataset = prepare_criteo(tmp_path / "day_0.gz", tmp_path / "out", NONE)
    assert (dataset.rows("train"), dataset.manifest.rows_quarantined) == (100_000, 0)


def test_several_gzip_members(tmp_path):
    lines = raw_lines(300)
    content = b"\n".join(lines) + b"\n"
    packed = gzip.compress(content[:10_001]) + gzip.compress(b"") + gzip.compress(content[10_001:]) + b"\0" * 100
    (tmp_path / "day_0.gz").write_bytes(packed)
    check(prepare_criteo(tmp_path / "day_0.gz", tmp_path / "out", NONE, piece_bytes=3000), content)


@pytest.mark.parametrize("share", [0.3, 0.8, 0.999])
@pytest.mark.parametrize("piece_bytes", [2000, 1 << 20])
def test_a_truncated_gzip(tmp_path, share, piece_bytes, caplog):
    lines = raw_lines(300)
    packed = gzip.compress(b"\n".join(lines) + b"\n")
    (tmp_path / "day_0.gz").write_bytes(packed[: int(len(packed) * share)])
    dataset = prepare_criteo(tmp_path / "day_0.gz", tmp_path / "out", NONE, piece_bytes=piece_bytes)
    manifest = dataset.manifest
    rows = manifest.rows_written
    assert 50 * share < rows < 300
    expect(dataset, "train", read_plainly(b"\n".join(lines[:rows]) + b"\n")[0])
    assert (manifest.rows_read, manifest.rows_quarantined) == (rows + 1, 1)
    (entry,) = (dataset.path / "quarantine.tsv").read_text().splitlines()[1:]
    assert entry.split("\t")[:3] == ["day_0.gz", str(rows + 1), "the gzip data end in the middle of the file"]
    assert f"the gzip data end in the middle of the file, in line {rows + 1}" in caplog.text
    assert manifest.details == {"truncated": [str(tmp_path / "day_0.gz")]}


def test_damaged_gzip(tmp_path):
    packed = bytearray(gzip.compress(b"\n".join(raw_lines(3000)) + b"\n"))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = b"\xff" * 50
    (tmp_path / "day_0.gz").write_bytes(packed)
    with pytest.raises(DataError, match="damaged gzip data before byte"):
        prepare_criteo(tmp_path / "day_0.gz", tmp_path / "out", NONE)
    (tmp_path / "day_0.gz").write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match=r"not a gzip file, though its name ends in \.gz"):
        prepare_criteo(tmp_path / "day_0.gz", tmp_path / "out", NONE)
    assert [path.name for path in tmp_path.iterdir()] == ["day_0.gz"]
    (tmp_path / "day_0.gz").rename(tmp_path / "day_0")
    (tmp_path / "day_0").write_bytes(packed)
    with pytest.raises(DataError, match=r"day_0: a gzip file, whose name should end in \.gz"):
        prepare_criteo(tmp_path / "day_0", tmp_path / "out", NONE)


def test_too_many_bad_lines(tmp_path):
    lines = raw_lines(100)
    lines[3] = lines[50] = b"bad"
    content = b"\n".join(lines) + b"\n"
    spec = CriteoSpec("criteo-kaggle", split="none", max_bad_rows=1)
    with pytest.raises(
        DataError,
        match=r"2 of 100 rows .* malformed, max_bad_rows allows 1. First: train.txt line 4: expected 40 columns",
    ):
        prepared(tmp_path, content, spec=spec)
    assert not (tmp_path / "out").exists()
    # With a higher limit the same job goes on.
    dataset = prepared(tmp_path, content, spec=CriteoSpec("criteo-kaggle", split="none", max_bad_rows=2))
    check(dataset, content)


@pytest.mark.parametrize("content", [b"", b"\n", b"no\n" * 10])
def test_files_without_a_good_line(tmp_path, content):
    with pytest.raises(DataError, match=r"the file is empty|no good line"):
        prepared(tmp_path, content)


def test_a_file_without_line_feeds(tmp_path):
    with pytest.raises(DataError, match="no line feed in 1 MB near byte"):
        prepared(tmp_path, b"x" * (3 << 20), piece_bytes=1 << 20)
    (tmp_path / "day.gz").write_bytes(gzip.compress(b"x" * (3 << 20)))
    with pytest.raises(DataError, match="no line feed in 1 MB near byte"):
        prepare_criteo(tmp_path / "day.gz", tmp_path / "out2", NONE, piece_bytes=1 << 20)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare_criteo(tmp_path / "train.txt", tmp_path / "out", NONE)
    assert list(tmp_path.iterdir()) == []


def test_max_ind_range_and_raw_numbers(tmp_path):
    content = b"\n".join([*raw_lines(50), change(5, b"123456789")(raw_lines(1)[0])])
    dataset = prepared(
        tmp_path, content, spec=CriteoSpec("criteo-kaggle", split="none", max_ind_range=1000, numeric_transform="none")
    )
    good, _ = read_plainly(content)
    columns = dataset.split("train").columns(0, 51)
    assert columns.ids.tolist() == [[token % 1000 for token in row[2]] for row in good]
    assert columns.dense.tolist() == [[float(count or 0) for count in row[1]] for row in good[:-1]] + [
        [float(count or 0) if j != 4 else 123456792.0 for j, count in enumerate(good[-1][1])]
    ]
    assert {field.num_embeddings for field in dataset.fields} == {1000}
