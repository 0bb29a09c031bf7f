"""The data of a page as JSON that is short: records with the same fields are rows of a table, and what repeats in a column is written once.

`page/facts.js` undoes this; what the fields mean is no matter of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

TABLES = ("vars", "gates", "nodes", "wires", "code", "steps")
"""Fields that hold records, by name or in a row."""
OFTEN = 4
"""A column whose values stand in it so many times on average is written by number."""


def packed(data: Mapping[str, Any]) -> str:
    """The JSON text."""
    parts = [f"{_json(key)}:{_table(value) if key in TABLES else _json(value)}" for key, value in data.items()]
    return "{" + ",".join(parts) + "}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _table(records: Mapping[str, Mapping[str, Any]] | Iterable[Mapping[str, Any]]) -> str:
    """A field that a record lacks is null."""
    names = [*records] if isinstance(records, Mapping) else None
    rows = [*records.values()] if isinstance(records, Mapping) else [*records]
    keys = [*dict.fromkeys(key for row in rows for key in row)]
    words: dict[str, str] = {}
    columns: list[list[str]] = []
    for key in keys:
        column = [_json(row.get(key)) for row in rows]
        distinct = {text: str(i) for i, text in enumerate(dict.fromkeys(column))}
        if len(distinct) * OFTEN <= len(column):
            words[key] = f"{_json(key)}:[{','.join(distinct)}]"
            column = [distinct[text] for text in column]
        columns.append(column)
    text = ",".join(f"[{','.join(row)}]" for row in zip(*columns, strict=True))
    return f'{{"keys":{_json(keys)},"words":{{{",".join(words.values())}}},"names":{_json(names)},"rows":[{text}]}}'
