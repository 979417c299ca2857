"""YAML as people write it: ``1e-4`` is a number, as in YAML 1.2 (PyYAML alone wants ``1.0e-4``)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

_NUMBER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; a text that would be read as a number is put in quotes."""


for each in (_Loader, _Dumper):
    each.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Return the plain data of a YAML text.

    >>> read_yaml("{rate: 1e-4, name: '1e-4'}")
    {'rate': 0.0001, 'name': '1e-4'}

    Raises:
        yaml.YAMLError: it is none.
        ValueError: it has a date or number that there is not.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe one


def as_yaml(data: Mapping[str, Any]) -> str:
    """Return plain data as YAML, keys in their order; `read_yaml` returns it again.

    >>> as_yaml({"name": "12e5", "rate": 0.0001})
    "name: '12e5'\\nrate: 0.0001\\n"
    """
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False)


def in_one_line(entry: Mapping[str, Any]) -> str:
    """Return a mapping as one line of YAML, without braces.

    >>> in_one_line({"rate": {"low": 0.1, "high": 1}})
    'rate: {low: 0.1, high: 1}'
    """
    text = yaml.dump(dict(entry), Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=math.inf)
    return text.strip()[1:-1]
