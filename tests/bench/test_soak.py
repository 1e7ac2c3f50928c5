"""The soak: its arithmetic on made-up looks, and a few seconds of the real thing."""

import asyncio
import random

import pytest
from bench.processes import engine, gateway
from bench.soak import Churn, Latencies, Look, Soak, facts, page, soak


def look(second: float, mib: float = 50.0, descriptors: int = 20, ms: float = 5.0) -> Look:
    return Look(second, mib, descriptors, 10, [ms] * 20)


IDLE = (look(0.0), look(101.0))


def run(looks: list[Look], idle: tuple[Look, Look] = IDLE, churn: Churn | None = None) -> Soak:
    return Soak(looks, idle, churn or Churn())


def test_memory_that_grows_has_its_slope() -> None:
    growing = run([look(second, mib=50 + second / 3600) for second in range(100)])
    assert growing.resident_mib_per_hour == pytest.approx(1.0, rel=0.01)


def test_what_fills_caches_at_the_start_is_not_judged() -> None:
    filling = run([look(second, mib=10 if second < 15 else 50) for second in range(100)])
    assert filling.resident_mib_per_hour == pytest.approx(0.0, abs=1e-6)


def test_latency_that_gets_worse_is_drift() -> None:
    tiring = run([look(second, ms=5 + second / 10) for second in range(90)])
    assert tiring.drift_ms == pytest.approx(4.8, rel=0.1)
    assert run([look(second) for second in range(90)]).drift_ms == 0.0


def test_descriptors_left_and_failed_sessions_are_problems() -> None:
    assert run([look(1)]).problems == []
    left = run([look(1)], idle=(look(0, descriptors=20), look(9, descriptors=23)))
    assert "3 descriptors" in left.problems[0]
    failed = run([look(1)], churn=Churn(failures=["closed with 1011"]))
    assert "closed with 1011" in failed.problems[0]


def test_the_page_has_every_figure_and_four_pictures() -> None:
    report = page(run([look(second) for second in range(1, 60)]))
    assert report.count("<svg") == 4
    assert all(name in report for name in facts(run([look(1)])))


def test_the_latency_of_an_event_counts_from_the_frame_that_brings_it_about() -> None:
    def partial(at: float) -> tuple[float, bytes]:
        return at, b'{"type": "partial", "segment": 0, "is_final": false, "text": "bird"}'

    latencies = Latencies()
    latencies.hear([1.0, 1.1], [partial(1.13)])  # it came after the second frame on one stream
    assert latencies.take() == [], "nothing to compare it with yet"
    latencies.hear([2.0, 2.1], [partial(2.02)])  # and on another after the first, which is what it needs
    assert latencies.take() == [pytest.approx(20.0)]
    latencies.hear([3.0, 3.1], [partial(3.15)])
    assert latencies.take() == [pytest.approx(150.0)]


@pytest.mark.timeout(90)
async def test_a_short_soak_has_sessions_and_leaves_nothing() -> None:
    async with engine() as riva, gateway(riva.address, 4) as server:
        async with asyncio.timeout(60):
            short = await soak(server, sessions=4, seconds=5.0, dice=random.Random(2))
    assert short.problems == []
    assert short.churn.finished + short.churn.broken_off == short.churn.opened >= 4
    assert len(short.looks) >= 3
    assert all(seen.resident_mib > 10 for seen in short.looks)
