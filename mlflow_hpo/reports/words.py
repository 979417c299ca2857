"""Text that others wrote, made fit for a terminal."""

from __future__ import annotations


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


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
