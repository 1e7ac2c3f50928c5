import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from perch.core import audio
from perch.observability.metrics import LATENCY_BUCKETS, OTHER, SAMPLE_RATE, Metrics, error_codes

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(metrics: Metrics) -> Series:
    """What a Prometheus server reads, by name and labels."""
    body, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return scrape(metrics)[name, tuple(sorted(labels.items()))]


def test_a_session_is_active_between_opening_and_closing() -> None:
    metrics = Metrics()
    metrics.session_opened()
    metrics.session_opened()
    metrics.session_closed("done", 2.5, 7.5)
    assert value(metrics, "perch_sessions_active") == 1
    assert value(metrics, "perch_sessions_opened_total") == 2
    assert value(metrics, "perch_sessions_closed_total", outcome="done") == 1
    assert value(metrics, "perch_session_duration_seconds_sum") == 2.5
    assert value(metrics, "perch_session_audio_seconds_sum") == 7.5


@pytest.mark.parametrize("outcome", ["client_gone", "cancelled", "engine_unavailable", "lag_exceeded"])
def test_an_outcome_is_counted_under_its_own_name(outcome: str) -> None:
    metrics = Metrics()
    metrics.session_closed(outcome, 1.0, 1.0)
    assert value(metrics, "perch_sessions_closed_total", outcome=outcome) == 1


def test_labels_do_not_grow_with_what_is_recorded() -> None:
    metrics = Metrics()
    before = scrape(metrics).keys()
    for number in range(50):
        metrics.session_closed(f"invented {number}", 1.0, 1.0)
        metrics.refused(f"invented {number}")
        metrics.engine_failure(f"invented {number}")
    assert scrape(metrics).keys() == before
    assert value(metrics, "perch_sessions_closed_total", outcome=OTHER) == 50
    assert value(metrics, "perch_requests_refused_total", code=OTHER) == 50
    assert value(metrics, "perch_engine_failures_total", code=OTHER) == 50


def test_every_error_code_has_a_series_before_the_first_error() -> None:
    series = scrape(Metrics())
    for code in error_codes():
        assert series["perch_requests_refused_total", (("code", code),)] == 0
    for code in error_codes("engine"):
        assert series["perch_engine_failures_total", (("code", code),)] == 0
    assert {"at_capacity", "engine_timeout", "bad_config"} <= error_codes()


def test_audio_is_counted_in_seconds() -> None:
    metrics = Metrics()
    metrics.audio_received(audio.RATE)
    metrics.audio_received(audio.RATE // 2)
    assert value(metrics, "perch_audio_seconds_total") == 1.5
    assert SAMPLE_RATE == audio.RATE


@pytest.mark.parametrize("kind", ["partial", "final"])
def test_an_event_counts_even_when_its_latency_is_unknown(kind: str) -> None:
    metrics = Metrics()
    metrics.event_sent(kind, 0.04)
    metrics.event_sent(kind, None)
    assert value(metrics, "perch_events_sent_total", kind=kind) == 2
    assert value(metrics, f"perch_{kind}_latency_seconds_count") == 1
    assert value(metrics, f"perch_{kind}_latency_seconds_bucket", le="0.035") == 0
    assert value(metrics, f"perch_{kind}_latency_seconds_bucket", le="0.05") == 1


def test_latency_buckets_run_from_10_ms_to_10_s_with_an_edge_on_each_target() -> None:
    assert LATENCY_BUCKETS[0] == 0.01
    assert LATENCY_BUCKETS[-1] == 10.0
    assert {0.3, 0.8} <= set(LATENCY_BUCKETS)


def test_engine_readiness_is_zero_until_it_is_known() -> None:
    metrics = Metrics()
    assert value(metrics, "perch_engine_ready") == 0
    metrics.set_engine_ready(True)
    assert value(metrics, "perch_engine_ready") == 1
    metrics.set_engine_ready(False)
    assert value(metrics, "perch_engine_ready") == 0


def test_loop_lag_is_a_histogram() -> None:
    metrics = Metrics()
    metrics.loop_lag(0.3)
    assert value(metrics, "perch_event_loop_lag_seconds_bucket", le="0.25") == 0
    assert value(metrics, "perch_event_loop_lag_seconds_bucket", le="0.5") == 1


def test_two_objects_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.session_opened()
    assert value(other, "perch_sessions_opened_total") == 0


def test_metrics_go_into_the_registry_that_is_given() -> None:
    registry = CollectorRegistry()
    Metrics(registry).session_opened()
    assert registry.get_sample_value("perch_sessions_opened_total") == 1


def test_names_follow_the_conventions_and_say_their_unit() -> None:
    families = [*text_string_to_metric_families(Metrics().render()[0].decode())]
    for family in families:
        assert family.documentation, family.name
        assert family.name.startswith(("perch_", "process_"))
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_rtfx")), "RTFx has no unit"
        for sample in family.samples:
            assert family.type != "counter" or sample.name.endswith("_total"), sample.name
            assert not sample.name.endswith("_created")


def test_the_exposition_is_declared_as_prometheus_text() -> None:
    body, content_type = Metrics().render()
    assert content_type.startswith("text/plain; version=")
    assert b"process_resident_memory_bytes" in body
    assert b"perch_build_info{version=" in body


def test_recording_costs_microseconds() -> None:
    metrics, rounds = Metrics(), 2_000
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(rounds):
            metrics.event_sent("partial", 0.04)
            metrics.audio_received(16_000)
        best = min(best, time.perf_counter() - started)
    assert best / rounds < 100e-6
