import logging
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robe.data import DataError, PreparedDataset, TableSpec, prepare_table

GOOD = "".join(f"1,u{i},0.5\n" for i in range(300))


def prepare(folder: Path, content: str | bytes, name: str = "rows.csv", **spec: object) -> PreparedDataset:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    merged = {"label": "label", "categorical": ("user",), "numeric": ("price",), **spec}
    return prepare_table(path, folder / "out", TableSpec(**merged))  # type: ignore[arg-type]


def quarantined(dataset: PreparedDataset) -> list[tuple[int, str]]:
    """Line and reason of every row put aside; and the books balance."""
    manifest = dataset.manifest
    rows = (dataset.path / "quarantine.tsv").read_text().splitlines()
    assert rows[0] == "source\tline\treason\ttext"
    found = [row.split("\t") for row in rows[1:]]
    assert all(len(row) == 4 for row in found)
    assert manifest.rows_quarantined == len(found) == sum(info.quarantined for info in manifest.sources)
    assert manifest.rows_read == manifest.rows_written + len(found)
    assert manifest.rows_written == sum(dataset.rows(split) for split in dataset.splits)
    return [(int(row[1]), row[2]) for row in found]


HEAD = "label,user,price\n"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1,a", "expected 3 columns, got 2"),
        (b"1,a,2,3", "expected 3 columns, got 4"),
        (b"1,a,dear", "column 'price': expected a number, got dear"),
        (b"1,a,nan", "column 'price': expected a finite number, got nan"),
        (b"1,a,inf", "column 'price': expected a finite number, got inf"),
        (b"1,a,-Infinity", "column 'price': expected a finite number, got -Infinity"),
        (b"1,a,1e39", "column 'price': expected a finite number, got 1e39"),
        (b"2,a,1", "label: expected 0 or 1, got 2"),
        (b"-1,a,1", "label: expected 0 or 1, got -1"),
        (b",a,1", "label: no value"),
        (b"yes,a,1", "column 'label': expected a number, got yes"),
        (b"1,\xff\xfe,1", "column 'user': a NUL byte, or bytes that are not UTF-8"),
        (b"1,\xff", "expected 3 columns, got 2"),
        (b"1,a\0b,1", "column 'user': a NUL byte, or bytes that are not UTF-8"),
    ],
)
def test_a_malformed_row_is_put_aside(tmp_path: Path, row: bytes, reason: str) -> None:
    dataset = prepare(tmp_path, (HEAD + GOOD).encode() + row + b"\n" + GOOD.encode())
    ((line, why),) = quarantined(dataset)
    assert line == 302
    assert why == reason
    assert dataset.rows("train") == 600


def test_line_numbers_across_blocks_and_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robe.data.source._BLOCK", 1000)
    lines, expected = ["label,user,price"], []
    for i in range(2, 5000):
        if i % 97 == 0:
            lines.append("")
        elif i % 89 == 0:
            lines.append(f"1,u{i}")
            expected.append(i)
        elif i % 83 == 0:
            lines.append(f"7,u{i},1")
            expected.append(i)
        else:
            lines.append(f"1,u{i},1")
    for newline in ("\n", "\r\n"):
        folder = tmp_path / f"folder{len(newline)}"
        folder.mkdir()
        dataset = prepare(folder, newline.join(lines) + newline, max_bad_rows=0.05)
        assert sorted(line for line, _ in quarantined(dataset)) == expected


def test_row_numbers_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    price = [1.0] * 1000
    price[41], price[999] = float("nan"), float("inf")
    pl.DataFrame({"label": 1, "user": "a", "price": price}).write_parquet(path)
    dataset = prepare_table(path, tmp_path / "out", TableSpec("label", categorical=("user",), numeric=("price",)))
    reason = "column 'price': expected a finite number, got "
    assert quarantined(dataset) == [(42, reason + "NaN"), (1000, reason + "inf")]


def test_text_is_cut_and_stays_one_line(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, HEAD + GOOD + '3,"tab\there\nand ' + "x" * 500 + '",1\n')
    ((line, reason),) = quarantined(dataset)
    assert (line, reason) == (302, "label: expected 0 or 1, got 3")


