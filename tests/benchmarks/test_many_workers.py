import many_workers


def test_a_slow_driver_leaves_workers_idle(monkeypatch):
    clock = iter(range(10**6))  # each decision takes a second
    monkeypatch.setattr(many_workers.time, "process_time", lambda: float(next(clock)))
    busy, decisions, cost = many_workers._busy("random+asha", 10, 60, seconds=1.0)
    assert busy < 0.5
    assert decisions >= 60
    assert cost == 1000


def test_a_quick_driver_keeps_them_busy():
    busy, _, cost = many_workers._busy("random+asha", 10, 60, seconds=60.0)
    assert busy > 0.99
    assert 0 < cost < 100
