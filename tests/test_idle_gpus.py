"""GPUs that do little: noticed, and told once with what seems to keep them."""

import pytest

from mlflow_hpo.idle_gpus import PERIOD, IdleGpus


def reading(*uses, cpu=0.0):
    gpus = {f"system/gpu_{number}_utilization_percentage": use for number, use in enumerate(uses)}
    return {**gpus, "system/process_cpu_utilization_percentage": cpu, "system/gpu_0_power_usage_watts": 300.0}


def told(*uses, gpu=None, cpu=0.0, busy=4, uploads=0, periods=1, idle=None, begin=0):
    """Return what is told over some periods of one reading a second."""
    idle = idle or IdleGpus()
    found = []
    for second in range(begin, begin + int(periods * PERIOD) + 1):
        idle.sampled(reading(*uses, cpu=cpu), gpu)
        if why := idle.look(float(second), busy=busy, slots=4, uploads=uploads):
            found.append(why)
    return found


def test_busy_gpus_are_no_matter():
    assert told(31.0, 90.0, busy=1, uploads=50, cpu=100.0) == []


def test_a_machine_without_any_is_no_matter():
    assert told(busy=1, uploads=50, cpu=100.0) == []


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ({"busy": 2}, "slots wait for trials"),
        ({"uploads": 9}, "checkpoints wait to be stored"),
        ({"cpu": 95.0}, "keep their CPU cores busy"),
        ({}, "too small for the GPU"),
    ],
)
def test_the_cause_is_named(state, cause):
    [why] = told(10.0, 30.0, **state)
    assert why.startswith("GPUs are 20% busy over the last 60 seconds: ")
    assert cause in why


def test_each_cause_is_told_once():
    idle = IdleGpus()
    assert len(told(0.0, periods=5, idle=idle)) == 1
    assert len(told(0.0, periods=5, busy=1, idle=idle, begin=1000)) == 1


def test_a_trial_tells_of_the_gpu_that_it_has():
    assert told(0.0, 100.0, gpu="1") == []
    assert "GPUs are 0% busy" in told(0.0, 100.0, gpu="0")[0]


def test_it_is_told_after_a_period_and_not_before():
    assert told(0.0, periods=0.9) == []
