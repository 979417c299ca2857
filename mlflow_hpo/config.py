"""StudyConfig: search.yaml and flags -> one frozen, validated object."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    model_validator,
)

from mlflow_hpo.constraints import Constraint, parse_constraints
from mlflow_hpo.errors import ConfigError
from mlflow_hpo.metalearning.rules import DATASET, Rules
from mlflow_hpo.retention import Retention
from mlflow_hpo.space import SearchSpace
from mlflow_hpo.yaml_text import read_yaml

Name = Annotated[str, StringConstraints(min_length=1, max_length=250)]


def _component(value: object) -> object:
    """Check the form of a searcher, scheduler or launcher: "asha", or {"name": "asha", "eta": 3}."""
    if (isinstance(value, str) and value) or (isinstance(value, dict) and "name" in value):
        return value
    raise ConfigError("", f"must be a name, or a mapping with a name and options, got {value!r:.100}")


def _bare(value: object) -> object:
    """Return a component without options as its name."""
    return value["name"] if isinstance(value, dict) and value.keys() == {"name"} else value


def _gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ConfigError("", f"must be a share of one GPU or a whole number, got {value:g}")
    return value


Component = Annotated[Any, BeforeValidator(_component)]
Place = Annotated[Any, BeforeValidator(lambda value: _bare(_component(value)))]
Space = Annotated[
    SearchSpace,
    BeforeValidator(lambda value: value if isinstance(value, SearchSpace) else SearchSpace(value)),
    PlainSerializer(lambda space: space.to_dict(), return_type=dict),
]
Constraints = Annotated[
    tuple[Constraint, ...],
    BeforeValidator(parse_constraints),
    PlainSerializer(lambda constraints: [str(constraint) for constraint in constraints], return_type=list),
]


def _names(value: object) -> object:
    """Take "a,b" (a flag) as well as a list."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return tuple(value) if isinstance(value, list) else value


Names = Annotated[
    tuple[Name, ...], BeforeValidator(_names), PlainSerializer(lambda names: [*names], return_type=list)
]


Checkpoints = Annotated[str, BeforeValidator(lambda value: str(Retention.parse(value)))]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


class Metric(_Section):
    """What is optimised, and which way."""

    name: Name
    mode: Literal["max", "min"]


