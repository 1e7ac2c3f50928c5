"""What streams cost an engine beside its model: measured on the real one, and of a plausible kind."""

import io

import pytest
from bench.front import SPEECH, Figures, read, run
from rich.console import Console

from bench import front


@pytest.mark.timeout(90)
async def test_each_number_of_streams_is_measured() -> None:
    found = await run([1, 4], 1.0, SPEECH, Console(file=io.StringIO()))
    assert [one.streams for one in found] == [1, 4]
    for one in found:
        p50, p95 = one.answered_ms
        assert 0 < p50 <= p95
        together = (one.loop_ms + one.others_ms + one.model_ms) * one.streams / 1000
        assert together == pytest.approx(one.cores)
    assert found[-1].cores > 0


def test_a_recording_becomes_whole_frames_with_silence_at_the_end() -> None:
    frames = read(SPEECH)
    assert len({len(frame) for frame in frames}) == 1
    assert bytes(3200) in frames[-1]


def test_the_table_has_a_line_for_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measured(streams: list[int], *_: object) -> list[Figures]:
        return [Figures(count, 1.25, 2.5, 0.5, 0.1, (3.0, 4.0)) for count in streams]

    monkeypatch.setattr(front, "run", measured)
    monkeypatch.setattr("sys.argv", ["front", "--streams", "7,9"])
    assert front.main() == 0
    said = capsys.readouterr().out
    assert all(cell in said for cell in ("7", "9", "1.25", "2.50", "3.00"))
