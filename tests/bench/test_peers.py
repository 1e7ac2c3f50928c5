"""The comparison with other gateways: its figures, what it is built from, and a quick run where it can be built."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.peers import TITLES, parse, plan_of
from bench.peers_figures import DIRECT, Comparison, Window, holds, ratio, window_of

from bench import peers_build as build
from bench import peers_report as report
from perch.riva.proto import STREAMING_RECOGNIZE, asr

ROOT = Path(__file__).parents[2]


def window(
    streams: int = 100,
    *,
    p95_ms: float = 1.0,
    us_per_frame: float = 100.0,
    resident: int = 50 << 20,
    late_ms: float = 0.1,
    failures: dict[str, int] | None = None,
) -> Window:
    frames = streams * 100
    return Window(
        streams=streams,
        seconds=10.0,
        frames=frames,
        messages=frames // 2,
        latency_ms=(p95_ms / 2, p95_ms, p95_ms * 2),
        late_ms=(0.0, late_ms),
        cpu_s=us_per_frame * frames / 1e6,
        resident_before=40 << 20,
        resident=resident,
        failures=failures or {},
    )


def comparison() -> Comparison:
    made = Comparison()
    made.windows = {
        (DIRECT, 100): [window(p95_ms=0.1, us_per_frame=0)],
        ("perch", 100): [window(p95_ms=0.6, us_per_frame=50)],
        ("node", 100): [window(p95_ms=1.1, us_per_frame=100)],
    }
    return made


# --- figures -----------------------------------------------------------------------------------------


def test_what_the_load_generator_prints_becomes_percentiles_and_cpu_per_frame() -> None:
    told = {
        "streams": 2,
        "seconds": 1.0,
        "frames": 20,
        "messages": 10,
        "latencies_us": [1000, 2000, 3000],
        "late_us": [10, 30],
        "processes": {
            "gateway": {"cpu_s": 0.002, "resident_before": 1, "resident": 2},
            "load": {"cpu_s": 1.0, "resident_before": 1, "resident": 1},
        },
        "failures": {},
    }
    read = window_of(json.dumps(told))
    assert read.latency_ms[0] == 2.0
    assert read.late_ms[0] == pytest.approx(0.02)
    assert read.us_per_frame == pytest.approx(100.0)
    assert read.us_per_event == pytest.approx(200.0)


def test_the_direct_road_has_no_gateway_to_measure() -> None:
    told = {"streams": 1, "seconds": 1.0, "frames": 10, "messages": 5, "latencies_us": [90], "late_us": [1]}
    read = window_of(json.dumps({**told, "processes": {}, "failures": {}}))
    assert read.cpu_s == 0.0


def test_added_is_what_a_gateway_takes_longer_than_the_direct_road() -> None:
    cell = comparison().cell("perch", 100)
    assert cell.added_ms == pytest.approx((0.25, 0.5, 1.0))
    assert cell.us_per_frame == pytest.approx(50.0)
    assert cell.ms_per_stream_second == pytest.approx(0.5)


def test_a_cell_is_the_median_of_its_rounds_so_one_noisy_round_does_not_decide() -> None:
    made = comparison()
    made.windows[DIRECT, 100] *= 3
    made.windows["perch", 100] = [window(us_per_frame=us, p95_ms=us) for us in (50, 500, 51)]
    cell = made.cell("perch", 100)
    assert cell.us_per_frame == pytest.approx(51.0)
    assert cell.added_ms[1] == pytest.approx(50.9)
    assert any("differs between rounds" in doubt for doubt in made.doubts())


def test_a_ratio_needs_two_figures_above_nothing() -> None:
    assert ratio(50.0, 100.0) == 0.5
    assert ratio(-0.1, 100.0) is None
    assert ratio(1.0, 0.0) is None


def test_memory_of_a_session_is_what_all_of_them_added() -> None:
    assert comparison().kib_per_session("perch") == pytest.approx(10 * 1024 / 100)


def test_the_knee_is_the_last_step_that_kept_up() -> None:
    made = comparison()
    made.ramps = {
        "perch": [window(400), window(700)],
        "node": [window(400), window(700, p95_ms=51.0)],
        "go": [window(400, p95_ms=90.0)],
    }
    assert (made.knee("perch"), made.knee_is_open("perch")) == (700, True)
    assert (made.knee("node"), made.knee_is_open("node")) == (400, False)
    assert made.knee("go") is None


def test_a_gateway_that_loses_streams_does_not_keep_up() -> None:
    assert holds(window())
    assert not holds(window(failures={"the connection broke": 1}))


def test_a_late_generator_is_a_doubt_and_a_lost_stream_a_failure() -> None:
    made = comparison()
    made.windows["perch", 100] = [window(late_ms=80.0, failures={"refused": 3})]
    assert any("80 ms late" in doubt for doubt in made.doubts())
    assert made.failures() == ["perch at 100: 3 streams refused"]


# --- the report --------------------------------------------------------------------------------------


def test_rows_say_how_many_times_the_others_figures_a_gateways_are() -> None:
    perch, node = report.rows(comparison(), TITLES, 100)
    assert perch[0] == "Perch"
    assert perch[6:] == ("0.50", "", "0.50", "")
    assert node[6:] == ("1.00", "", "1.00", "")


def test_the_page_for_the_docs_says_what_the_others_lack_and_who_was_left_out() -> None:
    made = comparison()
    made.skipped["go"] = "there is no go here"
    page = report.markdown(made, TITLES, "python -m bench.peers")
    assert "| Perch | 50 | 100 |" in page
    assert "**lack**" in page
    assert "Go: gorilla, grpc-go was left out: there is no go here" in page


def test_reports_are_written_for_people_and_programs(tmp_path: Path) -> None:
    data, page = report.write(comparison(), TITLES, tmp_path)
    cells: list[dict[str, Any]] = json.loads(data.read_text(encoding="utf-8"))["cells"]
    assert [cell["peer"] for cell in cells] == ["perch", "node"]
    assert "<svg" in page.read_text(encoding="utf-8")


# --- what is asked -----------------------------------------------------------------------------------


def test_the_direct_road_is_always_measured_since_added_is_relative_to_it() -> None:
    plan = plan_of(parse(["--only", "node"]))
    assert [peer.name for peer in plan.peers] == [DIRECT, "node"]


def test_a_peer_that_is_not_known_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "nod"])
    assert "nod: not one of" in capsys.readouterr().err


# --- what it is built from ---------------------------------------------------------------------------

_SCALARS = {"string": 9, "bytes": 12, "bool": 8, "int32": 5, "float": 2}
_MESSAGE, _ENUM = 11, 14


def messages() -> dict[str, list[tuple[str, str, str, int]]]:
    """Of each message of the .proto: label, type, name and number of its fields."""
    text = re.sub(r"//.*", "", build.PROTO.read_text(encoding="utf-8"))
    found = re.findall(r"^message (\w+) \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    field = re.compile(r"(repeated )?(\w+) (\w+) = (\d+);")
    return {name: [(a, b, c, int(d)) for a, b, c, d in field.findall(body)] for name, body in found}


@pytest.mark.parametrize("name", messages())
def test_the_baselines_proto_has_the_numbers_and_types_of_nvidias(name: str) -> None:
    theirs = asr.DESCRIPTOR.message_types_by_name[name].fields_by_name
    fields = messages()[name]
    assert fields
    for label, kind, field, number in fields:
        other = theirs[field]
        assert other.number == number, field
        assert other.is_repeated == bool(label), field
        if kind in _SCALARS:  # an enum and an int32 are the same on the wire
            assert other.type in ({_SCALARS[kind], _ENUM} if kind == "int32" else {_SCALARS[kind]}), field
        else:
            assert (other.type, other.message_type.name) == (_MESSAGE, kind), field


def test_the_baselines_proto_has_riva_s_method() -> None:
    text = build.PROTO.read_text(encoding="utf-8")
    package, service, method = (
        re.search(pattern, text)[1]  # type: ignore[index] # a pattern that is not found fails the test
        for pattern in (r"package ([\w.]+);", r"service (\w+)", r"rpc (\w+)\(stream \w+\) returns \(stream")
    )
    assert f"/{package}.{service}/{method}" == STREAMING_RECOGNIZE


def test_node_s_packages_are_pinned_and_name_no_place_to_fetch_them_from() -> None:
    folder = build.SOURCES / "node"
    lock = json.loads((folder / "package-lock.json").read_text(encoding="utf-8"))
    wanted = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    assert all("integrity" in entry for path, entry in lock["packages"].items() if path)
    assert all("resolved" not in entry for entry in lock["packages"].values())


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_node_gateway_is_a_program() -> None:
    done = subprocess.run(
        ["node", "--check", str(build.NODE_GATEWAY)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_compiler_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "RIVA", tmp_path / "riva")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match=r"no g\+\+ here: apt install g\+\+ libnghttp2-dev"):
        build.native()


# --- a run -------------------------------------------------------------------------------------------


def native_tools() -> str:
    """Why the scripted Riva cannot be built here; empty if it can."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if not Path("/usr/include/nghttp2/nghttp2.h").exists():
        return "libnghttp2-dev is not installed"
    return ""


@pytest.mark.skipif(bool(native_tools()), reason=native_tools() or "-")
def test_a_quick_run_carries_every_event_along_every_road(tmp_path: Path) -> None:
    options = ("--quick", "--only", "perch,node,go", "--output", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    assert told["failures"] == []
    assert told["direct_ms"]["5"][0] > 0
    measured = {cell["peer"]: cell for cell in told["cells"]}
    assert {"perch", *measured, *told["skipped"]} == {"perch", "node", "go"}
    for cell in measured.values():
        assert cell["us_per_frame"] > 0
        assert cell["us_per_event"] == pytest.approx(2 * cell["us_per_frame"], rel=0.4)