class Budget(_Section):
    """Limits of a study; at the first one that is reached, running trials are paused and the study ends."""

    epochs: Annotated[int, Field(gt=0)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    cost: Annotated[float, Field(gt=0)] | None = None
    price_per_gpu_hour: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _cost_has_a_price(self) -> Budget:
        if self.cost is not None and self.price_per_gpu_hour is None:
            raise ConfigError("cost", "needs price_per_gpu_hour beside it")
        return self


class ProjectKeys(_Section):
    """How a project is searched.

    Args:
        resource_parameter: parameter of the entry point that takes the epochs to train; None where the script
            is stopped when it has logged so many.
        checkpoint_parameter: parameter that takes the path of a file: the script goes on from it if it is
            there, and leaves its checkpoint in it.
        seed_parameter: parameter that takes the trial's seed; None for the one called "seed", where it is
            declared and not given otherwise.
        steps: whether the steps of the metric are "epochs", or its values are to be counted ("count").
        poll_interval: seconds between two looks at what a script has logged.
        stop_grace: seconds between SIGTERM and SIGKILL where a script is stopped.
        copies: each worker runs in a copy of its own of the project's folder, so that scripts may write files
            there.
    """

    resource_parameter: Name | None = None
    checkpoint_parameter: Name | None = None
    seed_parameter: Name | None = None
    steps: Literal["epochs", "count"] = "epochs"
    poll_interval: Annotated[float, Field(ge=0.05, le=600)] = 1.0
    stop_grace: Annotated[float, Field(ge=0, le=600)] = 5.0
    copies: bool = False

    @model_validator(mode="after")
    def _checkpoints_are_of_known_epochs(self) -> ProjectKeys:
        if self.checkpoint_parameter is not None and self.resource_parameter is None:
            raise ConfigError(
                "checkpoint_parameter",
                "needs resource_parameter beside it: a script that is stopped in mid-epoch leaves a "
                "checkpoint of nobody knows which epoch",
            )
        return self


class StudyKeys(TypedDict, total=False):
    """The keys of search.yaml, as keywords of `tune` and `Study`."""

    metric: str | Mapping[str, str]
    mode: str
    space: SearchSpace | Mapping[str, Any]
    searcher: str | Mapping[str, Any]
    scheduler: str | Mapping[str, Any]
    min_resource: int
    max_resource: int
    trials: int
    workers: int
    seed: int
    budget: Mapping[str, float]
    points: list[dict[str, Any]]
    warm_start: str | Sequence[str]
    warm_start_rename: Mapping[str, str]
    warm_start_task: str
    early_stopping: Mapping[str, float]
    goal: float
    constraints: Sequence[str]
    experiment: str
    name: str
    data: str
    target: str
    launcher: str | Mapping[str, Any]
    gpus_per_trial: float
    max_memory_fraction: float
    trial_timeout: float
    heartbeat_timeout: float
    max_retries: int
    trials_per_worker: int
    max_failures: int
    keep_checkpoints: str
    register: str
    project: Mapping[str, Any]


class StudyConfig(_Section):
    """Everything that a user says of one study, checked.

    Args:
        metric: name of the metric to optimise and its mode.
        space: the search space.
        searcher, scheduler: a name, or a mapping with ``name`` and options.
        min_resource, max_resource: epochs of the first rung and of a full training.
        trials: how many configurations to try.
        workers: how many trials run at a time.
        seed: seed of the search; the seeds of the trials derive from it.
        budget: further limits.
        points: configurations to try first.
        warm_start: names of experiments whose studies and plain runs say what to try, ``runs:/<run id>``
            for single ones; "auto" for all experiments.
        warm_start_rename: parameter of the space, by the name that earlier studies and runs have for it.
        warm_start_task: what tells the task of a plain run: "dataset", "experiment", "tag:NAME" or
            "param:NAME".
        early_stopping: ``patience``, ``min_delta`` and ``divergence``: trials stop by their own curves, too.
        goal: value of the metric at which the study ends.
        constraints: bounds on other metrics, such as "latency_ms <= 20"; who breaks one is infeasible.
        experiment: MLflow experiment; None for MLflow's own default.
        name: name of the parent run.
        data, target: data of the bundled training, and the column to predict where the data is a table.
        launcher: where trials run: a name, or a mapping with ``name`` and options.
        gpus_per_trial: a share of one GPU, or a whole number of them, for each trial; None to spread the
            workers over the GPUs that there are.
        max_memory_fraction: of a GPU's memory that trials which share it may take; None for the launcher's
            own choice.
        trial_timeout: seconds that one job may take; a longer one is killed and its trial failed.
        heartbeat_timeout: seconds for which a training may give no sign of life; one that hangs longer is
            killed.
        max_retries: how often a trial is tried again that fails through no fault of its training.
        trials_per_worker: how many jobs a worker process runs before a new one takes its place; None for any
            number.
        max_failures: end the study when so many trials failed and none succeeded.
        keep_checkpoints: which are kept when the study ends: "best", of the best trial; "best:5", of the best
            five; "last", the newest of each trial; "all". Paused trials keep their newest.
        register: name under which to register the best model.
        project: how a project is searched, with the launcher "project" only.
    """

    metric: Metric
    space: Space
    searcher: Component = "auto"
    scheduler: Component = "auto"
    min_resource: Annotated[int, Field(gt=0)] = 1
    max_resource: Annotated[int, Field(gt=0)]
    trials: Annotated[int, Field(gt=0)] = 100
    workers: Annotated[int, Field(gt=0, le=65536)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    budget: Budget = Budget()
    points: tuple[dict[str, Any], ...] = ()
    warm_start: Names = ()
    warm_start_rename: dict[str, str] = {}
    warm_start_task: Name | None = None
    early_stopping: dict[str, Any] | None = None
    goal: float | None = None
    constraints: Constraints = ()
    experiment: Name | None = None
    name: Name | None = None
    data: Name | None = None
    target: Name | None = None
    launcher: Place = "local"
    gpus_per_trial: Annotated[float, Field(ge=0), AfterValidator(_gpus)] | None = None
    max_memory_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    trial_timeout: Annotated[float, Field(gt=0)] | None = None
    heartbeat_timeout: Annotated[float, Field(gt=0)] | None = None
    max_retries: Annotated[int, Field(ge=0)] = 2
    trials_per_worker: Annotated[int, Field(gt=0)] | None = None
    max_failures: Annotated[int, Field(gt=0)] = 5
    keep_checkpoints: Checkpoints = "best"
    register_as: Name | None = Field(default=None, alias="register")
    project: ProjectKeys | None = None

    @model_validator(mode="after")
    def _project_has_its_launcher(self) -> StudyConfig:
        if self.project is not None and self.launcher != "project":
            raise ConfigError("project", "is for `mlflow run --backend hpo`, which searches a project")
        return self

    @model_validator(mode="after")
    def _history_can_be_read(self) -> StudyConfig:
        try:
            self.warm_start_rules.check(self.space)
        except ConfigError as error:
            raise ConfigError(f"warm_start_{error.field}", error.problem) from None
        return self

    @model_validator(mode="after")
    def _resources_ascend(self) -> StudyConfig:
        if self.max_resource < self.min_resource:
            raise ConfigError(
                "max_resource",
                f"must be at least min_resource ({self.min_resource}), got {self.max_resource}",
            )
        return self

    @model_validator(mode="after")
    def _constraints_are_on_other_metrics(self) -> StudyConfig:
        for index, constraint in enumerate(self.constraints):
            if constraint.metric == self.metric.name:
                raise ConfigError(
                    f"constraints[{index}]",
                    "must be on another metric than the one that is optimised (a value of that one at which "
                    f"the study ends is its goal), got {str(constraint)!r}",
                )
        return self

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that the search looks at: the one that it optimises, and those with bounds."""
        return list(dict.fromkeys([self.metric.name, *(each.metric for each in self.constraints)]))

    @property
    def warm_start_rules(self) -> Rules:
        """How earlier runs are read."""
        return Rules(self.warm_start_rename, self.warm_start_task or DATASET)

    @property
    def place(self) -> Any:
        """The launcher with all that it is told of."""
        options = {
            "gpus_per_trial": self.gpus_per_trial,
            "max_memory_fraction": self.max_memory_fraction,
        }
        given = {key: value for key, value in options.items() if value is not None}
        if not given:
            return self.launcher
        named = {"name": self.launcher} if isinstance(self.launcher, str) else self.launcher
        return {**named, **given}

    @classmethod
    def parse(cls, keys: Mapping[str, Any]) -> StudyConfig:
        """Check the keys of a search.yaml.

        ``metric`` may be a plain name with ``mode`` beside it.

        Raises:
            ConfigError: the first thing that is wrong, with the dotted path of its field.

        >>> StudyConfig.parse({"metric": "loss", "mode": "min", "max_resource": 9, "trials": 0,
        ...                    "space": {"x": {"type": "float", "low": 0, "high": 1}}})
        Traceback (most recent call last):
            ...
        mlflow_hpo.errors.ConfigError: trials: must be greater than 0, got 0
        """
        keys = dict(keys)
        if "mode" in keys:
            if not isinstance(keys.get("metric"), str):
                raise ConfigError("mode", "goes with a metric that is given by name only")
            keys["metric"] = {"name": keys["metric"], "mode": keys.pop("mode")}
        elif isinstance(keys.get("metric"), str):
            raise ConfigError("metric", "give its mode too: {name: val_accuracy, mode: max}")
        if "points" in keys and isinstance(keys["points"], list):
            keys["points"] = tuple(keys["points"])
        try:
            return cls.model_validate(keys)
        except ConfigError as error:
            raise error from None
        except ValidationError as error:
            raise _first_error(error) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the keys that are set, as plain data for YAML or JSON; `parse` reads them back."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in plain.items() if value not in ([], {})}


def load_config(path: Path) -> dict[str, Any]:
    """Read the keys of a search.yaml, or of the same in JSON; they are not checked yet.

    Raises:
        ConfigError: the file cannot be read, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError("config", f"cannot read {path}: {reason}") from None
    try:
        keys = json.loads(text, object_pairs_hook=_once) if path.suffix == ".json" else read_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise ConfigError("config", f"{path} is not valid YAML or JSON: {line:.300}") from None
    if not isinstance(keys, dict):
        raise ConfigError("config", f"{path} must hold a mapping of keys, got {type(keys).__name__}")
    return keys


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON whose keys are given once each. Raises ValueError if they are not."""
    keys = dict(pairs)
    if len(keys) < len(pairs):
        twice = next(key for key in keys if [name for name, _ in pairs].count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return keys


def _first_error(error: ValidationError) -> ConfigError:
    """Turn pydantic's report into our one line: field, value, what is allowed."""
    details = error.errors(include_url=False)[0]
    if isinstance(cause := details.get("ctx", {}).get("error"), ConfigError):
        path = [str(part) for part in details["loc"]]
        if path and re.split(r"[.\[]", cause.field)[0] != path[0]:
            return cause.under(path[0])
        return cause
    path = [str(part) for part in details["loc"]]
    field = ".".join(path)
    kind, value = details["type"], details["input"]
    if kind == "missing":
        return ConfigError(field, "is required")
    if kind == "extra_forbidden":
        return ConfigError(field, f"is not a known field{_meant(path)}")
    message = details["msg"]
    message = re.sub(r"^Input should be ", "must be ", message)
    message = re.sub(r"^String should have", "must have", message)
    return ConfigError(field, f"{message}, got {value!r:.100}")


def _meant(path: list[str]) -> str:
    sections: dict[str, type[BaseModel]] = {"metric": Metric, "budget": Budget, "project": ProjectKeys}
    model = sections.get(path[0], StudyConfig)
    allowed = [info.alias or name for name, info in model.model_fields.items()]
    close = difflib.get_close_matches(path[-1], allowed, 1)
    return (f"; did you mean {close[0]}?" if close else "") + f" (allowed: {', '.join(allowed)})"
