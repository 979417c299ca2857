"""The Ray cluster of a study: an existing one, or one on this machine that is started and stopped with it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_hpo.checks import did_you_mean, finite_number, shown
from mlflow_hpo.errors import ConfigError, StudyError
from mlflow_hpo.patience import lasting_environment

EXTRA = "pip install 'mlflow-hpo[ray]'"
LOCAL, AUTO = "local", "auto"
OF_RAY = ("CPU", "GPU", "memory")  # the resources that are no custom ones

STANDARD = ("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "GCLOUD_", "DATABRICKS_")
NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
OF_THE_DRIVER = ("MLFLOW_HPO_SPOOL", "MLFLOW_HPO_CACHE", "MLFLOW_RUN_ID")

# the server that Ray forks for a client may die at once, now and then (ray-project/ray#63202)
_TRIES = 5

logger = logging.getLogger(__name__)


def the_ray() -> Any:
    """Return the module `ray`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("", f"ray needs the extra: {EXTRA}") from error
    return ray


def parse_resources(given: Any) -> dict[str, float]:
    """Check the resources of one trial, and return them; by default one CPU.

    Raises:
        ConfigError: a name or an amount that Ray does not take.

    >>> parse_resources({"CPU": 2, "GPU": 0.25, "licence": 1})
    {'CPU': 2.0, 'GPU': 0.25, 'licence': 1.0}
    """
    if given is None:
        return {"CPU": 1.0}
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            "resources_per_trial",
            f"must be a mapping of resources, such as {{CPU: 1, GPU: 0.25}}, got {shown(given)}",
        )
    found = {"CPU": 1.0}
    for name, amount in given.items():
        if not isinstance(name, str) or not name:
            raise ConfigError("resources_per_trial", f"must have names as keys, got {shown(name)}")
        field = f"resources_per_trial.{name}"
        if name not in OF_RAY and (known := {each.lower(): each for each in OF_RAY}.get(name.lower())):
            raise ConfigError(field, f"is not what Ray calls it{did_you_mean(known, [known])}")
        found[name] = finite_number(field, amount, at_least=0)
        if name == "GPU" and amount > 1 and amount != int(amount):
            raise ConfigError(field, f"must be a share of one GPU or a whole number, got {shown(amount)}")
    return found


def actor_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Return the resources of one trial as Ray's options of an actor.

    >>> actor_options({"CPU": 1.0, "GPU": 0.25, "licence": 1.0})
    {'num_cpus': 1.0, 'num_gpus': 0.25, 'resources': {'licence': 1.0}}
    """
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    options: dict[str, Any] = {names[name]: amount for name, amount in resources.items() if name in names}
    return {**options, "resources": {name: amount for name, amount in resources.items() if name not in names}}


def environment(more: tuple[str, ...]) -> dict[str, str]:
    """Return the variables of this process that workers on other machines need: those of MLflow, of the
    stores' clients and of the network, and `more` by name.
    """
    return {
        name: value
        for name, value in lasting_environment().items()
        if name in more or (name not in OF_THE_DRIVER and (name.startswith(STANDARD) or name in NETWORK))
    }


class Cluster:
    """A connection to Ray.

    Args:
        address: "auto" or "host:port" of an existing cluster, "ray://host:port" to be its client, "local" for
            one of our own; None for the one that RAY_ADDRESS names or that runs on this machine, and one of
            our own where there is none.
        runtime_env: Ray's description of what workers need, for the whole study.
    """

    def __init__(self, address: str | None, runtime_env: Mapping[str, Any] | None) -> None:
        self._address = address
        self._runtime_env = dict(runtime_env or {})
        self._connected = False  # by us
        self.own = False  # started by us

    def connect(self) -> None:
        """Connect to the cluster, or start one.

        Raises:
            StudyError: there is none at the address, or it cannot be started.
        """
        ray = the_ray()
        if ray.is_initialized():  # by whoever stops it, too
            if self._runtime_env:
                raise StudyError("launcher.runtime_env: Ray is initialised already: give it to ray.init")
            return
        address = self._address or os.environ.get("RAY_ADDRESS") or AUTO
        try:
            with _signals_kept():
                self._init_repeatedly(address)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
            ray.shutdown()  # or Ray would take itself for a client, and the next try would fail
            line = " ".join(str(error).split())
            raise StudyError(f"launcher.address: cannot use Ray at {address}: {line:.400}") from error
        except ImportError as error:
            raise StudyError(f"launcher.address: {address} needs Ray's client: {EXTRA}") from error
        self._connected = True

    def check(self, resources: Mapping[str, float], trials: int) -> None:
        """Look whether trials can run here at all.

        Raises:
            ConfigError: never, as the cluster is our own and will not grow.
        """
        ray = the_ray()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(_fits(resources, node) for node in nodes):
            if self.own:
                name = next(name for name in resources if nodes[0].get(name, 0.0) < resources[name])
                raise ConfigError(
                    f"launcher.resources_per_trial.{name}",
                    f"must be at most what this machine has, {nodes[0].get(name, 0.0):g}, "
                    f"got {resources[name]:g}; or give the address of a cluster",
                )
            wanted = ", ".join(f"{name}: {amount:g}" for name, amount in resources.items())
            logger.warning("no node of the Ray cluster can take a trial with {%s}: waiting for one", wanted)
        elif self.own:
            at_a_time = int(min(nodes[0][name] // amount for name, amount in resources.items() if amount))
            if at_a_time < trials:
                logger.warning("workers is %d, but this machine takes %d trials at a time", trials, at_a_time)

    def disconnect(self) -> None:
        """Leave the cluster, and stop it if it is our own."""
        if self._connected:
            self._connected = False
            with _signals_kept():
                the_ray().shutdown()

    def _init_repeatedly(self, address: str) -> None:
        for _ in range(_TRIES - 1):
            try:
                return self._init(address)
            except ConnectionAbortedError:
                the_ray().shutdown()
        return self._init(address)

    def _init(self, address: str) -> None:
        ray = the_ray()
        options = {"runtime_env": self._runtime_env or None, "logging_level": logging.WARNING}
        if address != LOCAL:
            try:
                ray.init(address=address, **options)
            except ConnectionError:
                if self._address is not None or address != AUTO:
                    raise
            else:
                return
        self.own = True
        ray.init(address=LOCAL, include_dashboard=False, **options)


def _fits(resources: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in resources.items())


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep the study's handlers of signals, where Ray would put its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
