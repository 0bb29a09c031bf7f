"""Machine code on disk, so that a process does not compile what another one has compiled.

What is kept stands under a key of all that it depends on, with a checksum. Nothing here ever raises because of the disk: a folder
that cannot be read or written is as good as none, and a file that is not whole is thrown away.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from time import time

LIMIT = 256 << 20

_MAGIC = b"chainrule.1\n"
_HEAD = len(_MAGIC) + sha256().digest_size
_STALE = 3600.0
_written = {"bytes": LIMIT}


def key_of(*parts: str) -> str:
    """One name for all that a piece of code depends on."""
    digest = sha256()
    for part in parts:
        data = part.encode()
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


def folder(settings: Mapping[str, str] = os.environ) -> Path | None:
    """Where code is kept, if anywhere.

    ``CHAINRULE_CACHE_DIR`` names the folder; ``"0"`` or an empty word means none. Without it, the folder is ``chainrule/native``
    in the user's folder for such things: ``XDG_CACHE_HOME``, ``~/.cache``, ``~/Library/Caches`` or ``LOCALAPPDATA``.
    """
    chosen = settings.get("CHAINRULE_CACHE_DIR")
    if chosen is not None and chosen.strip() in ("", "0"):
        return None
    usual = {"darwin": "~/Library/Caches", "win32": settings.get("LOCALAPPDATA", "~")}
    base = settings.get("XDG_CACHE_HOME") or usual.get(sys.platform, "~/.cache")
    try:
        found = Path(chosen or base).expanduser()
    except RuntimeError:
        # There is no home.
        return None
    return found if chosen else found / "chainrule" / "native"


def fetch(key: str) -> bytes | None:
    """What was kept under a key; None if there is nothing, or nothing whole."""
    where = folder()
    if where is None or not _trusted(where):
        return None
    path = where / key
    try:
        data = path.read_bytes()
    except OSError:
        return None
    image = data[_HEAD:]
    if data[:_HEAD] != _head(key, image):
        _remove(path)
        return None
    with suppress(OSError):
        # What is used stays; a folder that may only be read serves as well.
        os.utime(path)
    return image


def keep(key: str, image: bytes) -> None:
    """Put code under its key; whoever reads at the same time gets all of it or nothing."""
    where = folder()
    if where is None:
        return
    passing = where / f"{key}.{token_hex(8)}"
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _trusted(where):
            return
        passing.write_bytes(_head(key, image) + image)
        passing.replace(where / key)
    except OSError:
        _remove(passing)
        return
    _written["bytes"] += len(image)
    # A process looks at the whole folder when it keeps something for the first time, and then seldom.
    if _written["bytes"] > LIMIT // 16:
        _written["bytes"] = 0
        _trim(where)


def discard(key: str) -> None:
    """Forget what is kept under a key."""
    where = folder()
    if where is not None:
        _remove(where / key)


def _head(key: str, image: bytes) -> bytes:
    return _MAGIC + sha256(key.encode() + image).digest()


def _trusted(where: Path) -> bool:
    """Whether nobody else can put code there for us to run."""
    if sys.platform == "win32":
        return True
    try:
        found = where.stat()
    except OSError:
        return False
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & stat.S_IWOTH


def _trim(where: Path, limit: int = LIMIT) -> None:
    """Remove what was not used for longest, until a good part of the room is free again."""
    try:
        with os.scandir(where) as entries:
            files = [(found.st_mtime, found.st_size, entry.name) for entry in entries if stat.S_ISREG((found := entry.stat()).st_mode)]
    except OSError:
        # Another process removed one of them: it is tidying up already.
        return
    total = sum(size for _, size, _ in files)
    wanted = total if total <= limit else limit * 3 // 4
    now = time()
    for changed, size, name in sorted(files):
        # A name with a point is a file that was never finished.
        if total > wanted or ("." in name and now - changed > _STALE):
            _remove(where / name)
            total -= size


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
