"""From logs to figures, verdicts and the report: values in, values out."""

from dataclasses import replace

import pytest

from perch.loadtest.campaign import Campaign, verdict
from perch.loadtest.records import (
    Job,
    Log,
    Schedule,
    Session,
    Target,
    job_from_json,
    job_to_json,
    log_from_json,
    log_to_json,
)
from perch.loadtest.report import as_html, as_json
from perch.loadtest.results import SAFETY, Slo, Step, limit, recommended, summarise
from perch.loadtest.server_side import ServerSide, between, parse, quantile
from perch.loadtest.session import covering
from perch.loadtest.steps import Plan

PLAN = Plan(Target("ws://gateway.example/v1/audio/transcriptions/stream?a=b", key="sesame"), "")
QUIET = ServerSide(0.2, 1.0, 100.0, 10.0, 5.0)


def spoke(**changes: object) -> Session:
    session = Session("done", ready=3.0, first_partial=9.0, done=5.0, rtfx=0.99, audio_s=20.0)
    session.partials = [float(ms) for ms in range(1, 101)]
    session.finals = [500.0]
    for name, value in changes.items():
        setattr(session, name, value)
    return session


def step(sessions: int, *records: Session, **more: object) -> Step:
    log = Log(list(records) or [spoke()], late=[0.5], audio_s=100.0, cpu_s=1.0)
    return summarise(sessions, 10.0, [log], slo=Slo(), **more)  # type: ignore[arg-type]


# --- figures


def test_percentiles_are_of_all_sessions_together() -> None:
    found = step(2, spoke(), spoke(partials=[1.0])).partial
    assert found.count == 101
    assert found.p50 == pytest.approx(50, abs=1)
    assert found.p95 == pytest.approx(95, abs=1)
    assert found.p99 == pytest.approx(99, abs=1)


def test_refusals_are_kept_apart_from_errors() -> None:
    """003-115: a polite no is no failure, and its hint is in the report."""
    refused = Session("at_capacity", retry_after_s=2.0)
    found = step(4, spoke(), refused, Session("at_capacity"), Session("engine_failed", ready=1.0))
    assert (found.attempts, found.refused, found.failed) == (4, 2, 1)
    assert found.refusal_rate == 0.5
    assert found.error_rate == 0.5
    assert found.retry_after_s == [2.0]
    assert limit(found) == "admission"


def test_a_session_that_the_generator_cut_counts_as_nothing() -> None:
    assert step(2, spoke(), spoke(outcome="cut")).attempts == 1


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([spoke(partials=[301.0])], "partial p95"),
        ([spoke(finals=[801.0])], "final p95"),
        ([spoke()] * 199 + [Session("engine_failed", ready=1.0)] * 2, "sessions failed"),
        ([spoke(partials=[])], "no partial came"),
    ],
)
def test_each_slo_can_be_missed(records: list[Session], problem: str) -> None:
    """003-162: errors below 0.5 % at the target concurrency."""
    found = step(len(records), *records)
    assert not found.held
    assert problem in found.problems[0]


def test_everything_within_its_slo_holds() -> None:
    assert step(201, *[spoke()] * 200, Session("engine_failed", ready=1.0)).held


def test_the_frame_that_covers_a_time_is_the_one_it_ends_in() -> None:
    assert [covering(end) for end in (0.0, 0.05, 0.1, 0.1001, 0.11, 0.2, 1.3)] == [0, 0, 0, 1, 1, 1, 12]


# --- who was the limit


def missed(generator_cpu_s: float = 1.0, late: float = 1.0, **more: object) -> Step:
    log = Log([spoke(partials=[999.0])], late=[late], cpu_s=generator_cpu_s)
    return summarise(9, 10.0, [log], slo=Slo(), **more)  # type: ignore[arg-type]


def test_the_limit_is_who_had_no_time_to_spare() -> None:
    assert limit(missed(server=QUIET)) == "engine"
    assert limit(missed(server=replace(QUIET, cpu_share=0.95))) == "gateway"
    assert limit(missed(server=replace(QUIET, lag_p99_ms=90.0))) == "gateway"
    assert limit(missed(server=QUIET, machine_busy=0.99)) == "machine"
    assert limit(missed(generator_cpu_s=9.5, server=QUIET)) == "generator"
    assert limit(missed(late=300.0)) == "generator"


def test_a_late_generator_is_said_loudly() -> None:
    campaign = Campaign("sessions", [missed(late=300.0)])
    assert any("300 ms late" in sentence for sentence in verdict(campaign))


# --- the verdict


