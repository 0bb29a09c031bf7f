"""Tables in CSV files: numeric columns as inputs, one column as target. What is missing is refused, never filled in."""

from __future__ import annotations

import csv as reading
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.dataset import Dataset
from chainrule.data.files import read_text


def csv(
    path: str | Path, target: str | int, *, classes: Sequence[str] | str | None = None, header: bool = True, delimiter: str = ",", name: str = ""
) -> Dataset:
    r"""A table from a CSV file: one column is the target, the others, which are numbers, are the inputs.

    Parameters
    ----------
    path : path
        A file in UTF-8, gzipped or not.
    target : str or int
        The target's column, by name or by number (from 0, or from the end: -1).
    classes : None, "auto" or sequence of str
        None: the target is a number to predict. "auto": each different value is a class, in the order of their names. A
        sequence: these are the classes, and others are refused; give ``train.class_names`` to read test data.
    header : bool
        Whether the first line names the columns.
    delimiter : str
    name : str
        The file's name if not given.

    Returns
    -------
    Dataset
        Inputs of shape (columns,); targets are classes with ``class_names``, or of shape (1,).

    Raises
    ------
    DataError
        If the file cannot be read or holds no rows, a row is too short or too long, or a value is missing or no finite number:
        the error names line and column.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import chainrule as cr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "flowers.csv"
    ...     _ = path.write_text("length,width,kind\n5.1,3.5,setosa\n7.0,3.2,versicolor\n4.9,3.0,setosa\n")
    ...     flowers = cr.data.csv(path, "kind", classes="auto")
    >>> flowers, flowers.class_names
    (Dataset('flowers.csv', 3 inputs of shape (2,), 2 classes), ('setosa', 'versicolor'))
    >>> train = flowers.map(cr.data.transforms.standardize(flowers))
    >>> float(abs(train.take(slice(None))[0].mean()).round(3))
    0.0
    """
    path = Path(path)
    rows, columns = _rows(path, header, delimiter)
    place = _place(path, target, columns, header)
    inputs = np.array([[_number(path, line, columns[i], row[i]) for i in range(len(columns)) if i != place] for line, row in rows])
    values = [(line, row[place].strip()) for line, row in rows]
    if classes is None:
        wanted = np.array([[_number(path, line, columns[place], value, _CATEGORIES)] for line, value in values])
        return Dataset(inputs, wanted, name=name or path.name)
    labels, names = _classes(path, columns[place], values, classes)
    return Dataset(inputs, labels, class_names=names, name=name or path.name)


_CATEGORIES = '; if the target is a class: classes="auto"'


def _rows(path: Path, header: bool, delimiter: str) -> tuple[list[tuple[int, list[str]]], list[str]]:
    """The rows, each with the number of its line, and the names of the columns."""
    if len(delimiter) != 1:
        raise ArgumentError(f"csv: delimiter={delimiter!r}", mend="give one character")
    reader = reading.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except reading.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}", mend="mend the line: is a quotation mark missing?") from None
    columns = [entry.strip() for entry in rows.pop(0)[1]] if rows and header else [f"column {i}" for i in range(len(rows[0][1]) if rows else 0)]
    if not rows:
        raise DataError(f"{path} holds no rows", mend="check that it is the right file")
    if len(columns) < 2:
        raise DataError(f"{path} has one column alone, {columns[0]!r}", mend=f"check the delimiter, which is {delimiter!r}")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} has several columns {max(columns, key=columns.count)!r}", mend="give each a name of its own, or pass header=False")
    for line, row in rows:
        if len(row) != len(columns):
            raise DataError(f"{path}, line {line}: {len(row)} values for {len(columns)} columns", mend="mend the line, or check the delimiter")
    return rows, columns


def _place(path: Path, target: str | int, columns: list[str], header: bool) -> int:
    if isinstance(target, int):
        if not -len(columns) <= target < len(columns):
            raise ArgumentError(f"csv: no column {target} in {path}", mend=f"they are numbered 0..{len(columns) - 1}")
        return target % len(columns)
    if target not in columns:
        mend = f"choose one of: {', '.join(columns)}" if header else "with header=False give the column's number"
        raise ArgumentError(f"csv: no column {target!r} in {path}", mend=mend)
    return columns.index(target)


def _number(path: Path, line: int, column: str, value: str, otherwise: str = "; leave out the column if it is text") -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        problem = "a missing value" if not value.strip() else f"{value.strip()!r} is no finite number"
        raise DataError(f"{path}, line {line}, column {column!r}: {problem}", mend=f"fill it in or leave out the row{otherwise}")
    return number


def _classes(path: Path, column: str, values: list[tuple[int, str]], classes: Sequence[str] | str) -> tuple[npt.NDArray[Any], Sequence[str]]:
    """Each row's class, and the names of the classes."""
    if isinstance(classes, str):
        if classes != "auto":
            raise ArgumentError(f"csv: classes={classes!r}", mend='give "auto", or a list of names')
        names = sorted({value for _, value in values})
    else:
        names = list(classes)
    numbers = {name: number for number, name in enumerate(names)}
    for line, value in values:
        if not value:
            raise DataError(f"{path}, line {line}, column {column!r}: a missing value", mend="fill it in or leave out the row")
        if value not in numbers:
            raise DataError(f"{path}, line {line}, column {column!r}: no class {value!r}", mend=f"the classes given are: {', '.join(names)}")
    return np.array([numbers[value] for _, value in values]), names
