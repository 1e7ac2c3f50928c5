"""``perch bench engine`` as an operator runs it, on models without weights and on tiny ones."""

import asyncio
import json
import re
import signal
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perch.audio.tones import synthesise
from perch.cli.bench_engine import _ramp
from perch.enginebench import report
from perch.enginebench.campaign import Campaign, Offline, Plan, Side, Step, run
from perch.enginebench.figures import Agreement, Live, Pace, Spread
from perch.inference.parakeet.model import LoadOptions
from perch.inference.recogniser import Capabilities
from perch.measure.plot import Axis
from processes import perch

WORDS = ("zero one two", "three four")


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """A folder with recordings of tone words."""
    for words in WORDS:
        with wave.open(str(tmp_path / f"{words}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(synthesise([words]))
    return tmp_path


async def started(*arguments: object) -> asyncio.subprocess.Process:
    command = perch("bench", "engine", *map(str, arguments))
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def bench(*arguments: object) -> tuple[int | None, str, str]:
    """The exit status, stdout and stderr."""
    process = await started(*arguments)
    async with asyncio.timeout(50):
        said, progress = await process.communicate()
    return process.returncode, said.decode(), progress.decode()


def of_tones(folder: Path) -> tuple[object, ...]:
    model = ("--model", folder, "--backend", "tones", "--chunk-ms", 320)
    return (*model, "--audio", folder, "--json", folder / "bench.json", "--html", folder / "bench.html")


async def test_streams_and_recordings_are_measured_through_the_worker_process(tones: Path) -> None:
    """004-42: the way to measure the targets, on a model without weights."""
    status, said, progress = await bench(
        *of_tones(tones), "--seconds", 2, "--rounds", 1, "--streams", "1,3", "--offline", "--files", 4
    )
    assert status == 0, progress
    found = json.loads((tones / "bench.json").read_text())
    assert [step["streams"] for step in found["steps"]] == [1, 3]
    for step in found["steps"]:
        live = step["ours"]["live"]
        assert live["latency"]["count"] >= 4 * step["streams"]
        assert 0 < live["rtf"] < 1
        assert live["resident_mib"] > 10
        assert step["ours"]["throughput"] > 1
        assert step["ours"]["pace"]["words_per_s"] > 0.5
        assert step["plain"] is None
    assert found["offline"]["files"] == 4
    assert found["offline"]["ours"] > 1
    assert (found["chunk_ms"], found["carried"], found["model"]["slots"]) == (320, 3, 64)
    assert found["no_plain_loop"]
    assert "3 live streams carried in pieces of 320 ms" in said
    assert "streams" in said.splitlines()[0]
    assert "live: round 1 of 1" in progress
    assert "<svg" in (tones / "bench.html").read_text()


async def test_interrupted_it_reports_what_it_knows(tones: Path) -> None:
    process = await started(*of_tones(tones), "--seconds", 2, "--rounds", 1, "--streams", "1,2,4,8,16,32")
    assert process.stderr is not None
    async with asyncio.timeout(50):
        while b"2 streams, live" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        said, _ = await process.communicate()
    assert process.returncode == 130
    assert "interrupted" in said.decode()
    found = json.loads((tones / "bench.json").read_text())
    assert [step["streams"] for step in found["steps"]] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--model"),
        (("--model", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--model", ".", "--backend", "whisper"), "sherpa-onnx, transformers"),
        (("--model", ".", "--backend", "tones", "--audio", "/nowhere.wav"), "/nowhere.wav"),
        (("--model", ".", "--backend", "tones", "--streams", "1,0"), "at least 1"),
        (("--model", ".", "--backend", "tones", "--beside", "nemo"), "onnx-asr"),
    ],
)
async def test_what_cannot_be_measured_is_refused_in_words(arguments: Sequence[str], message: str) -> None:
    status, said, progress = await bench(*arguments)
    assert (status, said) == (2, "")
    assert message in progress
    assert "Traceback" not in progress


async def test_another_library_may_be_the_one_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    from inference.parakeet import tiny_onnx

    folder = tiny_onnx.build_tdt(tmp_path / "model", metadata={"normalize_type": "per_feature"})
    with wave.open(str(tmp_path / "said.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((tiny_onnx.say("alpha delta") * 32_767).astype("<i2").tobytes())
    written = tmp_path / "bench.json"
    status, said, progress = await bench(
        *(
            "--model",
            folder,
            "--audio",
            tmp_path,
            "--json",
            written,
            "--beside",
            "onnx-asr",
            "--device",
            "cpu",
        ),
        *("--seconds", 1, "--rounds", 1, "--streams", 1, "--offline", "--files", 2),
    )
    assert status == 0, progress
    found = json.loads(written.read_text())
    assert "onnx_asr" in found["plain_loop"]
    assert "onnx-asr 0." in found["machine"]["software"]
    assert found["steps"][0]["plain"]["throughput"] > 0
    assert found["offline"]["plain"] > 0
    assert "the plain loop" in said


async def test_both_sides_hear_the_same_words_of_a_real_library(tmp_path: Path) -> None:
    pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from inference.parakeet import tiny_onnx

    folder = tiny_onnx.build_streaming(tmp_path)
    recordings = [(tiny_onnx.say(words) * 32_767).astype("<i2").tobytes() for words in ("alpha", "delta")]
    left = iter([2])
    plan = Plan(
        "sherpa-onnx",
        LoadOptions(path=str(folder), name="tiny", device="cpu", threads=1),
        recordings,
        choose=lambda _ours, _plain: next(left, None),
        seconds=1.0,
        rounds=1,
        files=3,
    )
    found = Campaign()
    await run(plan, found, lambda _: None)
    (step,) = found.steps
    assert step.plain is not None
    assert step.plain.live is not None
    assert step.ratio is not None
    assert step.agreement == Agreement(2, 2)
    assert step.plain.pace.tokens_per_s
    assert found.offline is not None
    assert found.offline.agreement == Agreement(2, 2)
    assert found.offline.ratio is not None
    assert "decode_stream" in found.plain_about


# --- what is said of figures


def side(streams: int, p95: float, throughput: float) -> Side:
    spread = Spread(100, p95 / 2, p95, p95)
    live = Live(streams, 560, spread, spread, 0.5, 0.2, 0.4, 900 + 15 * streams)
    return Side(live, throughput, Pace(2.0, 4.0))


def measured() -> Campaign:
    found = Campaign(Capabilities("tiny", ("en-US",), slots=5), chunk=8960, plain_about="a loop")
    found.steps = [
        Step(1, side(1, 120, 4.0), side(1, 125, 4.1), Agreement(3, 3)),
        Step(4, side(4, 300, 9.0), side(4, 700, 5.0), Agreement(3, 3)),
        Step(6, side(6, 500, 9.9), side(6, 4_000, 5.1), Agreement(2, 3)),
        Step(8, side(8, 900, 10.0), side(8, 9_000, 5.0), Agreement(3, 3)),
    ]
    found.offline = Offline(16, 120.0, 30.0, 12.0, Pace(2.0, 4.0), Agreement(3, 3))
    return found


def test_the_verdict_is_in_sentences_with_the_ratios() -> None:
    said = " ".join(report.verdict(measured()))
    assert "6 live streams carried in pieces of 560 ms" in said
    assert "the plain loop carried 1: 6.00 times" in said
    assert (
        "At 8 streams as fast as it goes: 10.00 s of audio a second, the plain loop 5.00: 2.00 times" in said
    )
    assert "Calibration gave 5 slots; 6 streams were carried." in said
    assert "A further stream takes 15.0 MiB (plain loop: 15.0 MiB)." in said
    assert "16 recordings at once: RTFx 30.00, the plain loop one after the other 12.00: 2.50 times." in said
    assert "the same words for 14 of 15 utterances" in said


def test_the_table_has_a_row_for_each_side_and_the_page_marks_who_fell_behind() -> None:
    plan = Plan("tones", LoadOptions(path=".", name="a<b"), [], choose=lambda _ours, _plain: None)
    assert [line.split()[:2] for line in report.as_text(measured()).splitlines()[1:3]] == [
        ["1", "Perch"],
        ["1", "plain"],
    ]
    page = report.as_html(measured(), plan, {"processor": "a fast one"})
    assert page.count('<tr class="bad">') == 4
    assert "a&lt;b" in page
    assert page.count("<svg") == 3
    assert "4.0 tokens" in page


def test_the_page_leaves_out_what_would_push_its_last_columns_off_the_screen() -> None:
    """They are in the text and the JSON."""
    plan = Plan("tones", LoadOptions(path=".", name="tiny"), [], choose=lambda _ours, _plain: None)
    page = report.as_html(measured(), plan, {})
    heads = re.findall(r"<th[^>]*>([^<]+)", page)
    assert {"p99 ms", "p95 each round"}.isdisjoint(heads)
    assert heads[-4:] == ["CPU s/stream-s", "MiB", "audio s/s", "ratio"]
    first = page.partition("</tr><tr>")[2].partition("</tr>")[0]
    assert len(re.findall("<td", first)) == len(heads)
    assert "p99 ms" in report.as_text(measured())


def test_streams_are_counted_in_whole_numbers_on_an_axis() -> None:
    assert Axis("streams", 0, 2, whole=True).ticks == [0, 1, 2]
    assert Axis("streams", 0, 12, whole=True).ticks == [0, 5, 10]
    assert Axis("s", 0, 2).ticks == [0, 0.5, 1, 1.5, 2]


def test_a_stream_that_takes_no_memory_is_not_said_to_take_less_than_none() -> None:
    found = measured()
    found.steps = [Step(n, resident(n, 900 - 0.01 * n), resident(n, 900 + n), None) for n in (1, 2)]
    said = " ".join(report.verdict(found))
    assert "A further stream takes too little memory to measure (plain loop: 1.0 MiB)." in said


def resident(streams: int, mib: float) -> Side:
    one = side(streams, 100, 4.0)
    assert one.live is not None
    return replace(one, live=replace(one.live, resident_mib=mib))


def test_a_run_without_a_plain_loop_has_no_ratios() -> None:
    found = Campaign(Capabilities("tiny", ("en-US",)), chunk=8960, no_plain="There is none of nemo here.")
    found.steps = [Step(2, side(2, 100, 5.0), None, None)]
    assert report.verdict(found)[0] == "2 live streams carried in pieces of 560 ms, p95 within 560 ms."
    assert "No plain loop: There is none of nemo here." in report.verdict(found)
    assert found.carried_ratio is None


@pytest.mark.parametrize(
    ("ours", "plain", "tried"),
    [
        (11, 3, [1, 2, 4, 8, 16, 16, 12, 12, 10, 11, 3]),
        (1, None, [1, 2, 2]),
        (64, None, [1, 2, 4, 8, 16, 20]),
    ],
)
def test_a_ramp_finds_both_knees_and_ends(ours: int, plain: int | None, tried: list[int]) -> None:
    choose, done = _ramp(20), list[Live]()
    beside: list[Live] = []
    while (streams := choose(done, beside)) is not None:
        done.append(lived(streams, ours))
        if plain is not None:
            beside.append(lived(streams, plain))
    assert [one.streams for one in done] == tried


def lived(streams: int, most: int) -> Any:
    p95 = 100.0 if streams <= most else 900.0
    return Live(streams, 560, Spread(1, p95, p95, p95), Spread(0), 0.5, 0.1, 0.2, 900)
