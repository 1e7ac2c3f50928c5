"""The figures for people and programs: ``quality.json`` and ``quality.html``."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from perch.measure.page import Row, note, page, section, table
from perch.measure.plot import Axis, Bar, Line, bars, cdf, plot
from perch.quality import verdict
from perch.quality.figures import Figures, percentile
from perch.quality.runner import Run
from perch.quality.usage import Usage
from perch.quality.verdict import Check
from perch.quality.words import Span

_NONE = "-"
_MIB = 1 << 20
_LEGEND = 12  # percent of a plot left free above its lines
_STYLE = """<style>
.words { margin: .6rem 0 1.4rem; line-height: 1.9 } .words b { display: block }
ins, del { padding: .1rem .25rem; border-radius: .2rem; text-decoration: none }
del { background: #fee2e2; color: #991b1b; text-decoration: line-through } ins { background: #dcfce7; color: #14532d }
</style>"""
_NAMES = {
    "wer": "Word error rate",
    "first_partial_p95_s": "First partial, 95th percentile",
    "final_p95_s": "Final after the end of speech, 95th percentile",
    "first_partial_s": "First partial",
    "final_s": "Final after the end of speech",
    "hallucinated_words": "Words where nothing was said",
    "error_rate": "Sessions that failed",
}
_WORDS = (
    "S / D / I: words substituted, deleted, inserted. Rewritten: of the words that were shown and followed by "
    "another text of the same segment, the share that it changed or took back. Extra words: shown where nothing "
    "was said."
)
_TIMES = (
    "First partial: from sending the audio it covers to receiving it; from speech: from the first sound of speech. "
    "Final: from sending the end of the last word to receiving the last words; - where they came before it. "
    "GPU: of this machine, where it has one and the server runs on it."
)


@dataclass(frozen=True, slots=True)
class Report:
    """A run and what was thought of it."""

    run: Run
    profile: str
    checks: Sequence[Check]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know before trusting the figures."""
        plan = self.run.plan
        remarks = []
        if plan.pace != 1:
            remarks.append(
                f"Sent {plan.pace:g} times as fast as speech: latencies say little and are not judged."
            )
        if plan.jobs > 1:
            remarks.append(
                f"{plan.jobs} clips at once: CPU and memory are known for all of them together only."
            )
        if self.run.usage is None:
            remarks.append("The server did not say what CPU and memory it used.")
        return remarks


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Both files, in ``folder``; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    data, html = folder / "quality.json", folder / "quality.html"
    data.write_text(json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    html.write_text(as_html(report), encoding="utf-8")
    return data, html


def as_json(report: Report) -> dict[str, Any]:
    run = report.run
    return {
        "passed": report.passed,
        "profile": report.profile,
        "checks": [asdict(check) for check in report.checks],
        "remarks": report.remarks,
        "server": {
            "url": run.server,
            **{key: run.ready.get(key) for key in ("backend", "model", "notice")},
        },
        "manifest": run.manifest,
        "plan": asdict(run.plan),
        "all": {**_pooled(run.figures), **_usage_json(run.usage, run.audio_s), "usage_of": run.covers},
        "categories": {name: _pooled(some) for name, some in _by_category(run.figures).items()},
        "clips": [_clip_json(one) for one in run.figures],
    }


def as_html(report: Report) -> str:
    run = report.run
    verdict_line = (
        f'<p class="{"good" if report.passed else "bad"}">'
        f"{'Every limit was kept.' if report.passed else 'Limits were missed.'}</p>"
    )
    return page(
        "Perch: quality",
        [
            _STYLE,
            verdict_line,
            note(_context(report)),
            *(note(remark) for remark in report.remarks),
            section("Limits", _checks(report.checks)),
            section("Categories", _categories(run.figures)),
            section("Word error rate of each clip", _wer_plot(run.figures)),
            *_latency_plots(run.figures),
            section("Words of each clip", _recognition(run.figures), note(_WORDS)),
            section("Time and cost of each clip", _cost(run.figures), note(_TIMES)),
            section(
                "What was said and understood",
                note("Red was said and not understood, green was understood and not said."),
            )
            + "".join(map(_words, run.figures)),
        ],
    )


def value_of(check: Check) -> tuple[str, str]:
    """What was measured and the limit, for people."""
    return _shown(check.figure, check.measured), _shown(check.figure, check.at_most)


def name_of(check: Check) -> str:
    return f"{_NAMES[check.figure]} ({check.about})"


def percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"


def milliseconds(value: float | None) -> str:
    return _NONE if value is None else f"{1000 * value:.0f} ms"


# --- JSON ----------------------------------------------------------------------------------------------


def _pooled(figures: Sequence[Figures]) -> dict[str, Any]:
    first = [one.first_partial_s for one in figures if one.first_partial_s is not None]
    final = [one.final_s for one in figures if one.final_s is not None]
    gaps = [gap for one in figures for gap in one.gaps_s]
    return {
        "sessions": len(figures),
        "audio_s": round(sum(one.audio_s for one in figures), 3),
        "wer": verdict.wer([one for one in figures if one.has_speech]),
        "first_partial_p50_s": percentile(first, 50),
        "first_partial_p95_s": percentile(first, 95),
        "final_p50_s": percentile(final, 50),
        "final_p95_s": percentile(final, 95),
        "partial_gap_p50_s": percentile(gaps, 50),
        "partial_gap_p95_s": percentile(gaps, 95),
        "rewritten": verdict.rewritten(figures),
        "hallucinated_words": verdict.hallucinated_words(figures),
        "error_rate": verdict.error_rate(figures),
    }


def _clip_json(one: Figures) -> dict[str, Any]:
    errors = one.words
    return {
        "name": one.clip.name,
        "repeat": one.repeat,
        "category": one.clip.category,
        "sample_rate": one.sample_rate,
        "encoding": one.encoding,
        "audio_s": round(one.audio_s, 3),
        "reference": one.clip.text,
        "hypothesis": one.text,
        "wer": errors.rate,
        "words": errors.words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "first_partial_s": one.first_partial_s,
        "first_words_s": one.first_words_s,
        "partials": len(one.partials),
        "partial_gap_p50_s": percentile(one.gaps_s, 50),
        "partial_gap_p95_s": percentile(one.gaps_s, 95),
        "final_s": one.final_s,
        "rewritten": one.rewrites.share,
        "hallucinated_words": one.hallucinated,
        "websocket_error": one.failure or None,
        **_usage_json(one.usage, one.audio_s),
    }


def _usage_json(usage: Usage | None, audio_s: float) -> dict[str, Any]:
    if usage is None:
        return {"cpu_per_audio_s": None, "memory_mib": None, "gpu": "n/a"}
    gpu = {"percent": usage.gpu_percent, "memory_mib": usage.gpu_memory_mib}
    return {
        "cpu_per_audio_s": round(usage.cpu_s / audio_s, 4) if audio_s else None,
        "memory_mib": round(usage.memory_bytes / _MIB, 1),
        "gpu": "n/a" if usage.gpu_percent is None else gpu,
    }


def _by_category(figures: Sequence[Figures]) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {}
    for one in figures:
        found.setdefault(one.clip.category, []).append(one)
    return found


# --- HTML ----------------------------------------------------------------------------------------------


def _context(report: Report) -> str:
    run, plan = report.run, report.run.plan
    ready = run.ready
    used = _usage_json(run.usage, run.audio_s)
    usage = (
        ""
        if run.usage is None
        else f" {run.covers}: {used['cpu_per_audio_s']:.3f} s of CPU per second of audio, "
        f"{used['memory_mib']:.0f} MiB at most. GPU: {_gpu(run.usage)}."
    )
    return (
        f"{run.server}: backend {ready.get('backend', '?')}, model {ready.get('model', '?')}. "
        f"Profile {report.profile}. {run.manifest}: {len(run.figures)} sessions, {run.audio_s:.0f} s of audio, "
        f"{plan.jobs} at once.{usage} {ready.get('notice') or ''}"
    ).strip()


def _gpu(usage: Usage | None) -> str:
    if usage is None or usage.gpu_percent is None:
        return "n/a"
    return f"{usage.gpu_percent:.0f} %, {usage.gpu_memory_mib:.0f} MiB"


def _checks(checks: Sequence[Check]) -> str:
    rows = [
        Row(
            (_NAMES[check.figure], check.about, *value_of(check), "kept" if check.passed else "missed"),
            check.passed,
        )
        for check in checks
    ]
    return table(("", "clips", "measured", "at most", ""), rows, text_columns=2)


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "nothing came"
    if figure in {"wer", "error_rate"}:
        return percent(value)
    return milliseconds(value) if figure.endswith("_s") else f"{value:g}"


def _categories(figures: Sequence[Figures]) -> str:
    head = (
        "",
        "sessions",
        "WER",
        "first partial p50",
        "p95",
        "final p50",
        "p95",
        "partial gap",
        "rewritten",
        "failed",
    )
    groups = {**_by_category(figures), "all": list(figures)}
    return table(head, [_category(name, _pooled(some)) for name, some in groups.items()])


def _category(name: str, pooled: dict[str, Any]) -> Row:
    times = ("first_partial_p50_s", "first_partial_p95_s", "final_p50_s", "final_p95_s", "partial_gap_p50_s")
    return Row(
        (
            name,
            str(pooled["sessions"]),
            percent(pooled["wer"]),
            *(milliseconds(pooled[key]) for key in times),
            percent(pooled["rewritten"]),
            percent(pooled["error_rate"]),
        )
    )


def _recognition(figures: Sequence[Figures]) -> str:
    head = ("", "category", "sent as", "WER", "S / D / I", "rewritten", "extra words", "WebSocket error")
    return table(head, [_recognised(one) for one in figures], text_columns=3)


def _recognised(one: Figures) -> Row:
    errors = one.words
    return Row(
        (
            one.name,
            one.clip.category,
            f"{one.sample_rate / 1000:g}\u00a0kHz\u00a0{one.encoding}",
            percent(errors.rate),
            f"{errors.substitutions} / {errors.deletions} / {errors.insertions}",
            percent(one.rewrites.share),
            _NONE if one.hallucinated is None else str(one.hallucinated),
            one.failure or "none",
        ),
        False if one.failure else None,
    )


def _cost(figures: Sequence[Figures]) -> str:
    head = (
        *("", "first partial", "from speech", "partial gap p50", "p95", "final"),
        *("CPU s per s", "memory MiB", "GPU"),
    )
    return table(head, [_costs(one) for one in figures])


def _costs(one: Figures) -> Row:
    used = _usage_json(one.usage, one.audio_s)
    times = (
        *(one.first_partial_s, one.first_words_s),
        *(percentile(one.gaps_s, share) for share in (50, 95)),
        one.final_s,
    )
    return Row(
        (
            one.name,
            *map(milliseconds, times),
            _NONE if one.usage is None else f"{used['cpu_per_audio_s']:.3f}",
            _NONE if one.usage is None else f"{used['memory_mib']:.0f}",
            _gpu(one.usage),
        )
    )


def _wer_plot(figures: Sequence[Figures]) -> str:
    rows = [
        Bar(one.name, 100 * (one.words.rate or 0), percent(one.words.rate))
        for one in figures
        if one.has_speech
    ]
    highest = max([100.0, *(row.value for row in rows)])
    return (
        bars("word error rate of each clip", Axis("words wrong, %", 0, highest), rows)
        if rows
        else note("No speech.")
    )


def _latency_plots(figures: Sequence[Figures]) -> list[str]:
    picks: list[tuple[str, Callable[[Figures], Sequence[float]]]] = [
        ("partials", lambda one: [late for _, late in one.partials]),
        ("first partial", lambda one: [] if one.first_partial_s is None else [one.first_partial_s]),
        ("final", lambda one: [] if one.final_s is None else [one.final_s]),
    ]
    spread = [(name, sorted(1000 * late for one in figures for late in pick(one))) for name, pick in picks]
    lines = [Line(name, cdf(values)) for name, values in spread if values]
    if not lines:
        return []
    latest = max(values[-1] for _, values in spread if values)
    talkative = sorted(figures, key=lambda one: len(one.partials), reverse=True)[:3]
    courses = [
        Line(one.name, [(at, 1000 * late) for at, late in one.partials]) for one in talkative if one.partials
    ]
    parts = [
        section(
            "How late the words are",
            plot("latency", Axis("ms", 0, latest), Axis("% of them", 0, 100 + _LEGEND), lines),
        )
    ]
    if courses:
        end = max(at for line in courses for at, _ in line.points)
        high = max(late for line in courses for _, late in line.points)
        course = plot(
            "latency of partials",
            Axis("seconds of audio", 0, end),
            Axis("ms", 0, high * (1 + _LEGEND / 100)),
            courses,
        )
        parts.append(section("Partials over time, of the clips with the most", course))
    return parts


def _words(one: Figures) -> str:
    spans = " ".join(map(_span, one.words.spans)) or '<span class="note">nothing said, nothing shown</span>'
    head = f"{escape(one.name)}, {percent(one.words.rate)}"
    return f'<div class="words"><b>{head}</b>{spans}</div>'


def _span(span: Span) -> str:
    said, understood = escape(span.said), escape(span.understood)
    match span.change:
        case "equal":
            return said
        case "substitute":
            return f"<del>{said}</del> <ins>{understood}</ins>"
        case "delete":
            return f"<del>{said}</del>"
        case "insert":
            return f"<ins>{understood}</ins>"
