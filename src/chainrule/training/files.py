"""One run at a time in a folder; what another one left there unfinished is removed."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from chainrule.core.errors import DataError
from chainrule.core.files import ASIDE, unwritable


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
        for path in folder.glob(f".*{ASIDE}"):
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
        raise unwritable(folder, error) from None
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
        raise unwritable(path, error) from None
