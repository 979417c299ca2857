"""The files in deploy/ are well-formed, and agree with each other and with the package."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from mlflow_hpo import cli
from mlflow_hpo.config import StudyConfig
from mlflow_hpo.launchers import LAUNCHERS

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
[CLUSTER] = yaml.safe_load_all((DEPLOY / "raycluster.yaml").read_text())
CONFIG_MAP, JOB = yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())
SPECS = {"RayCluster": CLUSTER["spec"], "RayJob": JOB["spec"]["rayClusterSpec"]}
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")


def pods(spec):
    """The specs of the head's pod and of the workers' pods."""
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def pinned(name):
    return re.search(rf"^{name}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def test_kinds_are_those_of_kuberay():
    assert [(each["apiVersion"], each["kind"]) for each in (CLUSTER, CONFIG_MAP, JOB)] == [
        ("ray.io/v1", "RayCluster"),
        ("v1", "ConfigMap"),
        ("ray.io/v1", "RayJob"),
    ]


@pytest.mark.parametrize("kind", SPECS)
def test_a_cluster_scales_gpu_workers_from_none(kind):
    spec = SPECS[kind]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    [workers] = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    [container] = workers["template"]["spec"]["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1


def test_both_clusters_are_of_the_same_nodes():
    lasting, of_a_job = SPECS.values()
    assert lasting["workerGroupSpecs"] == of_a_job["workerGroupSpecs"]
    assert lasting["autoscalerOptions"] == of_a_job["autoscalerOptions"]


def test_versions_and_extra_are_those_of_the_package():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert {spec["rayVersion"] for spec in SPECS.values()} == {pinned("ray")}
    assert f"FROM rayproject/ray:{pinned('ray')}-py311-gpu" in dockerfile
    [extra] = re.findall(r"mlflow-hpo\[(\w+)\]", dockerfile)
    assert extra in SETUP["options.extras_require"]
    images = {each["image"] for spec in SPECS.values() for pod in pods(spec) for each in pod["containers"]}
    assert images == set(re.findall(r"-t (\S+) ", dockerfile))
    [image] = images
    assert image.endswith(f"/{SETUP['metadata']['name']}:{SETUP['metadata']['version']}")


def test_the_job_runs_a_command_that_there_is_with_the_file_that_is_mounted():
    program, name, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    assert f"{program} = mlflow_hpo.cli:main" in SETUP["options.entry_points"]["console_scripts"]
    parameters = cli.main.commands[name].make_context(name, list(arguments)).params
    path = Path(parameters["config"])
    head = pods(SPECS["RayJob"])[0]
    [mount] = head["containers"][0]["volumeMounts"]
    [volume] = head["volumes"]
    assert (Path(mount["mountPath"]), mount["name"]) == (path.parent, volume["name"])
    assert volume["configMap"]["name"] == CONFIG_MAP["metadata"]["name"]
    assert path.name in CONFIG_MAP["data"]


def test_the_search_is_valid_and_its_trials_fit_on_a_worker():
    config = StudyConfig.parse(yaml.safe_load(CONFIG_MAP["data"]["search.yaml"]))
    launcher = LAUNCHERS.create(config.launcher, config.workers)
    assert launcher.slots[0].device == "cuda:0"
    [workers] = SPECS["RayJob"]["workerGroupSpecs"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    node = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    takes = config.launcher["resources_per_trial"]
    at_a_time = min(int(node[name] // amount) for name, amount in takes.items())
    assert at_a_time >= 1
    assert config.workers <= at_a_time * workers["maxReplicas"], "some workers would wait for ever"


@pytest.mark.parametrize("kind", SPECS)
def test_no_credential_is_written_down(kind):
    for pod in pods(SPECS[kind]):
        for container in pod["containers"]:
            named = {each["name"] for each in container["env"]}
            assert named <= {"MLFLOW_TRACKING_URI", "RAY_JOB_STOP_WAIT_TIME_S"}
