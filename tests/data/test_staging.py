import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robe.data import PreparedDataset, SyntheticSpec, generate
from robe.data.staging import staged_folder

WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from robe.data.staging import staged_folder
with staged_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "half").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writing(tmp_path: Path):
    """A process that is in the middle of writing ``tmp_path / "out"``."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, tmp_path / "out"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def test_appears_complete(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "deep" / "out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "file").read_text() == "x"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "out") as folder:
        (folder / "file").with_name("other").rename(folder / "file")
    assert list(tmp_path.iterdir()) == []


def test_existing_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    (out / "manifest.json").write_text('{"format": "robe-prepared", "version": 7}')
    with pytest.raises(FileExistsError, match="or overwrite it"), staged_folder(out):
        pass
    with pytest.raises(ZeroDivisionError), staged_folder(out, overwrite=True):
        raise ZeroDivisionError
    assert (out / "old").exists()
    with staged_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def others(folder: Path) -> Path:
    """Things that overwrite must not replace."""
    (folder / "file").write_text("precious")
    for name, manifest in (("empty", None), ("foreign", '{"format": "other"}'), ("broken", "{"), ("list", "[]")):
        (folder / name).mkdir()
        if manifest:
            (folder / name / "manifest.json").write_text(manifest)
    (folder / "dangling").symlink_to(folder / "nowhere")
    return folder


@pytest.mark.parametrize("name", ["file", "empty", "foreign", "broken", "list", "dangling"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_data_set_is_overwritten(tmp_path: Path, name: str, overwrite: bool) -> None:
    before = sorted(others(tmp_path).rglob("*"))
    with (
        pytest.raises(FileExistsError, match=r"is no data set of robe.*not even overwrite"),
        staged_folder(tmp_path / name, overwrite),
    ):
        pass
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("out", ["file/out", "file/deep/out"])
def test_a_place_that_cannot_be_written(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"^out: .*/out cannot be made: .* is no folder that can be written to"):  # noqa: SIM117
        with staged_folder(tmp_path / out):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_second_writer_is_refused_and_a_killed_one_cleaned(
    tmp_path: Path, writing: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BlockingIOError, match="another process is writing it"), staged_folder(tmp_path / "out"):
        pass
    assert (tmp_path / ".out.partial" / "half").exists()
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    assert (tmp_path / ".out.partial" / "half").exists()
    with caplog.at_level(logging.WARNING, "robe"), staged_folder(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
    assert "interrupted run left behind (half)" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_crash_between_the_renames_is_undone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "file").write_text("old")
    with caplog.at_level(logging.WARNING, "robe"), pytest.raises(FileExistsError), staged_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "file").read_text() == "old"
    assert "brought back" in caplog.text


@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_kill_while_preparing_leaves_no_data_set(tmp_path: Path, delay: float) -> None:
    out = tmp_path / "out"
    code = f"from robe.data import *; generate(SyntheticSpec(400_000, scale=0.001), {str(out)!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        partial = tmp_path / ".out.partial"
        while not partial.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    with pytest.raises(FileNotFoundError):
        PreparedDataset.open(out)
    generate(SyntheticSpec(200, scale=0.001), out)
    assert PreparedDataset.open(out, verify=True).rows("train") == 160
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