def rows_with(**lines: str) -> str:
    """12,000 rows, with the lines ``L<number>`` replaced."""
    rows = [HEAD.strip(), *(f"1,u{i},0.5" for i in range(12_000))]
    for name, text in lines.items():
        rows[int(name[1:]) - 1] = text
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("block", [1 << 24, 1 << 17])
@pytest.mark.parametrize("row", ['1,"u,0.5', '1,u,"0.5', '"1,u,0.5'])
def test_a_quote_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, block: int) -> None:
    monkeypatch.setattr("robe.data.source._BLOCK", block)
    for content in (rows_with(L6001=row), rows_with(L6001=row).rstrip()):
        with pytest.raises(DataError, match=r"line 6001: a .*never closed.*--quote"):
            prepare(tmp_path, content)
        assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="line 12001: a quote is opened"):
        prepare(tmp_path, rows_with(L12001=row))


def test_a_row_that_swallows_lines_counts_as_so_many(tmp_path: Path) -> None:
    swallow = {"L3001": '1,"u,0.5', "L3003": "", "L3010": '1,u",0.5,1', "L5000": "1,a"}
    dataset = prepare(tmp_path, rows_with(**swallow))
    found = quarantined(dataset)
    assert [line for line, _ in found] == [3001, 3002, *range(3004, 3011), 5000]
    assert found[0][1] == "expected 3 columns, got 4 (a quoted value makes lines 3001 to 3010 one row)"
    assert dataset.manifest.rows_read == 11_999
    with pytest.raises(DataError, match="6000 of 12000 rows read are malformed"):
        prepare_table(
            write(tmp_path, rows_with(L3001='1,"u,0.5', L9000='1,u",0.5,1')),
            tmp_path / "again",
            TableSpec("label", categorical=("user",)),
        )


def write(folder: Path, content: str) -> Path:
    (folder / "rows.csv").write_text(content)
    return folder / "rows.csv"


def test_lines_inside_good_rows_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "robe"):
        dataset = prepare(tmp_path, rows_with(L3001='1,"u,0.5', L3010='1,u",0.5'))
    assert "9 lines are inside quoted values" in caplog.text
    assert dataset.manifest.rows_read == 12_000 - 9


def test_rows_without_stray_quotes_are_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "robe"):
        dataset = prepare(tmp_path, rows_with(L7='1,27" screen,1', L9='1,"a,b",1', L11="", L13="1"))
    assert caplog.text == ""
    assert [line for line, _ in quarantined(dataset)] == [13]


def test_too_many(tmp_path: Path) -> None:
    content = HEAD + GOOD + "1,a\n" * 5
    with pytest.raises(
        DataError, match=r"5 of 305 rows read are malformed, max_bad_rows allows 0.01 of them. First: rows"
    ):
        prepare(tmp_path, content)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=r"line 302: expected 3 columns, got 2"):
        prepare(tmp_path, content, max_bad_rows=4)
    with pytest.raises(DataError, match="allows 0 of them"):
        prepare(tmp_path, content, max_bad_rows=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]
    assert len(quarantined(prepare(tmp_path, content, max_bad_rows=5))) == 5


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 20


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (HEAD.encode(), "no rows, only a header"),
        (HEAD.strip().encode(), "no rows, only a header"),
        (b"\n" + HEAD.encode(), "the first line is blank"),
        (PNG, "not UTF-8, in its first line"),
        (bytes(range(256)) * 100, "is it binary"),
        (b"\0" * 5000, "NUL bytes"),
        (b"x" * (2 << 20), "first line is longer than 1 MB"),
        (b"label,usr,price\n1,a,1\n", "no column 'user'; did you mean 'usr'"),
        (b"label,user,user\n1,a,1\n", r"\['user'\] appear twice"),
        (b"label;user;price\n1;a;1\n", "no column 'user'; did you mean 'label;user;price'|no column 'user'; Known"),
        (b"PAR1" + bytes(100), "NUL bytes"),
    ],
)
def test_no_table(tmp_path: Path, content: bytes, match: str) -> None:
    with pytest.raises(DataError, match=match):
        prepare(tmp_path, content)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


def test_binary_after_a_good_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"malformed|cannot be read"):
        prepare(tmp_path, HEAD.encode() + PNG * 30)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


def test_one_huge_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a line is longer than 16 MB"):
        prepare(tmp_path, (HEAD + GOOD).encode() + b"y" * 50_000_000)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv.gz"])
