"""Perch beside the gateways one would write instead, on one machine in one run: ``python -m bench.peers``."""

import argparse
import resource
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.peers_figures import DIRECT, Comparison, Window, holds
from bench.peers_run import PEERS, Peer, Running, load, riva
from bench.processes import ROOT, ProcessFailed
from rich.console import Console

from bench import peers_build as build
from bench import peers_report as report

DOCS = ROOT / "docs" / "reference" / "performance-peers.md"
COMMAND = ("python", "-m", "bench.peers")
TITLES = {peer.name: peer.title for peer in PEERS}

_RAMP = (400, 700, 1000, 1400, 2000, 2800)
_WARMING_STREAMS, _WARMING_PACE, _WARMING_S = 8, 10.0, 5.0  # compilers that learn get something to learn from


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    peers: tuple[Peer, ...]
    streams: tuple[int, ...]
    seconds: float
    warm_up: float
    rounds: int
    ramp: tuple[int, ...]


class Run:
    """All peers, started once, that take turns under the same load."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan = plan
        self._console = console
        self._running: dict[str, Running] = {}
        self.comparison = Comparison()

    def measure(self) -> None:
        """Do the plan.

        Raises:
            CannotBuild: Riva or the load generator is missing.
            ProcessFailed: One of the processes broke.
        """
        build.native()
        with ExitStack() as stack:
            address = stack.enter_context(riva()).address
            for peer in self._plan.peers:
                self._start(peer, address, stack)
            self._rounds()
            self._ramp()

    def _start(self, peer: Peer, address: str, stack: ExitStack) -> None:
        try:
            peer.build()
        except build.CannotBuild as error:
            self.comparison.skipped[peer.name] = str(error)
            return
        self._running[peer.name] = running = peer.start(address, stack)
        seconds = min(_WARMING_S, self._plan.seconds)
        load(_road(peer.name), running, _WARMING_STREAMS, seconds=seconds, warm_up=0, pace=_WARMING_PACE)

    def _rounds(self) -> None:
        for number in range(self._plan.rounds):
            for streams in self._plan.streams:
                for name in self._running:
                    window = self._window(name, streams, f"round {number + 1}")
                    self.comparison.windows.setdefault((name, streams), []).append(window)

    def _ramp(self) -> None:
        standing = [name for name in self._running if name != DIRECT]
        for streams in self._plan.ramp:
            for name in tuple(standing):
                window = self._window(name, streams, "ramp")
                if not holds(window):
                    window = self._window(name, streams, "ramp, again")
                self.comparison.ramps.setdefault(name, []).append(window)
                if not holds(window):
                    standing.remove(name)

    def _window(self, name: str, streams: int, when: str) -> Window:
        window = load(
            _road(name),
            self._running[name],
            streams,
            seconds=self._plan.seconds,
            warm_up=self._plan.warm_up,
        )
        p95 = window.latency_ms[1]
        told = (
            f"{when}: {TITLES[name]}, {streams} streams: {window.us_per_frame:.0f} µs/frame, p95 {p95:.2f} ms"
        )
        self._console.print(f"[dim]{told}[/]")
        return window


def _road(peer: str) -> str:
    return "grpc" if peer == DIRECT else "ws"


def plan_of(arguments: argparse.Namespace) -> Plan:
    """What the options ask for; ``--quick`` changes what is not said."""
    quick = arguments.quick
    wanted = set(arguments.only or TITLES) | {DIRECT}
    return Plan(
        peers=tuple(peer for peer in PEERS if peer.name in wanted),
        streams=arguments.streams or ((5,) if quick else (1, 50, 100, 400)),
        seconds=arguments.seconds or (1.0 if quick else 8.0),
        warm_up=0.0 if quick else 1.0,
        rounds=arguments.rounds or (1 if quick else 3),
        ramp=_RAMP if arguments.ramp else (),
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description="Perch beside the gateways one would write instead."
    )
    parser.add_argument("--quick", action="store_true", help="a few streams for a second: does it work?")
    parser.add_argument("--only", type=_names, metavar="NAME,…", help=f"some of {', '.join(TITLES)}")
    parser.add_argument("--streams", type=_numbers, metavar="N,…", help="streams at a time (1,50,100,400)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (8)")
    parser.add_argument("--rounds", type=int, help="how often each is repeated, gateways taking turns (3)")
    parser.add_argument("--ramp", action="store_true", help="also: how many streams until it falls behind")
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCS.relative_to(ROOT)}")
    parser.add_argument("--output", type=Path, default=ROOT / "reports", help="directory of the report")
    return parser.parse_args(argv)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in TITLES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(TITLES)}")
    return names


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


def main() -> int:
    arguments = parse()
    console = Console(stderr=True)
    _raise_open_files()
    run = Run(plan_of(arguments), console)
    try:
        run.measure()
    except (ProcessFailed, build.CannotBuild) as error:
        console.print(f"[bold red]failed:[/] {error}")
        return 1
    report.show(run.comparison, TITLES, Console() if sys.stdout.isatty() else Console(width=150))
    data, page = report.write(run.comparison, TITLES, arguments.output)
    console.print(f"[dim]{data}\n{page}[/]")
    if arguments.write_docs:
        DOCS.write_text(
            report.markdown(run.comparison, TITLES, shlex.join((*COMMAND, *sys.argv[1:]))), encoding="utf-8"
        )
    return 1 if run.comparison.failures() else 0


def _raise_open_files() -> None:
    """A gateway of thousands of streams has as many sockets; children inherit the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
