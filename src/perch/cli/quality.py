"""``perch quality``: how well a server recognises the recordings of a manifest, and how soon."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from perch.cli.native_client import local_server, stream_url
from perch.cli.numbers import count, positive
from perch.cli.trust import client_tls
from perch.errors import PerchError
from perch.quality import manifest, report, words
from perch.quality.client import Target, greet
from perch.quality.figures import Figures
from perch.quality.profiles import PROFILES, profile_of
from perch.quality.runner import Plan, Run, measure_all
from perch.quality.usage import Meter, MetricsMeter, ProcessMeter, has_gpu
from perch.quality.verdict import judge

KEPT, MISSED, USAGE = 0, 1, 2

_GOLDEN = Path("tests/golden/manifest.json")
_LOCAL = {"localhost", "127.0.0.1", "::1"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``perch quality``."""
    parser.add_argument(
        "manifest",
        nargs="?",
        type=Path,
        default=_GOLDEN,
        help="what is said in which file (default: %(default)s)",
    )
    parser.add_argument("--server", metavar="URL", help="a Perch server (default: the one on this machine)")
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), help="limits (default: by the server's backend)"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="clips or categories; may be repeated"
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="NAME", help="clips or categories; may be repeated"
    )
    parser.add_argument(
        "--jobs", type=count, default=1, metavar="N", help="clips at once (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=count, default=1, metavar="N", help="how often each clip (default: %(default)s)"
    )
    parser.add_argument(
        "--pace",
        type=positive,
        default=1.0,
        metavar="X",
        help="times as fast as speech; latencies are judged at 1 only (default: 1)",
    )
    parser.add_argument(
        "-o", "--output-dir", type=Path, default=Path("reports"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--pid", type=count, metavar="PID", help="measure this process and its children, not /metrics"
    )
    parser.add_argument("--language", default="", help="such as en-US; the server's default if not given")
    parser.add_argument("--model", default="", help="the server's default if not given")
    parser.add_argument("--api-key", default="", metavar="KEY", help="default: PERCH_API_KEY")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificate to trust (PEM)")
    parser.add_argument("--insecure", action="store_true", help="trust any certificate")


async def run(args: argparse.Namespace) -> int:
    """Measure, write the report; 0 if every limit was kept, 1 if not, 2 if nothing could be measured."""
    try:
        words.check_installed()
        result = await _report(args)
        files = report.write(result, args.output_dir)
    except (PerchError, ValueError, OSError) as error:
        print(_reason(error), file=sys.stderr)
        return USAGE
    _show(result)
    print(f"Report: {files[1]} and {files[0]}")
    return KEPT if result.passed else MISSED


async def _report(args: argparse.Namespace) -> report.Report:
    clips = manifest.choose(manifest.load(args.manifest), args.only, args.skip)
    server = args.server or await local_server()
    target = _target(args, server)
    on_this_machine = urlsplit(target.url).hostname in _LOCAL
    plan = Plan(args.repeats, args.jobs, args.pace, gpu=on_this_machine and has_gpu())
    async with aiohttp.ClientSession() as http:
        ready = await greet(http, target)
        profile = args.profile or profile_of(ready.get("backend", ""), ready.get("model", ""))
        meter, covers = _meter(args, http, target)
        figures, usage = await measure_all(
            http, target, clips, plan=plan, meter=meter, tell=_teller(args, len(clips))
        )
    measured = Run(plan, ready, figures, usage, str(args.manifest), server, covers)
    return report.Report(measured, profile, judge(profile, figures, pace=plan.pace))


def _target(args: argparse.Namespace, server: str) -> Target:
    config = {key: value for key in ("language", "model") if (value := getattr(args, key))}
    key = args.api_key or os.environ.get("PERCH_API_KEY", "")
    return Target(stream_url(server), key, client_tls(args.server, args.ca, insecure=args.insecure), config)


def _meter(args: argparse.Namespace, http: aiohttp.ClientSession, target: Target) -> tuple[Meter, str]:
    if args.pid is not None:
        return ProcessMeter(args.pid), f"Process {args.pid} with its children"
    address = urlsplit(target.url)
    scheme = {"ws": "http", "wss": "https"}[address.scheme]
    url = urlunsplit((scheme, address.netloc, "/metrics", "", ""))
    return MetricsMeter(
        http, url, {"headers": target.headers, "ssl": target.tls}
    ), "The gateway without its engine"


def _teller(args: argparse.Namespace, clips: int) -> Callable[[Figures], None]:
    """A line for each session as it is done."""
    total, done = clips * args.repeats, 0

    def tell(one: Figures) -> None:
        nonlocal done
        done += 1
        heard = one.failure or (
            f"{one.hallucinated} words"
            if one.hallucinated is not None
            else f"WER {report.percent(one.words.rate)}"
        )
        print(
            f"[{done}/{total}] {one.name}: {heard}, first partial {report.milliseconds(one.first_partial_s)}, "
            f"final {report.milliseconds(one.final_s)}",
            flush=True,
        )

    return tell


def _show(result: report.Report) -> None:
    for check in result.checks:
        measured, at_most = report.value_of(check)
        print(
            f"{'kept  ' if check.passed else 'MISSED'} {report.name_of(check)}: {measured}, at most {at_most}"
        )
    for remark in result.remarks:
        print(remark)


def _reason(error: Exception) -> str:
    if isinstance(error, PerchError):
        return f"{error.message} [{error.code}]"
    return str(error)
