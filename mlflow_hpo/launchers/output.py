"""What a process that ran a trial has printed."""

from __future__ import annotations

from pathlib import Path


def end_of(log: Path, size: int) -> str:
    """Return the last `size` bytes of a file as text, without blanks around it. Raises OSError."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return file.read().decode(errors="replace").strip()
