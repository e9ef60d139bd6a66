"""URLs, a local web server, a local Ray cluster."""

import functools
import http.server
import threading

import fsspec
import pytest
from criteo_tools import contents, expect, raw_lines, read_plainly

from robe.data import CriteoSpec, DataError, prepare_criteo

SPEC = CriteoSpec("criteo-kaggle", split="none")


@pytest.fixture
def content():
    return b"\n".join(raw_lines(400, seed=8)) + b"\n"


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_memory_url(tmp_path, content, name):
    import gzip

    url = f"memory://criteo/{name}"
    with fsspec.open(url, "wb") as file:
        file.write(gzip.compress(content) if name.endswith(".gz") else content)
    dataset = prepare_criteo(url, tmp_path / "out", SPEC, piece_bytes=10_000)
    expect(dataset, "train", read_plainly(content)[0])
    assert dataset.manifest.sources[0].file == name


def test_missing_urls(tmp_path):
    with pytest.raises(FileNotFoundError):
        prepare_criteo("memory://criteo/nothing.txt", tmp_path / "out", SPEC)
    with fsspec.open("memory://criteo/empty.txt", "wb"):
        pass
    with pytest.raises(DataError, match="the file is empty"):
        prepare_criteo("memory://criteo/empty.txt", tmp_path / "out", SPEC)
    with pytest.raises((ModuleNotFoundError, ValueError), match=r"robe\[http\]|[Pp]rotocol"):
        prepare_criteo("nonsense://criteo/empty.txt", tmp_path / "out", SPEC)


def test_an_output_that_is_a_url(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(DataError, match="out: expected a local folder, got the URL s3:/"):
        prepare_criteo("train.txt", "s3://bucket/out", SPEC)
    assert [path.name for path in tmp_path.iterdir()] == ["train.txt"]


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Serves byte ranges, as object stores do."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        if not wanted:
            return super().do_GET()
        first, last = wanted.removeprefix("bytes=").split("-")
        with open(self.translate_path(self.path), "rb") as file:
            body = file.read()
        part = body[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return self.wfile.write(part)

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # of aiohttp
def test_a_web_server(tmp_path, content):
    pytest.importorskip("aiohttp", reason="http:// needs robe[http]")
    (tmp_path / "train.txt").write_bytes(content)
    handler = functools.partial(Ranges, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/train.txt"
            dataset = prepare_criteo(url, tmp_path / "out", SPEC, piece_bytes=20_000)
        finally:
            server.shutdown()
            thread.join()
    expect(dataset, "train", read_plainly(content)[0])


def test_no_ray(tmp_path, content, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    (tmp_path / "train.txt").write_bytes(content)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'robe\[ray\]'"):
        prepare_criteo(tmp_path / "train.txt", tmp_path / "out", SPEC, ray="local")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")  # of Ray
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_local_ray_cluster(tmp_path, content):
    ray = pytest.importorskip("ray", reason="needs robe[ray]")
    (tmp_path / "train.txt").write_bytes(content.replace(b"\t", b" ", 1))
    spec = CriteoSpec("criteo-kaggle", max_bad_rows=1)
    whole = prepare_criteo(tmp_path / "train.txt", tmp_path / "whole", spec, piece_bytes=20_000)
    dataset = prepare_criteo(tmp_path / "train.txt", tmp_path / "out", spec, piece_bytes=20_000, ray="local")
    assert contents(dataset.path) == contents(whole.path)
    strict = CriteoSpec("criteo-kaggle", max_bad_rows=0)
    with pytest.raises(DataError, match="max_bad_rows"):
        prepare_criteo(tmp_path / "train.txt", tmp_path / "strict", strict, piece_bytes=20_000, ray="local")
    assert not ray.is_initialized()