def test_a_wrong_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"not a Parquet file|cannot be read"):
        prepare(tmp_path, HEAD + GOOD, name)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare_table(tmp_path / "none.csv", tmp_path / "out", TableSpec("label", categorical=("user",)))
    with pytest.raises(FileNotFoundError, match="a folder"):
        prepare_table(tmp_path, tmp_path / "out", TableSpec("label", categorical=("user",)))
    with pytest.raises(DataError, match=r"unknown suffix '.dat'"):
        prepare(tmp_path, HEAD + GOOD, "rows.dat")


def test_one_row(tmp_path: Path) -> None:
    assert prepare(tmp_path, HEAD + "1,a,2").rows("train") == 1


def test_no_row_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no row is left to train on: 1 rows, all for \['test'\]"):
        prepare(tmp_path, HEAD + "1,a,2", split_column="user", split_values=("test=a",))


def test_no_row_to_train_on_and_malformed_ones(tmp_path: Path) -> None:
    spec: dict[str, object] = {"ids": "raw", "max_bad_rows": 5, "split_column": "price", "split_values": ("test=2",)}
    with pytest.raises(
        DataError, match=r"1 rows, all for \['test'\].*2 more are malformed, the first: rows.csv line 2: column 'user'"
    ):
        prepare(tmp_path, HEAD + "1,a,1\n0,b,1\n1,3,2\n", **spec)
    with pytest.raises(DataError, match="train on: 0 rows; 1 more are malformed, the first"):
        prepare(tmp_path, HEAD + "1,a,1\n", **spec)


def test_a_split_without_rows_is_left_out(tmp_path: Path) -> None:
    dataset = prepare(tmp_path, HEAD + "1,a,2", split_column="user", split_values=("test=b",))
    assert dataset.splits == ("train",)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"label": "label >>= 1"}, "label: not a SQL expression"),
        ({"label": "'x'"}, "gives String, expected 0 and 1|one value per row"),
        ({"label": "user"}, 'needs double quotes, such as "user"'),
        ({"label": "SUM(label)"}, "expected one value per row"),
        ({"label": "label = 'x'"}, "label: cannot be computed"),
        ({"derive": ('z = "user" + 1',)}, "derive z: cannot be computed.*TRY_CAST"),
        ({"derive": ("user + 1",)}, "expected name = expression"),
        ({"categorical": ()}, "at least one column"),
        ({"categorical": ("user", "user")}, "twice"),
        ({"crosses": ("user",)}, "joined by"),
        ({"crosses": ("user*price",), "ids": "raw"}, "cannot be crossed"),
        ({"ids": "hash"}, "expected one of"),
        ({"min_count": 2}, "only for ids='vocabulary'"),
        ({"validation": 0.6, "test": 0.4}, "leave rows to train on"),
        ({"split_column": "user"}, "both or neither"),
        ({"split_column": "user", "split_values": ("dev=1",)}, "expected validation=VALUE"),
        ({"multi": ("user",), "categorical": ()}, "give its separator, such as 'user:|'"),
        ({"separator": "::"}, "one ASCII character"),
        ({"max_bad_rows": -1}, "max_bad_rows"),
        ({"numeric_transform": "sqrt"}, "expected one of"),
    ],
)
def test_refuses_a_spec(tmp_path: Path, change: dict[str, object], match: str) -> None:
    with pytest.raises(DataError, match=match):
        prepare(tmp_path, HEAD + GOOD, **change)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


LINES = st.lists(
    st.one_of(
        st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")),
        st.sampled_from([b"1,a,2", b"0,b,", b"5,c,1", b"1,\xe2\x82,1", "1,€,1".encode(), b",,", b"1,d,1e400"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(lines=LINES)
def test_no_row_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = HEAD.encode() + b"\n".join([b"1,a,2", *lines])
    dataset = prepare(folder, content, max_bad_rows=1000, quote="")
    found = quarantined(dataset) if dataset.manifest.rows_quarantined else []
    assert dataset.manifest.rows_read == sum(line != b"" for line in [b"1,a,2", *lines])
    numbers = [line for line, _ in found]
    assert len(set(numbers)) == len(numbers)
    written = [line for i, line in enumerate([b"1,a,2", *lines]) if line and i + 2 not in numbers]
    assert len(written) == dataset.manifest.rows_written
    for line in written:
        label, _, price = line.decode().split(",")
        assert float(label) in (0, 1)
        assert price.strip() == "" or abs(float(price)) < 4e38
