"""SearchSpace: what it takes, what it refuses, and what comes back from text and from the unit cube."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from mlflow_hpo.errors import ConfigError
from mlflow_hpo.space import MAX_NAME, MAX_TEXT, SearchSpace
from mlflow_hpo.testing import SPACE

finite = st.floats(-1e9, 1e9)
positive = st.floats(1e-9, 1e9)
units = st.floats(0, 1)


@st.composite
def floats(draw):
    log = draw(st.booleans())
    low, high = sorted((draw(positive if log else finite), draw(positive if log else finite)))
    assume(low < high)
    written = {"type": "float", "low": low, "high": high, "log": log}
    if not log and draw(st.booleans()):
        written["step"] = (high - low) / draw(st.floats(1.001, 1e4))
        assume(written["step"] > 0)
    return written


@st.composite
def ints(draw):
    log = draw(st.booleans())
    low = draw(st.integers(1 if log else -(10**6), 10**6))
    high = low + draw(st.integers(1, 10**6))
    written = {"type": "int", "low": low, "high": high, "log": log}
    if not log and draw(st.booleans()):
        written["step"] = draw(st.integers(1, high - low))
    return written


texts = st.text("aA1.-: \n'\"é\\", max_size=8)
choices = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


@st.composite
def categoricals(draw):
    drawn = draw(st.lists(choices, min_size=1, max_size=6, unique_by=str))
    assume(all(a != b for i, a in enumerate(drawn) for b in drawn[:i]))
    return {"type": "categorical", "choices": drawn}


@st.composite
def spaces(draw):
    """Draw a space of up to six parameters with nested conditions, written in any order."""
    written = {}
    for index, parameter in enumerate(
        draw(st.lists(floats() | ints() | categoricals(), min_size=1, max_size=6))
    ):
        parents = [n for n, p in written.items() if p["type"] == "categorical"]
        for parent in draw(st.lists(st.sampled_from(parents), max_size=2, unique=True)) if parents else []:
            allowed = written[parent]["choices"]
            values = draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=3, unique_by=str))
            parameter.setdefault("when", {})[parent] = values if len(values) > 1 else values[0]
        written[f"p{index}"] = parameter
    return SearchSpace({name: written[name] for name in draw(st.permutations(sorted(written)))})


seeds = st.integers(0, 2**32)


@given(spaces(), seeds)
def test_a_sample_is_valid_exactly_active_and_plain(space, seed):
    config = space.sample(np.random.default_rng(seed))
    assert list(space.validate(config).items()) == list(config.items())
    assert space.active(config) == tuple(config)
    assert all(type(value) in (float, int, str, bool, type(None)) for value in config.values())


@given(spaces(), seeds)
def test_text_gives_the_configuration_back(space, seed):
    config = space.sample(np.random.default_rng(seed))
    texts = space.format(config)
    assert all(type(text) is str for text in texts.values())
    back = space.parse(texts)
    assert [*map(repr, back.items())] == [*map(repr, config.items())]


@given(spaces())
def test_to_dict_gives_the_space_back_through_json_and_yaml(space):
    assert SearchSpace(space.to_dict()) == space
    assert SearchSpace(json.loads(json.dumps(space.to_dict()))) == space
    assert SearchSpace(yaml.safe_load(yaml.safe_dump(space.to_dict(), sort_keys=False))) == space


@given(spaces(), seeds)
def test_the_unit_cube_gives_discrete_values_back(space, seed):
    config = space.sample(np.random.default_rng(seed))
    places = space.to_unit(config)
    assert list(places) == list(config)
    assert all(0 <= place <= 1 for place in places.values())
    back = space.from_unit([places.get(name, 0.5) for name in space])
    for name, value in config.items():
        exact = space[name].type != "float" or space[name].step is not None
        assert back[name] == (value if exact else pytest.approx(value, rel=1e-6, abs=1e-6))


@given(floats() | ints(), units)
def test_no_number_leaves_its_range_by_rounding(written, unit):
    space = SearchSpace({"x": written})
    for place in (0.0, math.nextafter(0, 1), unit, math.nextafter(1, 0), 1.0):
        assert space.contains(space.from_unit([place]))


@given(floats(), units, units)
def test_from_unit_is_monotonic(written, a, b):
    space = SearchSpace({"x": written})
    low, high = sorted((a, b))
    slack = 1e-9 * (abs(written["low"]) + abs(written["high"]))
    assert space.from_unit([low])["x"] <= space.from_unit([high])["x"] + slack


def test_a_grid_takes_decimal_numbers_as_written():
    space = SearchSpace({"x": {"type": "float", "low": 0.1, "high": 0.7, "step": 0.2}})
    assert {space.from_unit([unit])["x"] for unit in np.linspace(0, 1, 100)} == {0.1, 0.3, 0.5, 0.7}
    assert space.validate({"x": 0.1 + 0.2}) == {"x": 0.3}
    assert not space.contains({"x": 0.4})


def test_a_grid_whose_only_step_is_its_width():
    space = SearchSpace({"x": {"type": "float", "low": 0.1, "high": 0.3, "step": 0.2}})
    assert [space.from_unit([unit])["x"] for unit in (0, 1)] == [0.1, 0.3]


def test_both_ends_of_a_logarithmic_int_get_their_share():
    space = SearchSpace({"n": {"type": "int", "low": 1, "high": 8, "log": True}})
    rng = np.random.default_rng(0)
    draws = [space.sample(rng)["n"] for _ in range(20_000)]
    share = [draws.count(n) / len(draws) for n in range(1, 9)]
    width = math.log(8.5 / 0.5)
    assert share == pytest.approx([math.log((n + 0.5) / (n - 0.5)) / width for n in range(1, 9)], abs=0.015)


def test_linear_ints_and_choices_are_uniform():
    space = SearchSpace(
        {
            "n": {"type": "int", "low": 2, "high": 10, "step": 4},
            "c": {"type": "categorical", "choices": ["a", "b", "c", "d"]},
        }
    )
    rng = np.random.default_rng(0)
    draws = [space.sample(rng) for _ in range(12_000)]
    for name, values in (("n", (2, 6, 10)), ("c", "abcd")):
        share = [sum(draw[name] == value for draw in draws) / len(draws) for value in values]
        assert share == pytest.approx([1 / len(values)] * len(values), abs=0.015)


def test_parents_stand_before_children_and_the_rest_as_written():
    assert SPACE.names == (
        "learning_rate", "batch_size", "layers", "optimizer", "momentum", "nesterov", "beta",
    )  # fmt: skip


def test_nested_conditions():
    config = {"learning_rate": 0.01, "batch_size": 16, "layers": 5}
    common = ("learning_rate", "batch_size", "layers", "optimizer")
    assert SPACE.active({**config, "optimizer": "sgd", "momentum": 0.5}) == (*common, "momentum", "nesterov")
    assert SPACE.active({**config, "optimizer": "sgd", "momentum": 0.1}) == (*common, "momentum")
    # a grandchild of an inactive parent is inactive, whatever the parent's value would be
    assert SPACE.active({**config, "optimizer": None, "momentum": 0.5}) == (*common, "beta")
    # several keys mean all of them
    assert SPACE.active({**config, "optimizer": None, "layers": 1}) == common


def test_validate_makes_plain_python_values():
    space = SearchSpace(
        {
            "x": {"type": "float", "low": 0, "high": 9},
            "n": {"type": "int", "low": 0, "high": 9},
            "c": {"type": "categorical", "choices": ["a", 2, 3.0]},
        }
    )
    valid = space.validate({"c": np.int64(2), "n": 3.0, "x": np.float32(2)})
    assert [*map(repr, valid.items())] == ["('x', 2.0)", "('n', 3)", "('c', 2)"]
    assert repr(space.validate({"x": 1, "n": 1, "c": 3})["c"]) == "3.0"


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"learning_rate": 1}, "learning_rate", "must be within [0.0001, 0.1], got 1"),
        ({"learning_rate": True}, "learning_rate", "must be a finite number, got True"),
        ({"learning_rate": "x"}, "learning_rate", "must be a finite number, got 'x'"),
        ({"learning_rate": math.nan}, "learning_rate", "must be a finite number, got nan"),
        ({"batch_size": 16.5}, "batch_size", "must be a whole number, got 16.5"),
        ({"batch_size": 15}, "batch_size", "must be within [16, 512], got 15"),
        ({"layers": 3}, "layers", "must be 1 + k * 4, got 3"),
        ({"momentum": 0.4}, "momentum", "must be 0.1 + k * 0.4, got 0.4"),
        (
            {"optimizer": "sdg"},
            "optimizer",
            "must be one of 'adam', 'sgd', None, got 'sdg'; did you mean 'sgd'?",
        ),
        ({"optimizer": ["sgd"]}, "optimizer", "must be one of 'adam', 'sgd', None, got ['sgd']"),
        ({"optimizer": "adam"}, "momentum", "must be left out, it is only active when optimizer is 'sgd'"),
        ({"momentum": 0.1}, "nesterov", "must be left out, it is only active when momentum is 0.5 or 0.9"),
        ({"nesterov": 1}, "nesterov", "must be one of True, False, got 1"),
        ({"nesterov": ...}, "nesterov", "is missing"),
        (
            {"layer": 1},
            "layer",
            "is no parameter of the space (learning_rate, batch_size, layers, optimizer, momentum, nesterov, "
            "beta); did you mean 'layers'?",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(changes, field, problem):
    right = {
        "learning_rate": 0.01, "batch_size": 16, "layers": 5, "optimizer": "sgd",
        "momentum": 0.5, "nesterov": True,
    }  # fmt: skip
    assert SPACE.contains(right)
    wrong = {name: value for name, value in (right | changes).items() if value is not ...}
    with pytest.raises(ConfigError) as raised:
        SPACE.validate(wrong)
    assert (raised.value.field, raised.value.problem) == (field, problem)
    assert not SPACE.contains(wrong)


def test_a_configuration_must_be_a_mapping():
    with pytest.raises(ConfigError, match="must map parameters to values, got 3"):
        SPACE.validate(3)


@pytest.mark.parametrize(
    ("texts", "field", "problem"),
    [
        ({"x": "fast"}, "x", "must be a finite number, got 'fast'"),
        ({"x": "nan", "n": "1"}, "x", "must be a finite number, got nan"),
        ({"x": "1.0", "n": "1.5"}, "n", "must be a whole number, got 1.5"),
        ({"x": "1.0", "n": "one"}, "n", "must be a whole number, got 'one'"),
        ({"x": "1.0", "n": "17"}, "n", "must be within [0, 9], got 17"),
        ({"x": "1.0", "n": "1", "c": "false"}, "c", "must be one of None, True, got 'false'"),
        ({"x": "1.0", "n": "1", "y": "2"}, "y", "is no parameter of the space (x, n, c)"),
        ({"x": "1.0", "n": "1"}, "c", "is missing"),
    ],
)
def test_wrong_text_is_refused_by_name(texts, field, problem):
    space = SearchSpace(
        {
            "x": {"type": "float", "low": 0, "high": 9},
            "n": {"type": "int", "low": 0, "high": 9},
            "c": {"type": "categorical", "choices": [None, True]},
        }
    )
    with pytest.raises(ConfigError) as raised:
        space.parse(texts)
    assert (raised.value.field, raised.value.problem) == (field, problem)


def test_text_of_a_whole_float_is_an_int():
    assert repr(SearchSpace({"n": {"type": "int", "low": 0, "high": 9}}).parse({"n": "3.0"})) == "{'n': 3}"


FLOAT = {"type": "float", "low": 0.5, "high": 2}
INT = {"type": "int", "low": 1, "high": 9}
CATEGORICAL = {"type": "categorical", "choices": ["a", "b"]}


@pytest.mark.parametrize(
    ("space", "field", "problem"),
    [
        (3, "space", "must map names to parameters, got 3"),
        ({}, "space", "must name at least one parameter"),
        ({"x": 3}, "space.x", "must be a mapping such as {type: float, low: 0, high: 1}, got 3"),
        ({"x": {"low": 1}}, "space.x.type", "is missing; must be one of float, int, categorical"),
        (
            {"x": {"type": "flaot"}},
            "space.x.type",
            "must be one of float, int, categorical, got 'flaot'; did you mean 'float'?",
        ),
        ({"x": {"type": ["int"]}}, "space.x.type", "must be one of float, int, categorical, got ['int']"),
        (
            {"x": FLOAT | {"lo": 1}},
            "space.x.lo",
            "is no key of type float; must be one of type, when, low, high, log, step; did you mean 'low'?",
        ),
        (
            {"x": CATEGORICAL | {"low": 1}},
            "space.x.low",
            "is no key of type categorical; must be one of type, when, choices",
        ),
        ({"x": {"type": "float", "low": 1}}, "space.x.high", "is missing; type float needs it"),
        ({"x": {"type": "categorical"}}, "space.x.choices", "is missing; type categorical needs it"),
        ({"x": FLOAT | {"low": True}}, "space.x.low", "must be a finite number, got True"),
        ({"x": FLOAT | {"low": None}}, "space.x.low", "must be a finite number, got None"),
        ({"x": FLOAT | {"high": math.inf}}, "space.x.high", "must be a finite number, got inf"),
        ({"x": FLOAT | {"high": math.nan}}, "space.x.high", "must be a finite number, got nan"),
        (
            {"x": FLOAT | {"low": "1e-4"}},
            "space.x.low",
            "must be a finite number, got '1e-4' "
            "(text; in YAML a number with an exponent needs a point: 1.0e-4)",
        ),
        ({"x": FLOAT | {"low": 2}}, "space.x.low", "must be less than high (2.0), got 2.0"),
        ({"x": FLOAT | {"low": -1e308, "high": 1e308}}, "space.x.high",
         "must not be further from low than a float holds, got 1e+308"),
        ({"x": INT | {"low": 1.5}}, "space.x.low", "must be a whole number, got 1.5"),
        ({"x": INT | {"high": True}}, "space.x.high", "must be a whole number, got True"),
        ({"x": INT | {"high": 1}}, "space.x.low", "must be less than high (1), got 1"),
        ({"x": INT | {"high": 2**60}}, "space.x.high", f"must be within -2**53 .. 2**53, got {2**60}"),
        ({"x": FLOAT | {"log": 1}}, "space.x.log", "must be true or false, got 1"),
        ({"x": FLOAT | {"log": True, "low": 0}}, "space.x.low", "must be above 0 where log is on, got 0.0"),
        ({"x": INT | {"log": True, "low": 0}}, "space.x.low", "must be above 0 where log is on, got 0"),
        ({"x": FLOAT | {"log": True, "step": 1}}, "space.x.step", "must be left out where log is on, got 1"),
        ({"x": FLOAT | {"step": 0}}, "space.x.step", "must be a finite number above 0, got 0"),
        ({"x": FLOAT | {"step": -1}}, "space.x.step", "must be a finite number above 0, got -1"),
        ({"x": FLOAT | {"step": 1.6}}, "space.x.step", "must be at most high - low, got 1.6"),
        ({"x": INT | {"step": 0}}, "space.x.step", "must be a whole number of 1 or more, got 0"),
        ({"x": INT | {"step": 1.5}}, "space.x.step", "must be a whole number of 1 or more, got 1.5"),
        ({"x": INT | {"step": 9}}, "space.x.step", "must be at most high - low, got 9"),
        ({"x": {"type": "categorical", "choices": "ab"}}, "space.x.choices", "must be a list, got 'ab'"),
        (
            {"x": {"type": "categorical", "choices": []}},
            "space.x.choices",
            "must name at least one choice, got an empty list",
        ),
        (
            {"x": {"type": "categorical", "choices": ["a", ["b"]]}},
            "space.x.choices",
            "must be text, numbers, booleans or null, got ['b']",
        ),
        ({"x": {"type": "categorical", "choices": [math.nan]}}, "space.x.choices", "must be finite, got nan"),
        (
            {"x": {"type": "categorical", "choices": ["a", "b", "a"]}},
            "space.x.choices",
            "must differ, got 'a' twice",
        ),
        (
            {"x": {"type": "categorical", "choices": [1, True]}},
            "space.x.choices",
            "must differ, got True twice",
        ),
        (
            {"x": {"type": "categorical", "choices": [1, "1"]}},
            "space.x.choices",
            "must differ as text, got 1 and '1'",
        ),
        (
            {"x": {"type": "categorical", "choices": ["None", None]}},
            "space.x.choices",
            "must differ as text, got 'None' and None",
        ),
        (
            {"x": {"type": "categorical", "choices": ["a" * (MAX_TEXT + 1)]}},
            "space.x.choices",
            f"must be at most {MAX_TEXT} characters long, got {MAX_TEXT + 1}",
        ),
        ({"x": FLOAT | {"when": "y"}}, "space.x.when", "must map other parameters to values, got 'y'"),
        ({"x": FLOAT | {"when": None}}, "space.x.when", "must map other parameters to values, got None"),
        (
            {"x": FLOAT | {"when": {"y": []}}, "y": CATEGORICAL},
            "space.x.when.y",
            "must name at least one value, got an empty list",
        ),
        (
            {"x": FLOAT | {"when": {"optimzer": "a"}}, "optimizer": CATEGORICAL},
            "space.x.when.optimzer",
            "is no parameter of the space; did you mean 'optimizer'?",
        ),
        ({"x": FLOAT | {"when": {"x": 1}}}, "space.x.when.x", "must name another parameter, not itself"),
        (
            {"x": FLOAT | {"when": {"y": ["a", "c"]}}, "y": CATEGORICAL},
            "space.x.when.y",
            "must be one of 'a', 'b', got 'c'",
        ),
        ({"x": FLOAT | {"when": {"n": 10}}, "n": INT}, "space.x.when.n", "must be within [1, 9], got 10"),
        (
            {
                "w": FLOAT | {"when": {"x": "a"}},
                "x": CATEGORICAL | {"when": {"y": "a"}},
                "y": CATEGORICAL | {"when": {"z": "a"}},
                "z": CATEGORICAL | {"when": {"x": "a"}},
            },
            "space.x.when.y",
            "conditions must not form a cycle: x -> y -> z -> x",
        ),
        ({3: FLOAT}, "space", "names of parameters must be text that is not empty, got 3"),
        ({"": FLOAT}, "space", "names of parameters must be text that is not empty, got ''"),
        (
            {"a" * 251: FLOAT},
            f"space.{'a' * 20}...",
            f"must be at most {MAX_NAME} characters long, got 251",
        ),
    ],
)  # fmt: skip
def test_a_wrong_space_is_refused_by_field(space, field, problem):
    with pytest.raises(ConfigError) as raised:
        SearchSpace(space)
    assert (raised.value.field, raised.value.problem) == (field, problem)


NAMES = ["lr", "a b", "a.b-c_d:e/f", "..a/b", "a" * 250, "größe"]
BAD_NAMES = ["a$", "a\n", "a,b", "/x", "x/", "./x", "x//y", "x/../y", "..", ".", "../x"]


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("..")])
def test_names_that_mlflow_takes(name):
    assert SearchSpace({name: FLOAT}).names == (name,)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_mlflow_refuses(name):
    with pytest.raises(ConfigError) as raised:
        SearchSpace({name: FLOAT})
    assert raised.value.field == f"space.{name!r}"


def test_names_are_judged_as_mlflow_judges_them():
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_param_name

    for name in NAMES + BAD_NAMES:
        try:
            _validate_param_name(name)
        except MlflowException:
            with pytest.raises(ConfigError):
                SearchSpace({name: FLOAT})
        else:
            assert name.endswith("\n") or SearchSpace({name: FLOAT})


def test_a_space_is_a_mapping_of_parameters_that_compares_by_content():
    written = {"x": FLOAT | {"when": {"c": ["a"]}}, "c": CATEGORICAL}
    space = SearchSpace(written)
    assert len(space) == 2
    assert space["x"].high == 2.0
    assert space.to_dict() == {
        "c": CATEGORICAL, "x": {"type": "float", "low": 0.5, "high": 2.0, "when": {"c": "a"}},
    }  # fmt: skip
    assert space == SearchSpace(written)
    assert hash(space) == hash(SearchSpace(written))
    assert space != SearchSpace(written | {"x": FLOAT})
    assert space != SearchSpace({"c": CATEGORICAL, "y": FLOAT})
    assert space != written
    assert eval(repr(space)) == space


def test_fractions_count_as_numbers():
    assert SearchSpace({"x": FLOAT}).validate({"x": Fraction(3, 2)}) == {"x": 1.5}
