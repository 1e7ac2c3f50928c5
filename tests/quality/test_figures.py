"""The arithmetic: words, rewrites, times, and what is held against which limit."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perch.errors import BadConfig
from perch.quality import words
from perch.quality.client import Heard
from perch.quality.figures import Figures, measure, percentile
from perch.quality.manifest import Clip
from perch.quality.profiles import PROFILES, profile_of
from perch.quality.recording import Recording
from perch.quality.report import Report, as_html, as_json, write
from perch.quality.runner import Plan, Run
from perch.quality.stability import Rewrites, rewrites
from perch.quality.usage import Usage, from_metrics, from_nvidia_smi
from perch.quality.verdict import judge
from perch.quality.words import WordErrors, compare, normalise

CLIP = Clip("one", "hello wide world", "clean", (Path("one.wav"),))
RECORDING = Recording(b"\0\0" * 16_000, 16_000, "pcm16", speech_start_s=0.2, speech_end_s=0.6)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Hello, World!", "hello world"),
        ("Hmm, it's uh twenty-five dollars", "it is $25"),
        ("I won't  [laughter] (sighs) go", "i will not go"),
        ("the colour grey", "the color gray"),
        ("100,000 of eight", "100000 of 8"),
        ("", ""),
    ],
)
def test_texts_are_compared_by_the_rules_of_the_leaderboard(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_word_errors_are_counted_and_shown() -> None:
    errors = compare("Hello wide world, my friend", "hello world my old friends")
    assert (errors.words, errors.substitutions + errors.deletions + errors.insertions) == (5, 3)
    assert errors.rate == 3 / 5
    assert [span.change for span in errors.spans].count("equal") >= 2
    assert " ".join(span.said for span in errors.spans if span.said) == "hello wide world my friend"
    assert (
        " ".join(span.understood for span in errors.spans if span.understood) == "hello world my old friends"
    )


def test_words_where_none_were_said_are_insertions_without_a_rate() -> None:
    errors = compare("", "who said that")
    assert (errors.insertions, errors.rate) == (3, None)
    assert compare("", "") == WordErrors()


def test_missing_packages_are_named_with_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    words._normaliser.cache_clear()
    with pytest.raises(BadConfig, match=r"perch-asr\[quality\]"):
        words.check_installed()


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([["he", "he was", "he was not"]], Rewrites(3, 0)),
        ([["he was", "He was,"]], Rewrites(2, 0)),
        ([["he saw", "he was not"]], Rewrites(2, 1)),
        ([["he saw", ""]], Rewrites(2, 2)),
        ([["was not", "he was not"]], Rewrites(2, 0)),
        ([["only a final"]], Rewrites(0, 0)),
        ([["a", "b"], ["a", "a"]], Rewrites(2, 1)),
    ],
)
def test_rewrites_are_the_words_that_did_not_last(segments: list[list[str]], expected: Rewrites) -> None:
    assert rewrites(segments) == expected


def test_nothing_shown_has_no_share_of_rewrites() -> None:
    assert Rewrites().share is None
    assert Rewrites(4, 1).share == 0.25


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(range(1, 101), 95) == 96
    assert percentile([], 95) is None


def heard(*events: tuple[float, dict[str, Any]], failure: str = "") -> Heard:
    """Frames of 100 ms, each sent when it was spoken, from 0.1 s on."""
    return Heard([0.1 * number for number in range(1, 11)], list(events), failure)


def said(kind: str, text: str, end: float, segment: int = 0) -> dict[str, Any]:
    return {"type": kind, "text": text, "end": end, "segment": segment}


def figures(one: Heard, clip: Clip = CLIP) -> Figures:
    return measure(clip, RECORDING, one, repeat=1, usage=None)


def test_times_run_from_the_sending_of_the_audio_they_are_about() -> None:
    """003-161."""
    one = figures(
        heard(
            (0.35, said("partial", "hello", 0.3)),
            (0.47, said("partial", "hello wide", 0.4)),
            (0.90, said("final", "hello wide world", 0.7)),
        )
    )
    assert one.first_partial_s == pytest.approx(0.05)
    assert one.first_words_s == pytest.approx(0.15)
    assert one.gaps_s == pytest.approx((0.12,))
    assert one.final_s == pytest.approx(0.30)
    assert one.words.rate == 0
    assert [at for at, _ in one.partials] == [0.3, 0.4]
    assert [late for _, late in one.partials] == pytest.approx([0.05, 0.07])


def test_a_final_that_comes_before_the_end_of_speech_has_no_latency() -> None:
    assert figures(heard((0.5, said("final", "hello", 0.4)))).final_s is None


def test_gaps_are_within_segments_and_empty_partials_are_none() -> None:
    one = figures(
        heard(
            (0.3, said("partial", "", 0.2)),
            (0.4, said("partial", "hello", 0.3)),
            (0.9, said("partial", "world", 0.8, segment=1)),
        )
    )
    assert one.gaps_s == ()
    assert len(one.partials) == 2


def test_words_shown_on_silence_count_even_if_taken_back() -> None:
    silence = replace(CLIP, text="", category="silence")
    one = figures(heard((0.5, said("partial", "oh no", 0.4)), (0.9, said("final", "", 0.8))), silence)
    assert one.hallucinated == 2
    assert figures(heard(), silence).hallucinated == 0
    assert figures(heard()).hallucinated is None


def test_nothing_came_back_at_all() -> None:
    one = measure(CLIP, RECORDING, Heard(failure="HTTP 503"), repeat=1, usage=None)
    assert (one.words.rate, one.first_partial_s, one.final_s, one.failure) == (1.0, None, None, "HTTP 503")


# --- limits --------------------------------------------------------------------------------------------


def perfect(**changes: Any) -> Figures:
    good = Figures(
        CLIP, 1, 1.0, 16_000, "pcm16", words=WordErrors(words=100), first_partial_s=0.1, final_s=0.4
    )
    return replace(good, **changes)


def missed(*all_figures: Figures, profile: str = "riva", pace: float = 1.0) -> list[tuple[str, str]]:
    checks = judge(profile, all_figures, pace=pace)
    assert checks
    return [(check.figure, check.about) for check in checks if not check.passed]


def category(name: str) -> Clip:
    return replace(CLIP, category=name)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("clean", 12),
        ("long", 12),
        ("noisy", 18),
        ("music", 18),
        ("fast", 18),
        ("accented", 18),
        ("telephone", 18),
    ],
)
def test_riva_is_held_to_its_word_error_rates(kind: str, limit: int) -> None:
    """003-104, 003-105, 003-108."""
    assert missed(perfect(clip=category(kind), words=WordErrors(100, substitutions=limit))) == []
    assert missed(perfect(clip=category(kind), words=WordErrors(100, substitutions=limit + 1))) == [
        ("wer", kind)
    ]


def test_clips_of_a_category_are_judged_together() -> None:
    bad = perfect(words=WordErrors(10, deletions=5))
    assert missed(bad, perfect()) == []
    assert missed(bad) == [("wer", "clean")]


def test_latencies_are_judged_at_the_95th_percentile_and_at_the_pace_of_speech_only() -> None:
    """003-106, 003-107."""
    late = perfect(first_partial_s=0.31, final_s=0.81)
    assert missed(late) == [("first_partial_p95_s", "all"), ("final_p95_s", "all")]
    assert missed(late, *[perfect()] * 99) == []
    assert missed(late, pace=2.0) == []


def test_what_should_have_come_and_did_not_is_missed() -> None:
    silent = perfect(words=WordErrors(100, deletions=100), first_partial_s=None, final_s=None)
    assert missed(silent) == [("wer", "clean"), ("first_partial_p95_s", "all"), ("final_p95_s", "all")]


def test_failed_sessions_and_words_on_silence_are_missed() -> None:
    """003-162: fewer than half a percent may fail."""
    silence = perfect(clip=replace(CLIP, text="", category="silence"), words=WordErrors(), hallucinated=0)
    assert missed(perfect(), silence) == []
    assert missed(perfect(), replace(silence, hallucinated=1)) == [("hallucinated_words", "silence")]
    assert missed(perfect(), replace(silence, failure="HTTP 503")) == [
        ("hallucinated_words", "silence"),
        ("error_rate", "all"),
    ]
    one_of_200 = [perfect(failure="engine_failed"), *[perfect()] * 199]
    assert missed(*one_of_200) == [("error_rate", "all")]
    assert missed(*one_of_200, perfect()) == []


def test_a_clip_may_have_limits_of_its_own() -> None:
    strict = replace(CLIP, thresholds={"riva": {"wer": 0.0, "final_s": 0.1}})
    assert missed(perfect(clip=strict, words=WordErrors(100, insertions=1))) == [
        ("wer", "one"),
        ("final_s", "one"),
    ]
    assert missed(perfect(clip=strict), profile="embedded") == []


@pytest.mark.parametrize(
    ("backend", "model", "profile"),
    [
        ("riva", "parakeet", "riva"),
        ("engine", "embedded-en-us", "embedded"),
        ("engine", "scripted", "latency"),
        ("mock", "mock", "latency"),
    ],
)
def test_the_profile_follows_from_what_the_server_says_it_is(backend: str, model: str, profile: str) -> None:
    assert profile_of(backend, model) == profile
    assert profile in PROFILES


# --- what the server uses, and the report ----------------------------------------------------------------


def test_usage_is_read_from_metrics_and_from_nvidia_smi() -> None:
    exposition = (
        "# TYPE x counter\nprocess_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 1.048576e+06\n"
    )
    assert from_metrics(exposition) == Usage(12.5, 1_048_576)
    assert from_metrics("something_else 3\n") is None
    assert from_nvidia_smi("37, 1024\n5, 2048\n") == (37.0, 3072.0)
    assert from_nvidia_smi("[N/A], 1024\n") is None
    assert from_nvidia_smi("") is None


def report_of(all_figures: Sequence[Figures], **plan: Any) -> Report:
    ready = {"backend": "riva", "model": "parakeet", "notice": "<careful>"}
    return Report(Run(Plan(**plan), ready, all_figures), "riva", judge("riva", all_figures, pace=1.0))


def test_the_report_has_every_figure_of_every_clip_as_json(tmp_path: Path) -> None:
    """003-103, 003-161."""
    one = perfect(words=compare("hello wide world", "hello"), usage=Usage(0.5, 1 << 20))
    data, page = write(report_of([one]), tmp_path / "new")
    told = json.loads(data.read_text(encoding="utf-8"))
    [clip] = told["clips"]
    assert (clip["wer"], clip["deletions"], clip["final_s"]) == (pytest.approx(2 / 3), 2, 0.4)
    assert (clip["cpu_per_audio_s"], clip["memory_mib"], clip["gpu"]) == (0.5, 1.0, "n/a")
    assert clip["websocket_error"] is None
    assert told["passed"] is False
    assert page.is_file()


def test_the_page_shows_what_was_said_and_lets_nothing_in() -> None:
    evil = perfect(
        clip=replace(CLIP, name="<script>"),
        words=compare("hello wide world", "hello wild <img> world"),
        partials=((0.5, 0.1), (1.0, 0.2)),
    )
    html = as_html(report_of([evil, perfect(failure="HTTP 503")]))
    assert "<script>" not in html
    assert "<img>" not in html
    assert "<del>" in html
    assert "<ins>" in html
    assert "HTTP 503" in html
    assert html.count("<svg") == 3


def test_the_report_says_what_casts_doubt_on_it() -> None:
    remarks = " ".join(as_json(report_of([perfect()], pace=4.0, jobs=3))["remarks"])
    assert "4 times as fast" in remarks
    assert "3 clips at once" in remarks


def test_a_page_of_silence_alone_has_no_plots_and_no_mistake() -> None:
    silence = Figures(replace(CLIP, text=""), 1, 1.0, 16_000, "pcm16", hallucinated=0)
    assert "nothing said, nothing shown" in as_html(report_of([silence]))


def test_the_page_on_quality_has_the_limits_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/howto/measure-quality.md").read_text(encoding="utf-8")
    for profile in ("riva", "embedded"):
        for limit in PROFILES[profile]:
            if limit.figure == "wer":
                row = next(
                    line
                    for line in page.splitlines()
                    if line.startswith("| WER") and limit.categories[0] in line
                )
                assert f"{100 * limit.at_most:.0f} %" in row.split("|")[2 + (profile == "embedded")]
