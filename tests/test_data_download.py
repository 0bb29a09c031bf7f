"""Downloads, from a server on this machine that breaks off, stalls, errs and lies: what is kept is whole and right."""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chainrule import data
from chainrule.core.errors import DataError
from chainrule.data import cifar
from chainrule.data.download import Patience, Remote, download
from test_data import idx, images_and_labels

mnist: Any = importlib.import_module("chainrule.data.mnist")  # cr.data.mnist is the function
CONTENT = np.random.default_rng(0).bytes(300_000)
Respond = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers the n-th request as the n-th entry of ``script`` says, and the rest properly."""

    script: list[Respond]
    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        (self.script.pop(0) if self.script else properly)(self)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    @property
    def begin(self) -> int:
        return int((self.headers.get("Range") or "bytes=0-")[6:-1])

    def head(self, code: int, length: int, begin: int = 0) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(length))
        if code == 206:
            self.send_header("Content-Range", f"bytes {begin}-{begin + length - 1}/{begin + length}")
        self.end_headers()


def properly(handler: Handler) -> None:
    content = handler.files.get(handler.path)
    if content is None:
        handler.head(404, 0)
        return
    begin = handler.begin
    handler.head(206 if begin else 200, len(content) - begin, begin)
    handler.wfile.write(content[begin:])


def cut_off_after(count: int) -> Respond:
    def respond(handler: Handler) -> None:
        content, begin = handler.files[handler.path], handler.begin
        handler.head(206 if begin else 200, len(content) - begin, begin)
        handler.wfile.write(content[begin : begin + count])

    return respond


def saying(code: int) -> Respond:
    return lambda handler: handler.head(code, 0)


def ignoring_the_range(handler: Handler) -> None:
    content = handler.files[handler.path]
    handler.head(200, len(content))
    handler.wfile.write(content)


def instead(content: bytes) -> Respond:
    def respond(handler: Handler) -> None:
        handler.head(200, len(content))
        handler.wfile.write(content)

    return respond


def stalling(handler: Handler) -> None:
    content = handler.files[handler.path]
    handler.head(200, len(content))
    handler.wfile.write(content[:100_000])
    handler.wfile.flush()
    Server.hold.wait(10)


class Server:
    hold = threading.Event()

    def __init__(self, address: str, handler: type[Handler]) -> None:
        self.address = address
        self.handler = handler

    def serves(self, *script: Respond, content: bytes = CONTENT) -> Remote:
        """A file whose first requests are answered by ``script``."""
        self.handler.script[:] = script
        self.handler.files["/file"] = content
        return Remote("file", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), (f"{self.address}/file",))

    @property
    def ranges(self) -> list[str | None]:
        return [asked for _, asked in self.handler.asked]


@pytest.fixture
def server() -> Iterator[Server]:
    Server.hold.clear()
    handler = type("Scripted", (Handler,), {"script": [], "files": {}, "asked": []})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Server(f"http://127.0.0.1:{running.server_port}", handler)
    Server.hold.set()
    running.shutdown()
    thread.join()
    running.server_close()


SOON = Patience(timeout=5, attempts=4, pause=0.001)


def got(path: Path) -> bytes:
    """The file's content, after a look that nothing else was left beside it."""
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    remote = server.serves()
    shown: list[tuple[str, int, int]] = []
    path = download(remote, tmp_path / "new" / "folder", progress=lambda *now: shown.append(now), patience=SOON)
    assert got(path) == CONTENT
    assert shown[-1] == ("file", len(CONTENT), len(CONTENT))
    assert [here for _, here, _ in shown] == sorted({here for _, here, _ in shown})
    download(remote, path.parent, patience=SOON)
    assert server.ranges == [None]


def test_what_breaks_off_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    remote = server.serves(cut_off_after(100_000), cut_off_after(50_000))
    assert got(download(remote, tmp_path, patience=SOON)) == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server: Server, tmp_path: Path) -> None:
    remote = server.serves(cut_off_after(100_000), saying(503))
    with pytest.raises(DataError, match="503"):
        download(remote, tmp_path, patience=Patience(attempts=2, pause=0))
    assert not (tmp_path / "file").exists()
    assert got(download(remote, tmp_path, patience=SOON)) == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_a_server_that_ignores_the_range_gives_the_file_from_the_beginning(server: Server, tmp_path: Path) -> None:
    remote = server.serves(cut_off_after(100_000), ignoring_the_range)
    assert got(download(remote, tmp_path, patience=SOON)) == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    remote = server.serves(saying(503), saying(429))
    assert got(download(remote, tmp_path, patience=SOON)) == CONTENT
    assert len(server.ranges) == 3


def test_pauses_double(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("chainrule.data.download.time.sleep", pauses.append)
    with pytest.raises(DataError, match="after 4 attempts"):
        download(server.serves(*[saying(500)] * 4), tmp_path, patience=Patience(attempts=4, pause=0.5))
    assert pauses == [0.5, 1, 2]


def test_several_calls_at_once_do_not_disturb_each_other(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT[:1000])
    finished = threading.Event()

    def slowly(handler: Handler) -> None:
        handler.head(206, len(CONTENT) - 1000, 1000)
        handler.wfile.write(CONTENT[1000:200_000])
        handler.wfile.flush()
        finished.wait(10)
        handler.wfile.write(CONTENT[200_000:])

    remote = server.serves(slowly)
    first = threading.Thread(target=download, args=(remote, tmp_path), kwargs={"patience": SOON})
    first.start()
    while not server.ranges:
        time.sleep(0.001)
    assert download(remote, tmp_path, patience=SOON).read_bytes() == CONTENT
    finished.set()
    first.join()
    assert got(tmp_path / "file") == CONTENT
    assert server.ranges == ["bytes=1000-", None]


def test_what_is_interrupted_is_kept(server: Server, tmp_path: Path) -> None:
    def interrupt(name: str, here: int, size: int) -> None:
        if here > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.serves(), tmp_path, progress=interrupt, patience=SOON)
    assert got(tmp_path / ".file.part") == CONTENT[: (tmp_path / ".file.part").stat().st_size]
    assert got(download(server.serves(), tmp_path, patience=SOON)) == CONTENT
    assert server.ranges[-1] not in (None, "bytes=0-")


