"""Constraints: bounds on metrics other than the optimised one; a trial that breaks one is infeasible."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from mlflow_hpo.checks import shown
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.trial import MAX_NAME, is_metric_name

Operator = Literal["<=", ">=", "<", ">"]

_OPERATOR = re.compile(r"[<>]=?")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # float() would take 1_000 and inf


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound that the values of one metric must keep.

    >>> latency = Constraint.parse("latency_ms <= 20")
    >>> latency.satisfied(19.5), latency.satisfied(31.2), latency.satisfied(float("nan"))
    (True, False, False)
    >>> latency.violation(31.2)
    'latency_ms = 31.2, must be <= 20'
    """

    metric: str
    operator: Operator
    bound: float

    @classmethod
    def parse(cls, text: Any) -> Constraint:
        """Read a constraint as users write it: a metric, an operator and a finite number.

        Raises:
            ConfigError: `text` is none; the error names no field.
        """
        found = _OPERATOR.search(text) if isinstance(text, str) else None
        if found is None:
            raise _malformed(text)
        metric, number = text[: found.start()].strip(), text[found.end() :].strip()
        bound = float(number) if _NUMBER.fullmatch(number) else math.nan
        if not math.isfinite(bound):  # 1e999, too
            raise _malformed(text)
        if not is_metric_name(metric):
            raise ConfigError(
                "",
                f"must begin with the name of a metric (1 to {MAX_NAME} letters, digits, blanks and any of "
                f"_ - . : /), got {shown(text)}",
            )
        return cls(metric, cast(Operator, found.group()), bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {repr(self.bound).removesuffix('.0')}"

    @property
    def is_upper(self) -> bool:
        """Whether this bounds the metric from above."""
        return self.operator.startswith("<")

    def satisfied(self, value: float) -> bool:
        """Whether `value` keeps the bound; NaN does not."""
        if self.operator == "<=":
            return value <= self.bound
        if self.operator == ">=":
            return value >= self.bound
        return value < self.bound if self.operator == "<" else value > self.bound

    def violation(self, value: float | None) -> str:
        """Return in words how `value`, or its absence, breaks the bound; "" if it does not."""
        demand = f"must be {str(self).removeprefix(self.metric + ' ')}"
        if value is None:
            return f"{self.metric} is not reported, {demand}"
        if self.satisfied(value):
            return ""
        rounded = f"{value:.6g}"
        return f"{self.metric} = {repr(value) if self.satisfied(float(rounded)) else rounded}, {demand}"


def parse_constraints(texts: Any) -> tuple[Constraint, ...]:
    """Read a list of constraints. A metric may have one lower and one upper bound that leave room between.

    Raises:
        ConfigError: for ``constraints``, or for ``constraints[i]``.

    >>> [str(constraint) for constraint in parse_constraints(["latency_ms<=2e1", "recall > 0.90"])]
    ['latency_ms <= 20', 'recall > 0.9']
    """
    if not isinstance(texts, Sequence) or isinstance(texts, str | bytes):
        raise ConfigError("constraints", f"must be a list such as ['latency_ms <= 20'], got {shown(texts)}")
    constraints: list[Constraint] = []
    for index, text in enumerate(texts):
        try:
            constraint = Constraint.parse(text)
            for other in constraints:
                _check_pair(other, constraint)
        except ConfigError as error:
            raise error.under(f"constraints[{index}]") from None
        constraints.append(constraint)
    return tuple(constraints)


def violations(constraints: Sequence[Constraint], values: Mapping[str, float]) -> str:
    """Return in words which constraints `values`, metric -> value, break; "" where none is broken.

    A metric without a value breaks its bound.

    >>> some = parse_constraints(["latency_ms <= 20", "recall >= 0.9", "size_mb < 8"])
    >>> violations(some, {"latency_ms": 31.2, "recall": 0.95})
    'latency_ms = 31.2, must be <= 20; size_mb is not reported, must be < 8'
    """
    found = (constraint.violation(values.get(constraint.metric)) for constraint in constraints)
    return "; ".join(violation for violation in found if violation)


def _malformed(text: Any) -> ConfigError:
    return ConfigError(
        "",
        "must be a metric, one of <=, >=, <, > and a finite number, such as 'latency_ms <= 20', "
        f"got {shown(text)}",
    )


def _check_pair(earlier: Constraint, later: Constraint) -> None:
    """Refuse a second bound on the same side of a metric, and one that leaves no value that keeps both."""
    if earlier.metric != later.metric:
        return
    if earlier.is_upper == later.is_upper:
        side = "an upper" if later.is_upper else "a lower"
        raise ConfigError("", f"{later.metric} has {side} bound already, {earlier}; got {str(later)!r}")
    lower, upper = (earlier, later) if later.is_upper else (later, earlier)
    touching = lower.bound == upper.bound and lower.operator == ">=" and upper.operator == "<="
    if lower.bound >= upper.bound and not touching:
        raise ConfigError("", f"must leave room beside {earlier}, got {str(later)!r}")
