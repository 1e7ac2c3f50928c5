"""The benchmark runs and its figures make sense; how good they are depends on the machine."""

import json
import math
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a quick run's report."""
    directory = tmp_path_factory.mktemp("reports")
    done = subprocess.run(
        [sys.executable, "-m", "bench.gateway", "--quick", "--output", str(directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "added by the gateway, p95" in done.stdout
    return directory


@pytest.fixture(scope="module")
def measured(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    return report


def value(report: dict[str, Any], key: str) -> float:
    return float(report["figures"][key]["value"])


@pytest.mark.timeout(180)
def test_no_stream_fails(measured: dict[str, Any]) -> None:
    assert measured["failures"] == []


@pytest.mark.timeout(180)
def test_latency_is_positive_on_both_roads_and_grows_with_the_percentile(measured: dict[str, Any]) -> None:
    for road in ("direct", "gateway"):
        p50, p95, p99 = (value(measured, f"{road}_p{percent}_ms") for percent in (50, 95, 99))
        assert 0 < p50 <= p95 <= p99


@pytest.mark.timeout(180)
def test_what_the_gateway_adds_is_the_difference_of_the_roads(measured: dict[str, Any]) -> None:
    difference = value(measured, "gateway_p50_ms") - value(measured, "direct_p50_ms")
    assert value(measured, "added_p50_ms") == pytest.approx(difference, abs=0.01)


@pytest.mark.timeout(180)
def test_both_roads_carry_the_same_words(measured: dict[str, Any]) -> None:
    direct, gateway = measured["generator"][:2]
    assert (direct["road"], gateway["road"]) == ("direct", "gateway")
    assert direct["partials_and_finals"] == gateway["partials_and_finals"] > 0


@pytest.mark.timeout(180)
def test_frames_are_sent_at_real_time_pace(measured: dict[str, Any]) -> None:
    for phase in measured["generator"]:
        assert phase["frames"] == pytest.approx(phase["streams"] * phase["seconds"] * 10, rel=0.1)


@pytest.mark.timeout(180)
def test_cpu_time_was_used_and_is_told_per_stream(measured: dict[str, Any]) -> None:
    per_stream = value(measured, "gateway_cpu_ms")
    assert per_stream > 0
    assert value(measured, "gateway_us_per_frame") == pytest.approx(per_stream * 100, rel=0.15)


@pytest.mark.timeout(180)
def test_memory_is_that_of_a_living_process(measured: dict[str, Any]) -> None:
    assert 20 < value(measured, "resident_empty_mib") < 2_000
    assert math.isfinite(value(measured, "kib_per_idle_session"))
    assert all(mib > 0 for _, mib in measured["resident_mib"])


@pytest.mark.timeout(180)
def test_a_few_streams_are_not_judged_by_the_targets_of_many(measured: dict[str, Any]) -> None:
    assert measured["figures"]["gateway_cpu_ms"]["target"] is None
    assert measured["figures"]["added_p95_ms"]["target"] is None


@pytest.mark.timeout(180)
def test_the_page_shows_every_figure_and_both_plots(output: Path, measured: dict[str, Any]) -> None:
    page = (output / "bench.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    for figure in measured["figures"].values():
        assert f"<td>{escape(figure['name'])}<td" in page
