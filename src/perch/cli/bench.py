"""``perch bench WHAT``: what a gateway can take, measured from outside; and what a model can."""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from perch.cli import bench_engine
from perch.cli.native_client import DEFAULT_SERVER, stream_url
from perch.cli.numbers import count, counts, positive

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from perch.loadtest.campaign import Campaign
    from perch.loadtest.results import Step
    from perch.loadtest.steps import Plan, Progress, Tell

OK, FAILED, USAGE = 0, 1, 2

_SESSIONS = [50, 100]
_MANIFESTS = (".json", ".jsonl")
_SPARE_FILES = 64
"""Open files of a generator besides its sockets."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of each sub-verb."""
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    about = "sessions at the pace of speech: how many before an SLO is missed"
    _add_load(kinds.add_parser("load", help=about, description=about[0].upper() + about[1:] + "."))
    about = bench_engine.ABOUT
    bench_engine.add_arguments(
        kinds.add_parser("engine", help=about, description=about[0].upper() + about[1:] + ".")
    )


def _add_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_SERVER, help="the gateway (default: %(default)s)")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--sessions", type=counts, metavar="N,N", help="these concurrencies (default: 50,100)"
    )
    how_many.add_argument(
        "--ramp", type=count, metavar="FIRST", help="double from here until an SLO is missed; find the knee"
    )
    parser.add_argument("--max-sessions", type=count, default=4000, help="of a ramp (default: %(default)s)")
    parser.add_argument(
        "--max-minutes", type=positive, default=30.0, help="of the whole run (default: %(default)g)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=20.0, help="measured in each step (default: %(default)g)"
    )
    parser.add_argument(
        "--warm-up", type=positive, default=3.0, help="seconds before them (default: %(default)g)"
    )
    parser.add_argument(
        "--session-seconds",
        type=positive,
        default=20.0,
        help="speech in a session, before the user begins another (default: %(default)g)",
    )
    parser.add_argument(
        "--clips",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="recordings, folders of WAV files or a manifest (default: tone words, for mock and scripted)",
    )
    parser.add_argument(
        "--processes", type=count, default=1, help="generator processes (default: %(default)s)"
    )
    parser.add_argument("--slo-partial-ms", type=positive, default=300.0, help="p95 (default: %(default)g)")
    parser.add_argument("--slo-final-ms", type=positive, default=800.0, help="p95 (default: %(default)g)")
    parser.add_argument(
        "--slo-errors", type=_share, default=0.5, metavar="PERCENT", help="default: %(default)g"
    )
    parser.add_argument(
        "--silence-ms",
        type=int,
        default=500,
        help="silence that ends an utterance, asked for by every session; 0 leaves it to the engine "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=positive, default=30.0, help="seconds to wait for an answer (default: %(default)g)"
    )
    parser.add_argument("--metrics", metavar="URL", help="the gateway's metrics (default: its /metrics)")
    parser.add_argument("--api-key", default="", metavar="KEY", help="default: PERCH_API_KEY")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", type=Path, metavar="FILE", help="who may sign the gateway's certificate")
    trust.add_argument("--insecure", action="store_true", help="accept any certificate: for development")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("reports"), help="where load.json and load.html go"
    )


async def run(args: argparse.Namespace) -> int:
    return await (bench_engine.run(args) if args.what == "engine" else _run_load(args))


async def _run_load(args: argparse.Namespace) -> int:
    """Load the gateway.

    0: every SLO held at each of ``--sessions``, or the ramp found its knee. 1: not so. 2: misuse.
    """
    from perch.errors import PerchError
    from perch.loadtest import clips

    try:
        files = _files(args.clips)
        await asyncio.to_thread(clips.load, files)  # once here, where a mistake has somebody to be told to
        plan = _plan(args, files)
        _check_open_files(args)
    except (PerchError, ValueError) as mistake:
        print(f"perch bench load: {mistake}", file=sys.stderr)
        return USAGE
    except OSError as mistake:
        print(f"perch bench load: {mistake.filename}: {mistake.strerror}.", file=sys.stderr)
        return USAGE
    return await _load(args, plan)


async def _load(args: argparse.Namespace, plan: "Plan") -> int:
    from rich.console import Console

    from perch.loadtest.campaign import Campaign, verdict
    from perch.loadtest.steps import GeneratorFailed

    console = Console(stderr=True)
    campaign = Campaign("ramp" if args.ramp else "sessions")
    try:
        await _steps(args, plan, campaign, console)
    except GeneratorFailed as broken:
        campaign.ended = str(broken)
    _write(args.output, campaign, plan)
    for sentence in verdict(campaign):
        print(sentence)
    print(f"The report is {args.output / 'load.html'}.")
    return OK if campaign.passed else FAILED