def test_the_recommendation_is_a_share_of_the_knee_and_split_among_engines() -> None:
    """003-113: recommended maximum per gateway process and per engine."""
    two = replace(QUIET, engines=["a:1", "b:1"])
    broken = summarise(200, 10.0, [Log([spoke(partials=[999.0])])], slo=Slo(), server=two)
    campaign = Campaign("ramp", [step(100, server=two), broken, broken])
    assert campaign.knee == 100
    assert recommended(100) == int(100 * SAFETY)
    report = as_json(campaign, PLAN)
    assert report["recommended_sessions_per_gateway"] == 70
    assert report["recommended_sessions_per_engine"] == 35
    assert "70 sessions for this gateway process, 35 for each of its 2 engines" in " ".join(report["verdict"])


def test_a_missed_slo_at_an_asked_for_concurrency_fails_a_run_but_not_a_ramp() -> None:
    steps = [step(100), missed(server=QUIET), missed(server=QUIET)]
    assert not Campaign("sessions", steps).passed
    ramp = Campaign("ramp", [step(5), *steps[1:]])
    assert ramp.passed
    assert ramp.knee == 5


def test_an_interrupted_run_says_so_and_does_not_pass() -> None:
    campaign = Campaign("sessions", [step(100), step(200, cut=True)], ended="It was interrupted.")
    assert not campaign.passed
    assert campaign.knee == 100
    assert "It was interrupted." in verdict(campaign)


def test_nothing_finished_is_reported_too() -> None:
    assert "nothing is known" in as_html(Campaign("ramp"), PLAN)


# --- the report


def test_the_report_has_every_column_against_concurrency() -> None:
    """003-111: RTFx, queue time, error and refusal rates against concurrency."""
    html = as_html(Campaign("sessions", [step(50, server=QUIET), step(100, server=QUIET)]), PLAN)
    for column in (
        "connect",
        "first partial",
        "partial",
        "final",
        "RTFx",
        "errors",
        "refused",
        "gateway CPU",
    ):
        assert f">{column}" in html
    assert html.count("<svg") == 5
    assert "SLO 300" in html


def test_the_report_holds_neither_the_key_nor_the_query() -> None:
    campaign = Campaign("sessions", [step(50)])
    written = as_html(campaign, PLAN) + str(as_json(campaign, PLAN))
    assert "sesame" not in written
    assert "a=b" not in written
    assert "sesame" not in repr(PLAN)


# --- between processes


def test_jobs_and_logs_survive_the_way_between_processes() -> None:
    job = Job(PLAN.target, Schedule(10, 4.0, 1.0, 20.0, 20.0), [0, 2], ["a.wav"])
    assert job_from_json(job_to_json(job)) == job
    log = Log([spoke()], [0.1], 1.0, 2.0, 3)
    assert log_from_json(log_to_json(log)) == log


def test_every_user_speaks_during_the_whole_measured_window() -> None:
    schedule = Schedule(10, 4.0, 3.0, 20.0, 20.0)
    assert all(schedule.starts(user) + schedule.warm_up_s <= schedule.measured_from for user in range(10))
    assert all(schedule.ends(user) >= schedule.measured_until for user in range(10))
    assert len({round(schedule.first_session_s(user), 3) for user in range(10)}) > 5


# --- /metrics

EXPOSITION = """\
process_cpu_seconds_total {cpu}
process_resident_memory_bytes 104857600
perch_sessions_active 3
perch_audio_seconds_total {audio}
perch_event_loop_lag_seconds_bucket{{le="0.01"}} {fast}
perch_event_loop_lag_seconds_bucket{{le="0.1"}} 100
perch_event_loop_lag_seconds_bucket{{le="+Inf"}} 100
perch_engine_streams{{engine="a:1"}} 2
perch_engine_streams{{engine="b:1"}} 1
"""


def test_the_gateway_side_is_what_changed_between_two_scrapes() -> None:
    before = parse(EXPOSITION.format(cpu=1, audio=10, fast=100))
    after = parse(EXPOSITION.format(cpu=3, audio=1010, fast=100))
    found = between(before, replace(after, lag={0.01: 150.0, 0.1: 200.0, float("inf"): 200.0}), 10.0)
    assert found.cpu_share == pytest.approx(0.2)
    assert found.cpu_ms_per_stream_s == pytest.approx(2.0)
    assert found.resident_mib == 100
    assert found.lag_p99_ms == pytest.approx(98.2)
    assert found.engines == ["a:1", "b:1"]


def test_a_quantile_of_nothing_is_none() -> None:
    assert quantile({}, 0.99) is None
    assert quantile({1.0: 0.0, float("inf"): 0.0}, 0.99) is None


def test_another_programs_metrics_are_not_taken_for_the_gateways() -> None:
    with pytest.raises(KeyError):
        parse("process_cpu_seconds_total 1\n")
