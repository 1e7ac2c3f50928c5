"""``perch bench engine``: how many live streams a model carries here, beside its library's plain loop."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perch.cli.engine import add_model_arguments, options_of
from perch.cli.numbers import count, counts, positive
from perch.errors import BadConfig, PerchError

if TYPE_CHECKING:
    from perch.enginebench.campaign import Campaign, Choose, Plan
    from perch.enginebench.figures import Live

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

ABOUT = "live streams that a model carries on this machine, beside its library's plain loop"

_STREAMS = [1, 2, 4, 6]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument(
        "--streams", type=counts, metavar="N,N", help="these numbers of streams (default: 1,2,4,6)"
    )
    how_many.add_argument(
        "--ramp",
        action="store_true",
        help="double the streams until text falls behind, then halve the distance",
    )
    parser.add_argument("--most", type=count, default=64, help="streams of a ramp (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=positive,
        default=20.0,
        help="live speech for each side and number of streams; half as much as fast as it goes (default: 20)",
    )
    parser.add_argument(
        "--rounds", type=count, default=2, help="turns that the two sides take in it (default: %(default)s)"
    )
    parser.add_argument(
        "--plain",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the library's own loop, one stream after the other, beside it (default: yes)",
    )
    parser.add_argument(
        "--beside",
        metavar="LIBRARY",
        default="",
        help="whose loop that is (default: of the library that runs the model; onnx-asr takes the same ONNX files, "
        "if they are of a model for whole utterances)",
    )
    parser.add_argument("--offline", action="store_true", help="measure recordings as well, many at once")
    parser.add_argument(
        "--files", type=count, default=16, help="recordings of --offline (default: %(default)s)"
    )
    parser.add_argument(
        "--audio",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="recordings of speech, or folders of WAV files (default: the three in a checkout)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots there")


async def run(args: argparse.Namespace) -> int:
    """0: measured. 1: a side broke. 2: misuse. 130: interrupted; what was measured is reported."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("perch.inference.parakeet.process").setLevel(logging.INFO)  # it tells how loading goes
    try:
        plan = await asyncio.to_thread(_plan, args)
    except PerchError as mistake:
        print(f"perch bench engine: {mistake}", file=sys.stderr)
        return USAGE
    except OSError as mistake:
        print(f"perch bench engine: {mistake.filename}: {mistake.strerror}.", file=sys.stderr)
        return USAGE
    return await _measure(args, plan)


async def _measure(args: argparse.Namespace, plan: "Plan") -> int:
    from perch.enginebench import campaign as bench
    from perch.enginebench.machine import machine

    found, here = bench.Campaign(), machine(plan.backend, plan.beside)
    status = await _until_interrupted(plan, found)
    if found.capabilities is None:
        print(f"perch bench engine: {found.ended}", file=sys.stderr)
        return status
    _tell_all(args, plan, found, here)
    return status


async def _until_interrupted(plan: "Plan", found: "Campaign") -> int:
    """Fill ``found``; the exit status."""
    from perch.enginebench import campaign as bench

    running = asyncio.create_task(bench.run(plan, found, _tell))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        found.ended = "It was interrupted."
        return INTERRUPTED
    except PerchError as broken:
        found.ended = broken.message
        return USAGE if isinstance(broken, BadConfig) else FAILED
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return OK


def _tell(progress: str) -> None:
    print(f"perch bench engine: {progress}", file=sys.stderr, flush=True)


def _tell_all(args: argparse.Namespace, plan: "Plan", found: "Campaign", here: dict[str, Any]) -> None:
    import orjson

    from perch.enginebench import report

    print(report.as_text(found), end="\n\n")
    for sentence in (*report.verdict(found), "", *report.conditions(found, plan, here)):
        print(sentence)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        written = orjson.dumps(report.as_json(found, plan, here), option=orjson.OPT_INDENT_2)
        args.json.write_bytes(written + b"\n")
    if args.html is not None:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(report.as_html(found, plan, here), encoding="utf-8")


# --- what the options mean


def _plan(args: argparse.Namespace) -> "Plan":
    from perch.enginebench import clips
    from perch.enginebench.campaign import Plan
    from perch.enginebench.plain import LIBRARIES, has_loop
    from perch.inference.parakeet.backends import backend_of
    from perch.registry.machine import lacking

    if args.beside and args.beside not in LIBRARIES:
        raise BadConfig(f"--beside is {args.beside}; there are loops of {', '.join(LIBRARIES)}.")
    if args.beside and not has_loop(args.beside):
        raise BadConfig(lacking(args.beside))
    if args.model is None:
        raise BadConfig("--model PATH is missing: the folder with the weights to measure.")
    options = options_of(args)
    return Plan(
        backend=args.backend or backend_of(Path(options.path)),
        options=options,
        recordings=clips.load(args.audio),
        choose=_ramp(args.most) if args.ramp else _these(args.streams or _STREAMS),
        seconds=args.seconds,
        rounds=args.rounds,
        plain=args.plain,
        beside=args.beside,
        files=args.files if args.offline else 0,
    )


def _these(streams: Sequence[int]) -> "Choose":
    left = iter(streams)

    def choose(ours: "Sequence[Live]", plain: "Sequence[Live]") -> int | None:
        del ours, plain
        return next(left, None)

    return choose


def _ramp(most: int) -> "Choose":
    """Until the knee of our side is known, and then that of a plain loop that holds as many streams."""
    from perch.loadtest.search import Tried, following

    def choose(ours: "Sequence[Live]", plain: "Sequence[Live]") -> int | None:
        streams = following([Tried(one.streams, one.held) for one in ours], 1, most)
        return _between(plain) if streams is None and len(plain) == len(ours) else streams

    return choose


def _between(side: "Sequence[Live]") -> int | None:
    """A number of streams between what a side is known to carry and what it is not; None if there is none."""
    from perch.enginebench.figures import carried

    low = carried(side)
    high = min((one.streams for one in side if one.streams > low), default=low)
    return (low + high) // 2 if high - low > 1 else None