def test_a_stall_past_the_time_out_is_a_break(server: Server, tmp_path: Path) -> None:
    remote = server.serves(stalling)
    begun = time.monotonic()
    assert got(download(remote, tmp_path, patience=Patience(timeout=0.2, attempts=2, pause=0))) == CONTENT
    assert time.monotonic() - begun < 8
    # A stalled read gives nothing of its own, but what had been read before is not fetched again.
    assert server.ranges[0] is None
    assert int((server.ranges[1] or "bytes=0-")[6:-1]) > 0


def test_a_wrong_file_is_never_left_in_place(server: Server, tmp_path: Path) -> None:
    wrong = bytes(len(CONTENT))
    with pytest.raises(DataError, match=r"wrong checksum: SHA-256 .* belongs") as refused:
        download(server.serves(content=wrong), tmp_path, patience=SOON)
    assert "by hand" in str(refused.value)
    assert len(server.ranges) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_part_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(bytes(1000))
    assert got(download(server.serves(), tmp_path, patience=SOON)) == CONTENT
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_as_long_as_the_file_is_checked(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / ".file.part").write_bytes((CONTENT + bytes(5))[:size])
    assert got(download(server.serves(), tmp_path, patience=SOON)) == CONTENT
    assert server.ranges == ([] if size == len(CONTENT) else [None])


def test_a_file_that_never_ends_is_not_read_to_its_end(server: Server, tmp_path: Path) -> None:
    received: list[int] = []
    with pytest.raises(DataError, match="wrong checksum"):
        download(server.serves(instead(CONTENT * 30)), tmp_path, progress=lambda *now: received.append(now[1]), patience=Patience(attempts=1))
    assert max(received) < 2 * len(CONTENT)
    assert list(tmp_path.iterdir()) == []


def test_where_one_address_has_no_file_the_next_is_tried(server: Server, tmp_path: Path) -> None:
    remote = server.serves()
    both = Remote(remote.name, remote.size, remote.sha256, (f"{server.address}/gone", *remote.urls))
    assert got(download(both, tmp_path, patience=SOON)) == CONTENT
    assert [path for path, _ in server.handler.asked] == ["/gone", "/file"]


def test_a_file_that_is_nowhere_is_an_error_that_says_so(server: Server, tmp_path: Path) -> None:
    remote = server.serves()
    server.handler.files.clear()
    with pytest.raises(DataError, match=r"file could not be downloaded: .*/file: the server answers 404"):
        download(remote, tmp_path, patience=SOON)
    assert len(server.ranges) == 1


def test_no_network_is_an_error_that_says_so(tmp_path: Path) -> None:
    nobody = Remote("file", 1, "", ("http://127.0.0.1:1/file",))
    with pytest.raises(DataError, match="no connection") as refused:
        download(nobody, tmp_path, patience=Patience(attempts=2, pause=0))
    assert "check the network" in str(refused.value)


def test_a_full_disk_is_an_error_that_says_so(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("chainrule.data.download.os.fsync", full)
    with pytest.raises(DataError, match="No space left") as refused:
        download(server.serves(), tmp_path, patience=SOON)
    assert "make room for 300,000 bytes" in str(refused.value)
    assert not (tmp_path / "file").exists()


def test_a_folder_that_cannot_be_made_is_an_error_that_says_so(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        download(server.serves(), tmp_path / "taken" / "folder", patience=SOON)


# Readers that download


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_a_reader_downloads_what_its_split_needs_into_the_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = dict(zip(("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"), map(idx, images_and_labels()), strict=True))
    server.handler.files.update({f"/{file}": content for file, content in files.items()})
    monkeypatch.setitem(mnist._HOSTS, name, (f"{server.address}/",))
    monkeypatch.setitem(mnist._CONTENTS, name, {file: (len(content), hashlib.sha256(content).hexdigest()) for file, content in files.items()})
    read = getattr(data, name)
    with pytest.raises(DataError, match="not a folder") as refused:
        read(split="test")
    assert "download=True" in str(refused.value)
    with pytest.raises(DataError, match="has no t10k-images"):
        read(tmp_path, "test")
    assert server.handler.asked == []
    assert len(read(split="test", download=True)) == 20
    assert sorted(path.name for path in (tmp_path / "chainrule" / name).iterdir()) == sorted(files)
    assert len(read(split="test")) == 20
    assert len(server.handler.asked) == 2


def test_files_that_are_there_are_not_downloaded_again(tmp_path: Path) -> None:
    # Packed by another program they have another checksum, and are read all the same.
    for file, array in zip(("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), images_and_labels(), strict=True):
        (tmp_path / file).write_bytes(idx(array))
    assert len(data.mnist(tmp_path, download=True)) == 20


def test_checksums_are_those_of_files_that_are_named() -> None:
    remotes = [*[content for files in mnist._CONTENTS.values() for content in files.values()], (cifar._ARCHIVE.size, cifar._ARCHIVE.sha256)]
    assert all(size > 4000 and len(bytes.fromhex(sha256)) == 32 for size, sha256 in remotes)
    assert len(set(remotes)) == 9
