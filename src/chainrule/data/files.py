"""Reading files whole, gzipped or not, with errors that name the file; nothing here knows a format."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from chainrule.core.errors import DataError

AGAIN = "get the file again: it was probably cut off or damaged on its way"


def read_bytes(path: Path) -> bytes:
    """What a file holds, unpacked if it was gzipped."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", mend="check the folder and the name") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", mend="check that it is a file that you may read") from None
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except EOFError:
        raise DataError(f"{path} is truncated: its gzip stream ends early", mend=AGAIN) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is corrupt: {error}", mend=AGAIN) from None


def read_text(path: Path) -> str:
    """The text in a UTF-8 file, with every line end as one line feed."""
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}", mend="convert it to UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cache_folder(name: str) -> Path:
    """Where downloaded data lie: ``chainrule`` in XDG_CACHE_HOME or, without it, in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chainrule" / name
