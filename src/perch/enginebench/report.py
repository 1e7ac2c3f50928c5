"""The report of a run: text for the terminal, JSON for programs, HTML with plots for people. No I/O."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from perch.core.audio import samples_to_ms
from perch.enginebench.campaign import Campaign, Plan, Side, Step
from perch.enginebench.figures import Agreement, Live, Pace
from perch.measure.page import Row, items, note, page, section, table
from perch.measure.plot import Axis, Line, plot

NOTHING = "-"
"""Where there is no figure."""

_OURS, _PLAIN = "Perch", "plain loop"

_HEAD = (
    "streams",
    "side",
    "kept up",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "p95 each round",
    "final p95 ms",
    "busy",
    "RTF",
    "CPU s/stream-s",
    "MiB",
    "audio s/s",
    "ratio",
)
_TEXT_ONLY = {"p99 ms", "p95 each round"}
"""Columns that a page has no room for."""

_MEANINGS = (
    (
        "p50, p95: from the moment the last sample of a piece is spoken to its answer; pieces that a side "
        "had not taken when a round ended count as late by as much."
    ),
    "kept up: p95 is at most the length of a piece. Carried streams are the most that kept up.",
    "final p95: the same of the pieces that end an utterance.",
    (
        "busy: share of the time in which something was being computed; RTF: seconds of that for each second of "
        "audio, over all streams."
    ),
    "CPU s/stream-s: processor time of the side's process for each second of one stream.",
    "MiB: resident memory of the side's process, with as many slots as streams; on a GPU, the host's part.",
    (
        "audio s/s: seconds of audio a second, of all streams together, as fast as it goes; ratio: ours to the "
        "plain loop's."
    ),
    (
        "Same words: int8 files scale a layer's numbers by the largest of the whole batch, so that words on the "
        "edge can depend on who else speaks."
    ),
    (
        "The terminal's table and the JSON have p99 and the p95 of each round as well: where those are far apart, "
        "something else had the processor."
    ),
)


def verdict(campaign: Campaign) -> list[str]:
    """What the figures say, in sentences; the first is the headline."""
    told = [_carried(campaign)] if campaign.steps else ["Nothing was measured."]
    told += _throughputs(campaign)
    if campaign.capabilities is not None and campaign.steps:
        slots = campaign.capabilities.slots
        told.append(f"Calibration gave {slots} slots; {campaign.carried} streams were carried.")
    if (each := campaign.memory_per_stream) is not None:
        beside = campaign.plain_memory_per_stream
        plain = "" if beside is None else f" ({_PLAIN}: {_memory(beside)})"
        told.append(f"A further stream takes {_memory(each)}{plain}.")
    told += _recordings(campaign)
    told += _agreements(campaign)
    if campaign.no_plain:
        told.append(f"No plain loop: {campaign.no_plain}")
    if campaign.ended:
        told.append(f"Ended before its time: {campaign.ended}")
    return told


def as_text(campaign: Campaign) -> str:
    """A table with a row for each number of streams and side."""
    rows = [list(_HEAD), *(cells for step in campaign.steps for cells, _ in _rows(step))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def as_json(campaign: Campaign, plan: Plan, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything."""
    capabilities = campaign.capabilities
    return {
        "verdict": verdict(campaign),
        "machine": dict(machine),
        "model": None if capabilities is None else asdict(capabilities),
        "options": asdict(plan.options),
        "backend": plan.backend,
        "chunk_ms": samples_to_ms(campaign.chunk),
        "limit_ms": campaign.limit_ms,
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "ready_s": campaign.ready_s,
        "loads_s": campaign.loads_s,
        "plain_loop": campaign.plain_about,
        "plain_loads_s": campaign.plain_loads_s,
        "no_plain_loop": campaign.no_plain,
        "carried": campaign.carried,
        "plain_carried": campaign.plain_carried,
        "carried_ratio": campaign.carried_ratio,
        "memory_per_stream_mib": campaign.memory_per_stream,
        "plain_memory_per_stream_mib": campaign.plain_memory_per_stream,
        "steps": [asdict(step) | {"throughput_ratio": step.ratio} for step in campaign.steps],
        "offline": None
        if campaign.offline is None
        else asdict(campaign.offline) | {"ratio": campaign.offline.ratio},
        "ended": campaign.ended,
    }


