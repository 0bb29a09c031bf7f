"""Files written whole or not at all: aside in the same folder, flushed to the disk, then renamed over the old one; by one run at a time."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from chainrule.core.errors import DataError

_ASIDE = ".part"


def write_whole(path: Path, data: bytes) -> None:
    """Let ``path`` hold ``data``; whenever the process dies, the file is the old one or the new one.

    Raises
    ------
    DataError
        If the folder cannot be written to, or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{_ASIDE}")
    try:
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> DataError:
    mend = "check that the disk has room and the folder may be written to"
    return DataError(f"{path} cannot be written: {error.strerror or error}", mend=mend)


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Inside the block nobody else is inside one for this folder; what a killed process left aside there is removed.

    The lock ends with the process, however that ends. Where folders cannot be locked (on Windows, on some network disks), nothing is.

    Raises
    ------
    DataError
        If somebody else is, or the folder cannot be opened or cleared.
    """
    handle = _locked(folder)
    try:
        for path in folder.glob(f".*{_ASIDE}"):
            _remove(path)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """A handle whose end is the lock's; None where there are no locks."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock  # noqa: PLC0415, Windows has none
    except ImportError:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        flock(handle, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise DataError(f"another run is going on in {folder}", mend="wait until it has ended, or choose another folder") from None
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _sync_folder(folder: Path) -> None:
    """Let the rename itself reach the disk, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
