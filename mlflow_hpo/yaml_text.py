"""YAML as people write it.

``1e-4`` is a number and ``on`` a text, as in YAML 1.2: PyYAML alone wants ``1.0e-4``, and takes ``on``,
``off``, ``yes`` and ``no`` for truth values. A key that is given twice is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_NUMBER = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_TRUTH, _MERGE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the truth values of YAML 1.2, that takes no key twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML has it so
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TRUTH]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in given:
                    raise ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
                given.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper; a text that would be read as a number is put in quotes."""


_Loader.add_implicit_resolver(_TRUTH, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
for each in (_Loader, _Dumper):
    each.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789"))


def read_yaml(text: str) -> Any:
    """Return the plain data of a YAML text.

    >>> read_yaml("{rate: 1e-4, name: '1e-4', choices: [on, off], nested: true}")
    {'rate': 0.0001, 'name': '1e-4', 'choices': ['on', 'off'], 'nested': True}

    Raises:
        yaml.YAMLError: it is none, or has a key twice.
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
