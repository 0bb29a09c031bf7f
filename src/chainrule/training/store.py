"""Named arrays in a safetensors file, with plain data beside them; the only file that knows that library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import DataError, MissingExtraError
from chainrule.core.files import write_whole

_DATA = "chainrule"
_MISSING = ("weights are kept in safetensors files, and that library is not installed", 'pip install "chainrule[train]"')


def save(path: Path, arrays: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> None:
    """Write arrays by name, and data that JSON can hold.

    Raises
    ------
    MissingExtraError
        If safetensors is not installed.
    DataError
        If the file cannot be written.
    """
    try:
        from safetensors.numpy import save as encode
    except ImportError:
        raise MissingExtraError(_MISSING[0], mend=_MISSING[1]) from None
    metadata = None if data is None else {_DATA: json.dumps(data)}
    write_whole(path, encode({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata))


def load(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays and the data of a file that `save` wrote.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another format.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtraError(_MISSING[0], mend=_MISSING[1]) from None
    if not path.is_file():
        raise DataError(f"{path} does not exist", mend="check the run folder")
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118, no mapping
            metadata = file.metadata() or {}
        data = json.loads(metadata.get(_DATA, "{}"))
        if not isinstance(data, dict):
            raise ValueError("the data beside the arrays is no mapping")
        return arrays, data
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read: {error}", mend="it is damaged or not a safetensors file; take an earlier copy, or train again"
        ) from None
