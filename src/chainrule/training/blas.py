"""How many threads NumPy's BLAS uses: set for a while, then put back as it was.

On products as small as those of a small network a second thread gains nothing, and where other work shares the
cores, threads that wait for each other lose tenfold. One thread also gives the same bits on every machine
of a kind, whatever the number of its cores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

# The names in the OpenBLAS of NumPy's wheels, and in others.
_NAMES = ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")


@contextmanager
def blas_threads(count: int) -> Generator[None]:
    """Inside the block NumPy's OpenBLAS uses this many threads; another BLAS is left as it is.

    Parameters
    ----------
    count : int
        The number of threads.

    Examples
    --------
    >>> import chainrule as cr
    >>> with cr.training.blas_threads(1):
    ...     product = cr.ones((2, 3)) @ cr.ones((3, 2))
    """
    found = _controls()
    if found is None:
        yield
        return
    get, put = found
    before = get()
    put(count)
    try:
        yield
    finally:
        put(before)


@cache
def _controls() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """OpenBLAS's functions that get and set the number of threads, from the library that NumPy has loaded."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            library = ctypes.CDLL(str(path))
            for name in _NAMES:
                if hasattr(library, name.format("set")):
                    return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None
