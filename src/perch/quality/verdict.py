"""Which limits were kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from perch.quality import stability, words
from perch.quality.figures import Figures, percentile
from perch.quality.profiles import LATENCIES, PROFILES, Limit

_LATE = ("first_partial_s", "final_s")


@dataclass(frozen=True, slots=True)
class Check:
    """One limit: what it is about, what was measured (None: nothing could be), and whether it was kept."""

    figure: str
    about: str
    measured: float | None
    at_most: float
    passed: bool


def wer(figures: Sequence[Figures]) -> float | None:
    """Of all words of ``figures`` together."""
    return words.total([one.words for one in figures]).rate


def first_partial_p95(figures: Sequence[Figures]) -> float | None:
    return percentile([one.first_partial_s for one in figures if one.first_partial_s is not None], 95)


def final_p95(figures: Sequence[Figures]) -> float | None:
    return percentile([one.final_s for one in figures if one.final_s is not None], 95)


def rewritten(figures: Sequence[Figures]) -> float | None:
    return stability.total(one.rewrites for one in figures).share


def hallucinated_words(figures: Sequence[Figures]) -> float | None:
    """None if a session failed: what it would have shown is not known."""
    silent = [one for one in figures if one.hallucinated is not None]
    if not silent or any(one.failure for one in silent):
        return None
    return float(sum(one.hallucinated or 0 for one in silent))


def error_rate(figures: Sequence[Figures]) -> float | None:
    return sum(bool(one.failure) for one in figures) / len(figures) if figures else None


_MEASURED: Mapping[str, Callable[[Sequence[Figures]], float | None]] = {
    "wer": wer,
    "first_partial_p95_s": first_partial_p95,
    "final_p95_s": final_p95,
    "hallucinated_words": hallucinated_words,
    "error_rate": error_rate,
}


def judge(profile: str, figures: Sequence[Figures], *, pace: float) -> list[Check]:
    """Every limit that the clips of ``figures`` say something about; latencies only at the pace of speech.

    What should have been measured and was not, because nothing came back, is a limit missed.
    """
    checks = [*_of_profile(profile, figures), *_of_clips(profile, figures)]
    return [check for check in checks if pace == 1 or check.figure not in (*LATENCIES, *_LATE)]


def _of_profile(profile: str, figures: Sequence[Figures]) -> Iterator[Check]:
    for limit in PROFILES[profile]:
        if chosen := _chosen(limit, figures):
            about = ", ".join(limit.categories) or (
                "silence" if limit.figure == "hallucinated_words" else "all"
            )
            yield _check(limit.figure, about, _MEASURED[limit.figure](chosen), limit.at_most)


def _of_clips(profile: str, figures: Sequence[Figures]) -> Iterator[Check]:
    for one in figures:
        for figure, at_most in one.clip.thresholds.get(profile, {}).items():
            measured = one.words.rate if figure == "wer" else getattr(one, figure)
            yield _check(figure, one.name, measured, at_most)


def _chosen(limit: Limit, figures: Sequence[Figures]) -> list[Figures]:
    if limit.figure == "error_rate":
        return list(figures)
    if limit.figure == "hallucinated_words":
        return [one for one in figures if not one.has_speech]
    return [
        one
        for one in figures
        if one.has_speech and (not limit.categories or one.clip.category in limit.categories)
    ]


def _check(figure: str, about: str, measured: float | None, at_most: float) -> Check:
    kept = measured is not None and (measured < at_most if figure == "error_rate" else measured <= at_most)
    return Check(figure, about, measured, at_most, kept)
