"""Getting a file from the internet: only when asked, resumed where it broke off, checked, and in place whole or not at all.

What a file must be is known beforehand, by size and SHA-256; nothing that differs is ever left in place.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from chainrule.core.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with a file's name, how many of its bytes are here, and how many it has."""

_CHUNK = 1 << 16
_ASIDE = ".part"
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers after which a server may give the file a little later."""

_BY_HAND = "check the network and try again, which goes on where it broke off; or put the file into the folder by hand"


@dataclass(frozen=True)
class Remote:
    """A file on the internet: what it is called, what it must be, and where it can be had."""

    name: str
    size: int
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Patience:
    """How long to wait: for an answer or the next bytes, and between attempts, twice as long each time."""

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


class _AttemptError(Exception):
    """An attempt that came to nothing; ``passing`` if another may succeed."""

    def __init__(self, why: str, *, passing: bool) -> None:
        super().__init__(why)
        self.passing = passing


def download(remote: Remote, folder: Path, *, progress: Progress | None = None, patience: Patience = Patience()) -> Path:
    """The file in ``folder``, fetched if it is not there.

    It is written aside, to a file that later attempts and later calls go on with, and takes its name once its checksum is right.
    Several calls at once do not disturb each other.

    Raises
    ------
    DataError
        If it cannot be had from any of its addresses, is not what it should be, or cannot be written.
    """
    path = folder / remote.name
    if path.exists():
        return path
    left = folder / f".{remote.name}{_ASIDE}"
    aside = folder / f".{remote.name}.{os.getpid()}.{threading.get_ident()}{_ASIDE}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Whoever moves it has it alone: nobody else adds to a file that is to be put in place.
        _move(left, aside)
        try:
            _fetch(remote, aside, progress, patience)
            aside.replace(path)
        finally:
            _move(aside, left)
    except OSError as error:
        room = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = f"make room for {remote.size:,} bytes" if room else "check that the folder may be written to"
        raise DataError(f"{path} cannot be written: {error.strerror or error}", mend=f"{mend}, or choose another data_dir") from None
    return path


def _fetch(remote: Remote, aside: Path, progress: Progress | None, patience: Patience) -> None:
    """Attempt after attempt at address after address, until ``aside`` holds the file."""
    failures: list[str] = []
    for url in remote.urls:
        for attempt in range(patience.attempts):
            if attempt:
                time.sleep(patience.pause * 2 ** (attempt - 1))
            try:
                begun = _size(aside)
                _receive(url, remote, aside, progress, patience.timeout)
                _check(remote, aside, again=begun > 0)
            except _AttemptError as failed:
                failures.append(f"{url}: {failed}")
                if not failed.passing:
                    break
            else:
                return
    raise DataError(f"{remote.name} could not be downloaded: {failures[-1]} (after {len(failures)} attempts)", mend=_BY_HAND)


def _receive(url: str, remote: Remote, aside: Path, progress: Progress | None, timeout: float) -> None:
    """Add to ``aside`` what it lacks."""
    here = _size(aside)
    if here >= remote.size:
        return
    with _answer(url, here, timeout) as answer:
        # A server may give the whole file although a part was asked for.
        resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT and answer.headers.get("Content-Range", "").startswith(f"bytes {here}-")
        with aside.open("ab" if resumed else "wb") as file:
            here = here if resumed else 0
            while here <= remote.size and (chunk := _read(answer)):
                file.write(chunk)
                here += len(chunk)
                if progress is not None:
                    progress(remote.name, here, remote.size)
            file.flush()
            os.fsync(file.fileno())
    if here < remote.size:
        raise _AttemptError(f"the connection broke off after {here:,} of {remote.size:,} bytes", passing=True)


def _answer(url: str, here: int, timeout: float) -> http.client.HTTPResponse:
    """The server's answer, from byte ``here`` on."""
    headers = {"User-Agent": "chainrule"} | ({"Range": f"bytes={here}-"} if here else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)  # noqa: S310, addresses are from our own tables
    except urllib.error.HTTPError as error:
        error.close()
        raise _AttemptError(f"the server answers {error.code} {error.reason}", passing=error.code in _PASSING) from None
    except urllib.error.URLError as error:
        raise _AttemptError(f"no connection ({error.reason})", passing=True) from None
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"no answer ({error or type(error).__name__})", passing=True) from None


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _AttemptError(f"the connection broke off ({error or type(error).__name__})", passing=True) from None


def _check(remote: Remote, aside: Path, *, again: bool) -> None:
    """Whether ``aside`` is the file. What is not is removed, and if it was put together from parts, had whole ``again``."""
    with aside.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        aside.unlink()
        raise _AttemptError(f"wrong checksum: SHA-256 {found[:16]}... where {remote.sha256[:16]}... belongs", passing=again)


def _move(path: Path, to: Path) -> None:
    """Rename a file, if it is there."""
    with suppress(FileNotFoundError):
        path.replace(to)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
