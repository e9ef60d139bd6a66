"""Killed runs, second processes, full disks, parts."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from criteo_tools import contents, raw_lines

from robe.data import CriteoSpec, DataError, PreparedDataset, prepare_criteo
from robe.data import writer as writer_module

PIECE = 20_000
RUN = """
import sys
from robe.data import CriteoSpec, prepare_criteo
source, out, spec = sys.argv[1:]
prepare_criteo(source, out, CriteoSpec(**eval(spec)), piece_bytes=20_000, workers=2)
"""
DIRECT = {"recipe": "criteo-kaggle"}
VOCABULARY = {"recipe": "criteo-kaggle", "ids": "vocabulary", "numeric_transform": "minmax"}
RANDOM = {"recipe": "criteo-kaggle", "split": "random-9-1-8-2"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    lines = raw_lines(5000, seed=1)
    lines[17] = lines[3000] = b"bad"
    file = tmp_path_factory.mktemp("raw") / "train.txt"
    file.write_bytes(b"\n".join(lines) + b"\n")
    return file


def start(source, out, spec):
    return subprocess.Popen([sys.executable, "-c", RUN, source, out, repr(spec)], stderr=subprocess.PIPE, text=True)


def make(source, out, spec, **options):
    return prepare_criteo(source, out, CriteoSpec(**spec), piece_bytes=PIECE, **options)


@pytest.mark.parametrize("spec", [DIRECT, VOCABULARY, RANDOM], ids=["direct", "vocabulary", "random"])
def test_killed_at_random_moments(source, tmp_path, spec):
    undisturbed = contents(make(source, tmp_path / "whole", spec).path)
    draw = random.Random(repr(spec))
    partial, interrupted = tmp_path / ".out.partial", 0
    for kill in range(10):
        with start(source, tmp_path / "out", spec) as process:
            while not list(partial.glob("*/*.json")) and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.random() * 0.15)
            process.send_signal(signal.SIGKILL)
        if (tmp_path / "out").exists():  # it was done
            assert contents(tmp_path / "out") == undisturbed
            shutil.rmtree(tmp_path / "out")
        else:
            interrupted += 1
            if kill % 3 == 2:  # otherwise the next one goes on, to be killed again
                shutil.rmtree(partial, ignore_errors=True)
    assert interrupted
    make(source, tmp_path / "out", spec)
    assert contents(tmp_path / "out") == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.fixture
def interrupted(source, tmp_path, monkeypatch):
    """What a run leaves that fails while it writes its eleventh shard."""

    def leave(spec):
        written = []
        write = writer_module._write_file

        def fail(file, memory, size):
            written.append(file)
            if len(written) > 10:
                raise ZeroDivisionError
            write(file, memory, size)

        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "_write_file", fail)
            with pytest.raises(ZeroDivisionError):
                make(source, tmp_path / "out", spec)
        return tmp_path / ".out.partial"

    return leave


def test_finished_shards_are_kept_unless_damaged(source, tmp_path, interrupted, caplog):
    undisturbed = contents(make(source, tmp_path / "whole", DIRECT).path)
    partial = interrupted(DIRECT)
    shards = sorted((partial / "rows").glob("*.arrow"))
    assert len(shards) == 10
    assert not list((partial / "rows").glob(".*"))
    before = {file.name: file.stat().st_ino for file in shards}
    shards[2].write_bytes(shards[2].read_bytes()[:-1])  # shorter
    damaged = bytearray(shards[3].read_bytes())
    damaged[-100] ^= 1
    shards[3].write_bytes(damaged)
    shards[4].unlink()
    (partial / "done" / f"{shards[5].stem}.json").write_text("{")
    dataset = make(source, tmp_path / "out", DIRECT)
    assert contents(dataset.path) == undisturbed
    after = {file.name: file.stat().st_ino for file in (dataset.path / "rows").iterdir()}
    remade = {name for name, inode in before.items() if after.get(name) != inode}
    assert {shards[i].name for i in (2, 3, 4, 5)} >= remade - {shards[-1].name}
    assert "damaged" in caplog.text
    kept = [i for i in (0, 1, 6, 7, 8) if after[shards[i].name] == before[shards[i].name]]
    assert kept == [0, 1, 6, 7, 8]


@pytest.mark.parametrize("change", ["spec", "file"])
def test_another_job_starts_anew(source, tmp_path, interrupted, caplog, change):
    interrupted(DIRECT)
    spec = DIRECT
    if change == "spec":
        spec = DIRECT | {"numeric_transform": "none"}
    else:
        os.utime(source, ns=(1, 1))
    dataset = make(source, tmp_path / "out", spec)
    assert "removed what an interrupted run left behind" in caplog.text
    assert contents(dataset.path) == contents(make(source, tmp_path / "whole", spec).path)


def test_a_second_process_is_refused(source, tmp_path):
    with start(source, tmp_path / "out", VOCABULARY) as process:
        while not (tmp_path / ".out.partial" / "job.json").exists():
            assert process.poll() is None
            time.sleep(0.002)
        with pytest.raises(BlockingIOError, match="another process is writing it"):
            make(source, tmp_path / "out", VOCABULARY)
        with pytest.raises(BlockingIOError, match="another process is writing it"):
            make(source, tmp_path / "out", DIRECT, part=(1, 2))
        assert process.wait() == 0
    PreparedDataset.open(tmp_path / "out", verify=True)


def test_it_is_idempotent(source, tmp_path, caplog):
    caplog.set_level("INFO", "robe")
    first = make(source, tmp_path / "out", DIRECT)
    before = contents(first.path)
    times = [file.stat().st_mtime_ns for file in first.path.rglob("*")]
    assert make(source, tmp_path / "out", DIRECT).digest == first.digest
    assert make(source, tmp_path / "out", DIRECT, part=(2, 3)) is None
    assert caplog.text.count("of the same files and options: nothing to do") == 2
    assert [file.stat().st_mtime_ns for file in first.path.rglob("*")] == times
    for other in (RANDOM, DIRECT | {"max_bad_rows": 5}):
        with pytest.raises(FileExistsError, match="or overwrite it"):
            make(source, tmp_path / "out", other)
    assert contents(make(source, tmp_path / "out", DIRECT, overwrite=True, workers=1).path) == before


def test_a_changed_file_is_not_the_same_job(source, tmp_path):
    file = tmp_path / "train.txt"
    shutil.copy(source, file)
    make(file, tmp_path / "out", DIRECT)
    os.utime(file, ns=(1, 1))
    with pytest.raises(FileExistsError, match="or overwrite it"):
        make(file, tmp_path / "out", DIRECT)


def test_the_raw_file_is_never_replaced(source, tmp_path):
    dataset = make(source, tmp_path / "out", DIRECT)
    inside = dataset.path / "train.txt"
    shutil.copy(source, inside)
    with pytest.raises(DataError, match="contains the input"):
        make(inside, tmp_path / "out", DIRECT, overwrite=True)
    with pytest.raises(DataError, match="is the input"):
        make(inside, inside, DIRECT)
    assert inside.read_bytes() == source.read_bytes()


def test_relative_paths(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    assert make(source.name, tmp_path / "out", DIRECT).manifest.rows_read == 5000


def test_a_file_that_may_grow_no_further(source, tmp_path):
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000));"
        f"sys.argv = ['x', {str(source)!r}, {str(tmp_path / 'out')!r}, {DIRECT!r}.__repr__()]; exec({RUN!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError" in done.stderr.splitlines()[-1]
    assert "out: the disk is full, or a file may grow no further" in done.stderr
    assert "run the same command again: finished shards are kept" in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()  # nothing was finished
    whole = make(source, tmp_path / "whole", DIRECT)
    assert contents(make(source, tmp_path / "out", DIRECT).path) == contents(whole.path)


@pytest.fixture
def mount(tmp_path):
    """Mounts a disk of a size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mounted(size):
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            disk.rmdir()
            pytest.skip("mounting a small disk needs root")
        return disk

    yield mounted
    if disk.is_mount():
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(source, tmp_path, mount):
    disk = mount("600k")
    message = r"out: about 1 MB are needed for about 5,\d+ rows, 1 MB can be had .* free some, or name another output"
    with pytest.raises(OSError, match=message):
        make(source, disk / "out", DIRECT)
    with pytest.MonkeyPatch.context() as patch:
        # Somebody else fills the disk after the check.
        (disk / "else").write_bytes(b"x" * 100_000)
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 0, 1 << 30))
        with pytest.raises(OSError, match=r"the disk is full.*finished shards are kept"):
            make(source, disk / "out", DIRECT)
    assert not (disk / "out").exists()
    kept = list((disk / ".out.partial" / "rows").iterdir())
    assert kept
    records = {json.loads(file.read_text())["shards"]["all"]["file"] for file in disk.glob(".out.partial/done/*.json")}
    assert records <= {f"rows/{file.name}" for file in kept}
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    dataset = make(source, disk / "out", DIRECT)
    assert contents(dataset.path) == contents(make(source, tmp_path / "whole", DIRECT).path)


