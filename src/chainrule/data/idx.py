"""Reading IDX files, the format of MNIST: a short header and the bytes of one array, often gzipped.

A file is taken whole or refused with what is wrong with it; nothing is guessed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DataError
from chainrule.data.files import AGAIN, read_bytes

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path, *, ndim: int | None = None) -> npt.NDArray[Any]:
    """The array in an IDX file, gzipped or not.

    Parameters
    ----------
    path : path
    ndim : int, optional
        The number of axes that it must have.

    Returns
    -------
    ndarray
        Read-only.

    Raises
    ------
    DataError
        If the file is missing, unreadable, corrupt, of another format, truncated or too long.

    Notes
    -----
    Two zero bytes, the type, the number of axes, each size as a big-endian 32-bit integer, then the values in row-major
    order: LeCun, Cortes and Burges, "The MNIST database of handwritten digits".

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import chainrule as cr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "labels"
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 3]))
    ...     labels = cr.data.read_idx(path)
    >>> labels
    array([7, 3], dtype=uint8)
    """
    path = Path(path)
    data = read_bytes(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _TYPES:
        raise DataError(
            f"{path} is not an IDX file: it begins with {data[:4].hex(' ') or 'nothing'}", mend="give the files of the MNIST data set as they are"
        )
    rank, dtype = data[3], np.dtype(_TYPES[data[2]])
    if ndim is not None and rank != ndim:
        raise DataError(f"{path} holds an array with {rank} axes, not {ndim}", mend="check that images and labels were not exchanged")
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(f"{path} is truncated: its header ends after {len(data)} of {start} bytes", mend=AGAIN)
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", rank, 4))
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) - start != wanted:
        problem = "is truncated" if len(data) - start < wanted else "is too long"
        raise DataError(f"{path} {problem}: {len(data) - start} bytes of values, where its header {shape} needs {wanted}", mend=AGAIN)
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
