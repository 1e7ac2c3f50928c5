"""``./run bench``: the gateway beside direct gRPC, in one run on one machine.

docs/reference/performance.md says what the figures mean.
"""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Results, Round, failures
from bench.job import Job, Outcome, Road
from bench.processes import ROOT, ProcessFailed, Server, engine, gateway, generate
from bench.websocket_client import StreamFailed
from rich.console import Console

from bench import memory, report

_LONG_SESSIONS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. A zero leaves a part out."""

    latency_streams: int
    cpu_streams: int
    idle_sessions: int
    seconds: float
    rounds: int
    long_minutes: float
    pace: float


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the load goes."""

    engine: Server
    gateway: Server
    console: Console

    async def rounds(self, count: int, streams: int, seconds: float, *, finals_only: bool) -> list[Round]:
        """Direct, gateway, direct, gateway …: noise that lasts longer than a phase meets both roads."""
        return [await self._round(streams, seconds, finals_only=finals_only) for _ in range(count)]

    async def _round(self, streams: int, seconds: float, *, finals_only: bool) -> Round:
        return Round(
            await self._phase("direct", streams, seconds),
            await self._phase("gateway", streams, seconds),
            await self._phase("gateway", streams, seconds, partials=False) if finals_only else None,
        )

    async def _phase(self, road: Road, streams: int, seconds: float, *, partials: bool = True) -> Outcome:
        self.console.print(
            f"[dim]{streams} streams, {road}, {seconds:g} s{'' if partials else ', finals only'} …[/]"
        )
        address = self.gateway.address if road == "gateway" else self.engine.address
        watch = {"gateway": self.gateway.pid, "engine": self.engine.pid}
        return await generate(Job(road, address, streams, seconds, partials, watch))


async def measure(plan: Plan, console: Console) -> Results:
    """Everything ``plan`` asks for.

    Raises:
        ProcessFailed, StreamFailed: Something broke, so there is nothing to report.
    """
    results = Results()
    most = max(plan.latency_streams, plan.cpu_streams, plan.idle_sessions)
    async with engine() as riva:
        if plan.latency_streams or plan.cpu_streams:
            async with gateway(riva.address, most) as server, memory.sampled(server, results.resident):
                bench = Bench(riva, server, console)
                await _measure_load(bench, plan, results)
        if plan.idle_sessions:
            console.print(f"[dim]{plan.idle_sessions} idle sessions …[/]")
            async with gateway(riva.address, most) as fresh:
                results.idle = await memory.measure_idle(fresh, plan.idle_sessions)
        if plan.long_minutes:
            console.print(f"[dim]{plan.long_minutes:g} minutes of {_LONG_SESSIONS} sessions …[/]")
            async with gateway(riva.address, most) as fresh:
                results.growth = await memory.measure_growth(
                    fresh, sessions=_LONG_SESSIONS, minutes=plan.long_minutes, pace=plan.pace
                )
    return results


async def _measure_load(bench: Bench, plan: Plan, results: Results) -> None:
    if plan.cpu_streams:
        results.cpu = await bench.rounds(plan.rounds, plan.cpu_streams, plan.seconds, finals_only=True)
    if plan.latency_streams == plan.cpu_streams:
        results.latency = results.cpu
    elif plan.latency_streams:
        results.latency = await bench.rounds(
            plan.rounds, plan.latency_streams, plan.seconds, finals_only=False
        )


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the options ask for; ``--quick`` and ``--long`` change what is not said."""
    quick, alone = arguments.quick, bool(arguments.long)

    def chosen(given: float | None, usual: float, short: float) -> float:
        return given if given is not None else 0 if alone else short if quick else usual

    return Plan(
        latency_streams=int(chosen(arguments.streams, 50, 5)),
        cpu_streams=int(chosen(arguments.cpu_streams, 100, 5)),
        idle_sessions=int(chosen(arguments.idle_sessions, 500, 20)),
        seconds=arguments.seconds or (1.5 if quick else 10.0),
        rounds=arguments.rounds or (1 if quick else 2),
        long_minutes=arguments.long or 0,
        pace=arguments.pace,
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench", description="The gateway beside direct gRPC.")
    parser.add_argument("--quick", action="store_true", help="a few streams for a few seconds: does it work?")
    parser.add_argument("--streams", type=int, metavar="N", help="streams for latency (50; 0: skip)")
    parser.add_argument("--cpu-streams", type=int, metavar="N", help="streams for CPU time (100; 0: skip)")
    parser.add_argument("--idle-sessions", type=int, metavar="N", help="sessions for memory (500; 0: skip)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (10)")
    parser.add_argument("--rounds", type=int, help="how often each is repeated, roads taking turns (2)")
    parser.add_argument(
        "--long", type=float, metavar="MINUTES", help="instead: does memory grow over a long session?"
    )
    parser.add_argument("--pace", type=float, default=1.0, help="of --long, times real time (1)")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="directory of the report")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse()
    console = Console(stderr=True)
    try:
        results = asyncio.run(measure(plan_of(arguments), console))
    except (ProcessFailed, StreamFailed) as error:
        console.print(f"[bold red]failed:[/] {error}")
        return 1
    report.show(results, Console() if sys.stdout.isatty() else Console(width=120))
    data, page = report.write(results, arguments.output)
    console.print(f"[dim]{data}\n{page}[/]")
    return 1 if failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
