"""A run of several steps: the concurrencies that were asked for, or up to the knee."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from perch.loadtest.results import Limit, Step, limit, recommended
from perch.loadtest.search import Tried, following, knee
from perch.loadtest.steps import Plan, Tell, run_step


@dataclass(slots=True)
class Campaign:
    """What was asked for and what came of it, in the order of the steps."""

    kind: Literal["sessions", "ramp"]
    steps: list[Step] = field(default_factory=list)
    ended: str = ""
    """Why it ended before its time."""

    @property
    def judged(self) -> list[Step]:
        """The steps that went on for as long as they should."""
        return [step for step in self.steps if not step.cut]

    @property
    def knee(self) -> int:
        """The largest concurrency at which everything held, and below all at which it did not."""
        tried = [Tried(step.sessions, step.held) for step in self.judged]
        if self.kind == "ramp":
            return knee(tried)
        broken = min((one.sessions for one in tried if not one.held), default=float("inf"))
        return max((one.sessions for one in tried if one.held and one.sessions < broken), default=0)

    @property
    def breaking(self) -> Step | None:
        """The step nearest above the knee."""
        above = [step for step in self.judged if not step.held and step.sessions > self.knee]
        return min(above, key=lambda step: step.sessions, default=None)

    @property
    def limit(self) -> Limit | None:
        """What gave way, if anything did."""
        return None if self.breaking is None else limit(self.breaking)

    @property
    def passed(self) -> bool:
        """Of ``sessions``: everything held at all of them. Of ``ramp``: there is a knee."""
        if not self.judged or self.ended:
            return False
        return self.knee > 0 if self.kind == "ramp" else all(step.held for step in self.judged)

    @property
    def engines(self) -> int:
        """Engines that the gateway names in its metrics; 1 where it names none."""
        return max((len(step.server.engines) for step in self.steps if step.server), default=0) or 1


@dataclass(frozen=True, slots=True)
class Runner:
    """Adds steps to a campaign, until ``stop`` is set or ``most_s`` seconds are over."""

    plan: Plan
    campaign: Campaign
    tell: Tell
    stop: asyncio.Event
    most_s: float

    async def at_sessions(self, wanted: Sequence[int]) -> None:
        """One step for each of ``wanted``."""
        remaining = iter(wanted)
        await self._run(lambda: next(remaining, None))

    async def to_the_knee(self, first: int, most: int) -> None:
        """Steps until the knee is known, none above ``most``."""

        def wanted() -> int | None:
            tried = [Tried(step.sessions, step.held) for step in self.campaign.judged]
            return following(tried, first, most)

        await self._run(wanted)

    async def _run(self, wanted: Callable[[], int | None]) -> None:
        time = asyncio.get_running_loop().time
        until = time() + self.most_s
        while (sessions := wanted()) is not None and not self.stop.is_set():
            if time() + self.plan.schedule(sessions).total_s > until:
                self.campaign.ended = "The time was up before the next step; allow more with --max-minutes."
                return
            self.campaign.steps.append(await run_step(self.plan, sessions, self.tell, self.stop))
        if self.stop.is_set():
            self.campaign.ended = "It was interrupted."


def verdict(campaign: Campaign) -> list[str]:
    """What the run says, in sentences; the first is the one to read."""
    found = [_headline(campaign)]
    if campaign.ended:
        found.append(campaign.ended)
    if campaign.limit is not None:
        found.append(_LIMITS[campaign.limit])
    if campaign.knee:
        found.append(_recommendation(campaign))
    doubted = [
        step for step in campaign.judged if step.doubts and (step.held or step.sessions > campaign.knee)
    ]
    if doubted:
        numbers = ", ".join(map(str, sorted({step.sessions for step in doubted})))
        reasons = "; ".join(doubted[-1].doubts)
        found.append(f"Do not trust the figures at {numbers} sessions too far: {reasons}.")
    return found


_LIMITS: dict[Limit, str] = {
    "admission": "The gateway's own limit was reached: it refused sessions, as it should. "
    "Raise PERCH_MAX_SESSIONS, and those per key and per address, to find out what it can do.",
    "generator": "The generator was the limit, not what it loads: the knee is a lower bound. "
    "Use --processes, or another machine.",
    "gateway": "The gateway process was the limit. Start more of them (PERCH_REUSE_PORT) for more.",
    "machine": "The machine was the limit: all its cores were in use, shared by the gateway, the generator and "
    "whatever else runs on it. The knee is a lower bound for each of them by itself.",
    "engine": "The engine was the limit, or the road to it: the gateway, the generator and the machine had "
    "time to spare.",
}


def _headline(campaign: Campaign) -> str:
    top, breaking = campaign.knee, campaign.breaking
    if not campaign.judged:
        return "No step was finished, so nothing is known."
    if breaking is None:
        return f"Every SLO held at {top} sessions, the most that were tried."
    why = "; ".join(breaking.problems)
    if not top:
        return f"The SLOs did not hold, not even at {breaking.sessions} sessions: {why}."
    return f"The SLOs held at {top} sessions and not at {breaking.sessions}: {why}."


def _recommendation(campaign: Campaign) -> str:
    most = recommended(campaign.knee)
    bound = "" if campaign.limit in {"gateway", "engine"} else "at least "
    if campaign.engines > 1:
        return (
            f"Recommended maximum: {bound}{most} sessions for this gateway process, "
            f"{bound}{most // campaign.engines} for each of its {campaign.engines} engines."
        )
    return (
        f"Recommended maximum: {bound}{most} sessions for this gateway process, and as many for its engine."
    )