async def _steps(args: argparse.Namespace, plan: "Plan", campaign: "Campaign", console: "Console") -> None:
    from perch.loadtest.campaign import Runner

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        with _shown(campaign, console) as tell:
            runner = Runner(plan, campaign, tell, stop, 60 * args.max_minutes)
            if args.ramp:
                await runner.to_the_knee(args.ramp, args.max_sessions)
            else:
                await runner.at_sessions(args.sessions or _SESSIONS)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


class _shown:  # noqa: N801 - used as a function
    """The steps that are done, and the one that goes on, in the terminal."""

    def __init__(self, campaign: "Campaign", console: "Console") -> None:
        from rich.live import Live

        self._campaign = campaign
        self._now: Progress | None = None
        self._live = Live(console=console, get_renderable=self._table, auto_refresh=False)

    def __enter__(self) -> "Tell":
        self._live.__enter__()
        return self._tell

    def __exit__(self, *_: object) -> None:
        self._now = None
        self._live.refresh()
        self._live.__exit__(None, None, None)

    def _tell(self, progress: "Progress") -> None:
        self._now = progress
        self._live.refresh()

    def _table(self) -> "Table":
        from rich.table import Table

        grid = Table(
            title="Times are milliseconds; connect is p95",
            title_justify="left",
            box=None,
            caption=self._caption(),
            caption_justify="left",
        )
        for head in _COLUMNS:
            grid.add_column(head, justify="right")
        for step in self._campaign.steps:
            grid.add_row(*_cells(step), style=None if step.held else "red")
        return grid

    def _caption(self) -> str | None:
        now = self._now
        if now is None:
            return None
        spent = f"{min(now.elapsed_s, now.total_s):.0f} of {now.total_s:.0f} s"
        return (
            f"{now.sessions} sessions, {spent}: {now.open} open, {now.failed} failed, {now.refused} refused"
        )


_COLUMNS = ("sessions", "connect", "partial p50", "p95", "final p95", "RTFx", "errors", "refused", "CPU")


def _cells(step: "Step") -> list[str]:
    times = (step.ready.p95, step.partial.p50, step.partial.p95, step.final.p95)
    return [
        str(step.sessions),
        *(_ms(value) for value in times),
        "-" if step.rtfx.p50 is None else f"{step.rtfx.p50:.3f}",
        f"{step.error_rate:.2%}",
        f"{step.refusal_rate:.2%}",
        "-" if step.server is None else f"{step.server.cpu_share:.0%}",
    ]


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.{1 if value < 100 else 0}f}"


def _write(folder: Path, campaign: "Campaign", plan: "Plan") -> None:
    import orjson

    from perch.loadtest.report import as_html, as_json

    folder.mkdir(parents=True, exist_ok=True)
    written = orjson.dumps(as_json(campaign, plan), option=orjson.OPT_INDENT_2)
    (folder / "load.json").write_bytes(written + b"\n")
    (folder / "load.html").write_text(as_html(campaign, plan), encoding="utf-8")


# --- what the options mean


def _plan(args: argparse.Namespace, files: list[Path]) -> "Plan":
    from perch.loadtest.records import Target
    from perch.loadtest.results import Slo
    from perch.loadtest.steps import Plan

    url = stream_url(args.url)
    if args.ca is not None and not args.ca.is_file():
        raise ValueError(f"--ca {args.ca} is not a file.")
    key = args.api_key or os.environ.get("PERCH_API_KEY", "")
    return Plan(
        target=Target(url, key, str(args.ca or ""), args.insecure, args.timeout, args.silence_ms),
        metrics_url=args.metrics or _metrics(url),
        clips=[str(path) for path in files],
        seconds=args.seconds,
        warm_up_s=args.warm_up,
        session_s=args.session_seconds,
        processes=args.processes,
        slo=Slo(args.slo_partial_ms, args.slo_final_ms, args.slo_errors / 100),
    )


def _metrics(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(("https" if parts.scheme == "wss" else "http", parts.netloc, "/metrics", "", ""))


def _files(paths: list[Path]) -> list[Path]:
    from perch.quality import manifest

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(path.glob("*.wav"))
            if not found:
                raise ValueError(f"{path} holds no WAV file.")
            files += found
        elif path.suffix in _MANIFESTS:
            files += [file for clip in manifest.load(path) for file in clip.files]
        else:
            files.append(path)
    return files


def _check_open_files(args: argparse.Namespace) -> None:
    """Raises ValueError where the system allows too few sockets; better now than half-way."""
    from perch.loadtest.generator import raise_open_files

    most = args.max_sessions if args.ramp else max(args.sessions or _SESSIONS)
    needed = -(-most // args.processes) + _SPARE_FILES
    if needed > (allowed := raise_open_files()):
        raise ValueError(
            f"{most} sessions need {needed} open files in each process, and the system allows {allowed}. "
            f"Raise that with 'ulimit -Hn {needed}' as root, ask for fewer, or use more --processes."
        )


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:
        raise argparse.ArgumentTypeError("must be a percentage from 0 to 100")
    return number
