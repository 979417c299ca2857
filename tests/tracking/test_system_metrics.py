from mlflow_hpo.tracking.system_metrics import MachineMonitor


def test_the_machine_is_read_under_mlflows_names():
    readings = MachineMonitor().sample()
    for name in ("cpu_utilization_percentage", "system_memory_usage_megabytes", "disk_usage_percentage"):
        assert readings[f"system/{name}"] >= 0
    assert readings["system/system_memory_usage_megabytes"] > 0