def as_html(campaign: Campaign, plan: Plan, machine: Mapping[str, Any]) -> str:
    """One page: the verdict, the table, the plots, the conditions."""
    headline, *rest = verdict(campaign)
    parts = [f"<p><strong>{escape(headline)}</strong></p>", items(rest)]
    if campaign.steps:
        rows = [Row(_on_page(cells), passed) for step in campaign.steps for cells, passed in _rows(step)]
        head = _on_page(_HEAD)
        parts.append(section("Live streams, and as fast as it goes", table(head, rows, text_columns=2)))
        parts += _plots(campaign)
    parts.append(section("What the columns mean", items(_MEANINGS)))
    parts.append(section("Conditions", items(conditions(campaign, plan, machine))))
    parts.append(note(_FAIRNESS))
    return page(f"Engine: {plan.options.name}", parts)


_FAIRNESS = (
    "Both sides had the same recordings, pieces, files, number format and threads, each in a process of its "
    "own, and took turns. Ratios travel to another machine, absolute figures do not."
)


def conditions(campaign: Campaign, plan: Plan, machine: Mapping[str, Any]) -> list[str]:
    """What was measured where."""
    told = [f"{name}: {value}" for name, value in machine.items()]
    if (model := campaign.capabilities) is not None:
        parameters = ", ".join(f"{name} {value}" for name, value in model.parameters.items())
        told.append(f"model: {model.model}, {model.streaming_mode}, {parameters}")
        told.append(
            f"loading: {_seconds(campaign.loads_s)} s with given slots, "
            f"{campaign.ready_s:.1f} s with calibration"
        )
    if campaign.plain_about:
        told.append(f"{_PLAIN}: {campaign.plain_about}; loading: {_seconds(campaign.plain_loads_s)} s")
    told.append(
        f"rounds: {plan.seconds:g} s of live streams on each side, in {plan.rounds} turns, and half as much as "
        "fast as it goes"
    )
    told += _paces(campaign)
    return told


# --- sentences


def _carried(campaign: Campaign) -> str:
    pieces = f"pieces of {samples_to_ms(campaign.chunk)} ms" if campaign.chunk else "whole utterances"
    sentence = f"{campaign.carried} live streams carried in {pieces}, p95 within {campaign.limit_ms:g} ms"
    if campaign.plain_carried is None:
        return f"{sentence}."
    if campaign.carried_ratio is None:
        return f"{sentence}; the plain loop carried none."
    return f"{sentence}; the plain loop carried {campaign.plain_carried}: {campaign.carried_ratio:.2f} times."


def _throughputs(campaign: Campaign) -> list[str]:
    best = max((step for step in campaign.steps if step.ratio), key=lambda step: step.streams, default=None)
    if best is None or best.plain is None:
        return []
    return [
        (
            f"At {best.streams} streams as fast as it goes: {_number(best.ours.throughput, 2)} s of audio a second, "
            f"the plain loop {_number(best.plain.throughput, 2)}: {_number(best.ratio, 2)} times."
        )
    ]


def _recordings(campaign: Campaign) -> list[str]:
    offline = campaign.offline
    if offline is None:
        return []
    beside = (
        ""
        if offline.plain is None
        else f", the plain loop one after the other {offline.plain:.2f}: {_number(offline.ratio, 2)} times"
    )
    return [f"{offline.files} recordings at once: RTFx {_number(offline.ours, 2)}{beside}."]


def _agreements(campaign: Campaign) -> list[str]:
    found = [step.agreement for step in campaign.steps]
    found.append(campaign.offline.agreement if campaign.offline else None)
    known: list[Agreement] = [one for one in found if one is not None and one.of]
    if not known:
        return []
    same, of = sum(one.same for one in known), sum(one.of for one in known)
    return [f"Both sides wrote the same words for {same} of {of} utterances."]


