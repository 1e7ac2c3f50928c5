"""The gateways of the comparison as processes, and the load that is put on them."""

import os
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.peers_figures import DIRECT, Window, window_of
from bench.processes import ProcessFailed

from bench import peers_build as build

_READY_S = 60.0
_STOP_S = 15.0
_LISTENING = re.compile(rb"listening on (\S+:\d+)")
_PERCH_LISTENING = re.compile(rb"open http://localhost(:\d+)/")
_MOST_SESSIONS = "10000"
_RUN_ON_S = 150.0  # opening, the spread of the starts, the end


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that serves; more than one process may share its address."""

    address: str
    pids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the comparison."""

    name: str
    title: str
    build: Callable[[], None]
    start: Callable[[str, ExitStack], Running]


def load(
    road: str, running: Running, streams: int, *, seconds: float, warm_up: float, pace: float = 1
) -> Window:
    """Put ``streams`` on a gateway (or, with the road ``grpc``, on Riva itself) and measure.

    Raises:
        ProcessFailed: The load could not be put on.
    """
    watched = f"gateway={','.join(map(str, running.pids))}"
    options = ("--seconds", str(seconds), "--warm-up", str(warm_up), "--pace", str(pace))
    watch = ("--watch", watched) if running.pids else ()
    try:
        done = subprocess.run(
            (str(build.LOAD), road, running.address, str(streams), *options, *watch),
            capture_output=True,
            timeout=seconds + warm_up + _RUN_ON_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessFailed(f"The load of {streams} streams did not end.") from error
    if done.returncode:
        raise ProcessFailed(f"The load of {streams} streams failed: {done.stderr.decode().strip()}")
    return window_of(done.stdout)


@contextmanager
def riva() -> Iterator[Running]:
    """The scripted Riva."""
    with ExitStack() as stack:
        yield _started(stack, (str(build.RIVA), "0"), {}, _LISTENING)


def _direct(riva: str, stack: ExitStack) -> Running:
    del stack
    return Running(riva, ())


def _perch(processes: int = 1, **settings: str) -> Callable[[str, ExitStack], Running]:
    def start(riva: str, stack: ExitStack) -> Running:
        environment = {
            "RIVA_HOST": riva,
            "PERCH_MAX_SESSIONS": _MOST_SESSIONS,
            "PERCH_MAX_SESSIONS_PER_KEY": _MOST_SESSIONS,
            "PERCH_MAX_SESSIONS_PER_ADDRESS": _MOST_SESSIONS,
            "PERCH_LOG_LEVEL": "warning",
            "PERCH_DRAIN_S": "1",
            **settings,
        }
        port = "0"
        if processes > 1:
            environment["PERCH_REUSE_PORT"] = "true"
            port = str(_free_port())
        options = ("--no-tls", "--backend", "riva", "--host", "127.0.0.1", "--port", port)
        command = (sys.executable, "-m", "perch", "serve", *options)
        all_of_them = [_started(stack, command, environment, _PERCH_LISTENING) for _ in range(processes)]
        return Running(all_of_them[0].address, [pid for one in all_of_them for pid in one.pids])

    return start


def _node(riva: str, stack: ExitStack) -> Running:
    command = ("node", str(build.NODE_GATEWAY), str(build.PROTO))
    environment = {"RIVA": riva, "NODE_PATH": str(build.NODE_MODULES), "NODE_ENV": "production"}
    return _started(stack, command, environment, _LISTENING)


def _go(**settings: str) -> Callable[[str, ExitStack], Running]:
    return lambda riva, stack: _started(
        stack, (str(build.GO_GATEWAY),), {"RIVA": riva, **settings}, _LISTENING
    )


def _nothing() -> None:
    """Perch is installed where this runs."""


PEERS = (
    Peer(DIRECT, "direct gRPC", _nothing, _direct),
    Peer("perch", "Perch", _nothing, _perch()),
    Peer("perch-grpc", "Perch, grpcio's transport", _nothing, _perch(PERCH_GRPC_TRANSPORT="grpc")),
    Peer("perch-2", "Perch, two processes", _nothing, _perch(2)),
    Peer("node", "Node: ws, grpc-js", build.node, _node),
    Peer("go", "Go: gorilla, grpc-go", build.go, _go()),
    Peer("go-1", "Go, GOMAXPROCS=1", build.go, _go(GOMAXPROCS="1")),
)


# --- processes ---------------------------------------------------------------------------------------


def _started(
    stack: ExitStack, command: Sequence[str], environment: Mapping[str, str], ready: re.Pattern[bytes]
) -> Running:
    """``command`` until the stack is left, in a directory of its own, so that no ``.env`` is read."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PERCH_", "RIVA_", "ASR_"))}
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 # the stack closes it
    process = stack.enter_context(
        subprocess.Popen(
            command,
            cwd=directory,
            env={**clean, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=log,
        )
    )
    stack.callback(_stop, process)
    address = _address(process, ready)
    if address is None:
        log.seek(0)
        said = log.read().decode(errors="replace")[-2000:]
        raise ProcessFailed(f"{command[0]} was not ready in time. It said:\n{said}")
    return Running(address if address[0] != ":" else f"127.0.0.1{address}", [process.pid])


def _address(process: "subprocess.Popen[bytes]", ready: re.Pattern[bytes]) -> str | None:
    """Where it listens, by what it prints; None if it ends or takes too long."""
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + _READY_S
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(max(deadline - time.monotonic(), 0)):
            piece = os.read(process.stdout.fileno(), 4096)
            said += piece
            if found := ready.search(said):
                return found[1].decode()
            if not piece:
                break
    return None


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.communicate(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
