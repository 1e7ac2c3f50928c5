"""How good is good enough, for each kind of recogniser: one table."""

from collections.abc import Sequence
from dataclasses import dataclass

LATENCIES = ("first_partial_p95_s", "final_p95_s")
"""Figures that mean something only at the pace of speech."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure that must not be more than ``at_most``; of the clips of ``categories``, or of all with speech."""

    figure: str
    at_most: float
    categories: tuple[str, ...] = ()


def _common(first_partial_s: float, final_s: float) -> tuple[Limit, ...]:
    """``error_rate`` is a share of the sessions and has to stay below half a percent."""
    return (
        Limit("first_partial_p95_s", first_partial_s),
        Limit("final_p95_s", final_s),
        Limit("hallucinated_words", 0),
        Limit("error_rate", 0.005),
    )


def _wer(**limits: float) -> tuple[Limit, ...]:
    return tuple(Limit("wer", at_most, (category,)) for category, at_most in limits.items())


PROFILES: dict[str, Sequence[Limit]] = {
    # What a Parakeet or Conformer model behind Riva is held to.
    "riva": (
        *_wer(clean=0.12, long=0.12, fast=0.18, accented=0.18, noisy=0.18, music=0.18, telephone=0.18),
        *_common(0.3, 0.8),
    ),
    # What the embedded recogniser was measured to do, and a little more: it is a demonstration.
    "embedded": (
        *_wer(clean=0.3, long=0.35, fast=0.24, accented=0.35, noisy=0.68, music=0.62, telephone=0.65),
        *_common(0.3, 4.0),
    ),
    # Words that are made up or scripted say nothing about recognition: when they come does.
    "latency": _common(0.3, 0.8),
}

_SCRIPTED = "scripted"
_BY_BACKEND = {"riva": "riva", "engine": "embedded", "mock": "latency"}


def profile_of(backend: str, model: str) -> str:
    """The profile for what a server's ``ready`` says it is."""
    return "latency" if model == _SCRIPTED else _BY_BACKEND.get(backend, "riva")