def _paces(campaign: Campaign) -> list[str]:
    """How much was written: of the side that tells tokens, if there is one."""
    sides: list[Pace] = [
        step.plain.pace if step.plain and step.plain.pace.tokens_per_s is not None else step.ours.pace
        for step in campaign.steps
    ]
    sides += [campaign.offline.pace] if campaign.offline else []
    known = [one for one in sides if one.words_per_s is not None]
    if not known:
        return []
    best = known[-1]
    tokens = "" if best.tokens_per_s is None else f"{best.tokens_per_s:.1f} tokens, "
    return [
        (
            f"written for each second of audio: {tokens}{_number(best.words_per_s, 1)} words (English speech: about "
            "3 to 5 tokens, 2.5 words)"
        )
    ]


# --- rows and plots


def _rows(step: Step) -> list[tuple[list[str], bool | None]]:
    rows = [_row(step.streams, _OURS, step.ours, _number(step.ratio, 2))]
    if step.plain is not None:
        rows.append(_row(step.streams, _PLAIN, step.plain, ""))
    return rows


def _row(streams: int, name: str, side: Side, ratio: str) -> tuple[list[str], bool | None]:
    live = side.live
    measured = [NOTHING] * 10 if live is None else _measured(live, side.each_p95_ms)
    cells = [str(streams), name, *measured, _number(side.throughput, 2), ratio]
    return cells, None if live is None or live.held else False


def _measured(live: Live, each_p95_ms: Sequence[float | None]) -> list[str]:
    return [
        NOTHING if not live.latency.count else "yes" if live.held else "no",
        *(_number(value, 0) for value in (live.latency.p50, live.latency.p95, live.latency.p99)),
        ", ".join(_number(value, 0) for value in each_p95_ms),
        _number(live.final.p95, 0),
        f"{live.busy:.0%}",
        _number(live.rtf, 3),
        _number(live.cpu, 3),
        _number(live.resident_mib, 0),
    ]


def _plots(campaign: Campaign) -> list[str]:
    most = max(step.streams for step in campaign.steps)
    x = Axis("streams", 0, most, whole=True)
    limit = campaign.limit_ms
    ours, plain = sorted(campaign.ours, key=_streams), sorted(campaign.plain, key=_streams)
    steps = sorted(campaign.steps, key=lambda step: step.streams)
    mark = Line(f"limit {limit:g} ms", [(0.0, limit), (float(most), limit)])
    return [
        _drawn(
            "p95 of a piece", x, "ms", [*_both(ours, plain, lambda one: one.latency.p95), mark], 3 * limit
        ),
        _drawn(
            "As fast as it goes",
            x,
            "seconds of audio a second",
            [
                Line(_OURS, [(float(step.streams), step.ours.throughput or 0.0) for step in steps]),
                Line(
                    _PLAIN,
                    [(float(step.streams), step.plain.throughput or 0.0) for step in steps if step.plain],
                ),
            ],
        ),
        _drawn("Memory", x, "MiB", _both(ours, plain, lambda one: one.resident_mib)),
    ]


def _both(ours: Sequence[Live], plain: Sequence[Live], value: Callable[[Live], float | None]) -> list[Line]:
    return [
        Line(name, [(float(one.streams), found) for one in side if (found := value(one)) is not None])
        for name, side in ((_OURS, ours), (_PLAIN, plain))
        if side
    ]


def _drawn(title: str, x: Axis, unit: str, lines: Sequence[Line], most: float = float("inf")) -> str:
    highest = max((y for line in lines for _, y in line.points), default=0.0)
    return section(title, plot(title, x, Axis(unit, 0, 1.15 * min(highest, most) or 1.0), lines))


def _on_page(cells: Sequence[str]) -> list[str]:
    """Those of a row that a page shows."""
    return [cell for name, cell in zip(_HEAD, cells, strict=True) if name not in _TEXT_ONLY]


def _memory(mib: float) -> str:
    """Less than can be shown, also below zero, is what the system did besides."""
    return f"{mib:.1f} MiB" if round(mib, 1) > 0 else "too little memory to measure"


def _streams(live: Live) -> int:
    return live.streams


def _seconds(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.1f}" for value in values) or NOTHING


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