FILL = """
import errno, os, sys
from pathlib import Path
import numpy as np
from robe.data import CriteoSpec
from robe.data.criteo.codes import Distinct, write_codes
from robe.data.criteo.vocabulary import make_vocabulary

disk, n, seen = Path(sys.argv[1]), 40_000, set()
tokens = np.random.default_rng(0).integers(0, 1 << 32, (n, 26))
shards = write_codes(disk, "x", np.zeros(n, np.float32), np.zeros((n, 13), np.float32), tokens)
spec = CriteoSpec("criteo-kaggle", ids="vocabulary", order="frequency")
pieces = [Distinct(disk / shards["tokens"].file)]
merge, page = disk / "merge", os.sysconf("SC_PAGE_SIZE")
for left in range(0, 2_000_000, 8 * page):
    merge.mkdir()
    with open(disk / "else", "wb", buffering=0) as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)
    try:
        make_vocabulary(merge, 0, pieces, spec).save(merge / "v.parquet")
        seen.add("made")
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        seen.add(max(file.suffix for file in merge.iterdir()) + f"{len(list(merge.iterdir()))}")
    for file in [disk / "else", *merge.iterdir()]:
        file.unlink()
    merge.rmdir()
    if "made" in seen:
        break
print(len(seen), "made" in seen)
"""


