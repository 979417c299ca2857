"""Text that others wrote, made fit for a terminal, and JSON that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(text: str) -> str:
    """Return `text` on one line, with what is not printable as escapes: it must not steer the terminal.

    >>> plain("a\\x1b[31mred\\nb")
    'a\\\\x1b[31mred\\\\nb'
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def brief(text: str, longest: int = 100) -> str:
    """Return `text` as `plain` does, cut where it is longer than `longest` characters.

    >>> brief("x" * 8, 5)
    'xx...'
    """
    shown = plain(text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 3]}..."


def as_json(data: Any, indent: int | None = 2) -> str:
    """Return plain data as JSON in ASCII, on one line if `indent` is None.

    >>> as_json({"value": float("nan"), "name": "é"})
    '{\\n  "value": null,\\n  "name": "\\\\u00e9"\\n}'
    """
    return json.dumps(_finite(data), indent=indent, allow_nan=False, default=str)


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, Mapping):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
