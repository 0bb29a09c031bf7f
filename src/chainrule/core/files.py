"""Files written whole or not at all: aside in the same folder, flushed to the disk, then renamed over the old one."""

from __future__ import annotations

import os
from pathlib import Path

from chainrule.core.errors import DataError

__all__ = ["ASIDE", "unwritable", "write_whole"]

ASIDE = ".part"
"""How the names of files end that are not whole yet."""


def write_whole(path: Path, data: bytes) -> None:
    """Let ``path`` hold ``data``; whenever the process dies, the file is the old one or the new one.

    Raises
    ------
    DataError
        If the folder cannot be written to, or the disk is full.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{ASIDE}")
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
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> DataError:
    """The error for a file or folder that cannot be written."""
    mend = "check that the disk has room and the folder may be written to"
    return DataError(f"{path} cannot be written: {error.strerror or error}", mend=mend)


def _sync_folder(folder: Path) -> None:
    """Let the rename itself reach the disk, where folders can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
