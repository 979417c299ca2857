import subprocess
import sys
import time

from mlflow_hpo.tracking.system_metrics import MachineMonitor, ProcessTree


def test_the_machine_is_read_under_mlflows_names():
    readings = MachineMonitor().sample()
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        assert readings[f"system/{name}"] >= 0
    assert readings["system/system_memory_usage_megabytes"] > 0


def test_a_trials_processes_are_read_with_those_that_they_started():
    tree = ProcessTree()
    alone = tree.sample()["process_memory_usage_megabytes"]
    code = "data = bytearray(100_000_000); print(len(data), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        child.stdout.readline()
        assert tree.sample()["process_memory_usage_megabytes"] > alone + 90
        child.communicate("\n")
    after = tree.sample()
    assert after["process_memory_usage_megabytes"] < alone + 90
    assert after["process_cpu_utilization_percentage"] >= 0


def test_work_is_seen():
    tree = ProcessTree()
    tree.sample()
    begin = time.process_time()
    while time.process_time() - begin < 0.2:
        pass
    assert tree.sample()["process_cpu_utilization_percentage"] > 1
