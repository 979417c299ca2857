"""Findings: what a check has seen, and what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from urllib.parse import unquote, urlsplit

from mlflow_hpo.tracking.connect import is_uri, without_passwords

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|ACCESS_KEY|ACCESS_KEY_ID|API_KEY)$", re.IGNORECASE)
_SHORTEST = 4  # characters; hiding shorter values would tear ordinary words
# passwords that everybody knows; hiding them would tear what is said, and so tell them
_NO_SECRETS = frozenset(
    {"mlflow", "mlflow-hpo", "postgres", "postgresql", "mysql", "sqlite", "root", "user", "password"}
)


class Level(Enum):
    """How bad a finding is. A study can run with a WARNING, and fails or goes astray with a FAULT."""

    OK = "OK"
    WARNING = "WARNING"
    FAULT = "FAULT"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor: what was looked at, what it is like, and the cure if it is not OK."""

    level: Level
    subject: str
    text: str
    cure: str = ""

    def __post_init__(self) -> None:
        if (self.level is Level.OK) != (self.cure == ""):
            raise ValueError(f"a cure belongs to what is not OK, and to nothing else: {self}")


def ok(subject: str, text: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, cure: str) -> Finding:
    """Return a finding that a study can live with."""
    return Finding(Level.WARNING, subject, text, cure)


def fault(subject: str, text: str, cure: str) -> Finding:
    """Return a finding that a study fails of."""
    return Finding(Level.FAULT, subject, text, cure)


def without_secrets(findings: Iterable[Finding], uris: Iterable[str]) -> list[Finding]:
    """Return the findings with whatever is a password, token or key as `HIDDEN`.

    Args:
        findings: what the checks have found.
        uris: URIs whose user names and passwords must not be shown, wherever they are quoted.
    """
    secrets = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    for uri in uris:
        # of what is no URI nobody knows what the password is
        password = (urlsplit(uri).password or "") if is_uri(uri) else uri
        secrets |= {password, unquote(password)}
    hidden = {each for each in secrets if len(each) >= _SHORTEST and each.lower() not in _NO_SECRETS}
    longest_first = sorted(hidden, key=len, reverse=True)

    def clean(text: str) -> str:
        text = without_passwords(text)
        for secret in longest_first:
            text = text.replace(secret, HIDDEN)
        return text

    return [replace(each, text=clean(each.text), cure=clean(each.cure)) for each in findings]