def test_a_disk_that_fills_up_while_tokens_are_merged(mount):
    """At whatever byte: an error, not a write to a mapped hole, which kills the process."""
    disk = mount("60m")
    done = subprocess.run([sys.executable, "-c", FILL, disk], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    stages, made = done.stdout.split()
    assert int(stages) >= 5
    assert made == "True"


@pytest.mark.parametrize("spec", [DIRECT, RANDOM], ids=["direct", "random"])
def test_parts(source, tmp_path, spec):
    whole = contents(make(source, tmp_path / "whole", spec).path)
    for i in (3, 1, 2):
        assert make(source, tmp_path / "out", spec, part=(i, 3)) is None
    assert not (tmp_path / "out").exists()
    pieces = len(list((tmp_path / ".out.partial" / "done").iterdir()))
    assert pieces == -(-source.stat().st_size // PIECE)
    (tmp_path / ".out.partial" / "part-1-of-3.lock").touch()  # of a part that was killed
    assert contents(make(source, tmp_path / "out", spec).path) == whole


def test_a_missing_part_is_made_up(source, tmp_path):
    make(source, tmp_path / "out", DIRECT, part=(2, 3))
    with pytest.raises(FileExistsError, match="it has parts of another job"):
        make(source, tmp_path / "out", RANDOM, part=(1, 3))
    whole = contents(make(source, tmp_path / "whole", DIRECT).path)
    assert contents(make(source, tmp_path / "out", DIRECT).path) == whole


@pytest.mark.parametrize(("part", "spec"), [((0, 2), DIRECT), ((3, 2), DIRECT), ((1, 2), VOCABULARY)])
def test_parts_that_make_no_sense(source, tmp_path, part, spec):
    with pytest.raises(DataError, match="part: "):
        make(source, tmp_path / "out", spec, part=part)
