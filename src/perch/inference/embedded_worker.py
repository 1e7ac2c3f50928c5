"""The worker processes of the embedded recogniser: one zygote, and a fork of it for every voice.

Decoders hold the interpreter lock for seconds and carry state from one caller to the next. A process per
voice answers both: nothing waits for another's decoding, and every caller starts from the decoders just
as they were loaded, because a fork of the zygote *is* the decoders as they were loaded. The model's pages
stay shared.

The zygote has one thread and never decodes, so forking it is safe. Every process here ends when its
socket does, and a worker also when the zygote does, so nothing outlives the engine however it dies.
"""

import ctypes
import gc
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from perch.inference import embedded_wire as wire
from perch.inference.sphinx import Caller, Sphinx

_PR_SET_PDEATHSIG = 1

_NICER = 5
"""Decoding gives way to the event loop of the engine that feeds it."""


class Zygote:
    """Forks a worker for each socket it is sent, and kills those it is told to."""

    def __init__(self, control: socket.socket, sphinx: Sphinx) -> None:
        self._control = control
        self._sphinx = sphinx
        self._workers: set[int] = set()

    def run(self) -> None:
        """Serve until the engine closes its end."""
        signal.signal(signal.SIGCHLD, self._reap)
        self._control.send(wire.LOADED)
        while True:
            message, sockets, _, _ = socket.recv_fds(self._control, 64, 1)
            if not message:
                return
            if message.startswith(wire.KILL):
                self._kill(int(message[len(wire.KILL) :]))
            else:
                self._fork(socket.socket(fileno=sockets[0]), partials=message == wire.FORK)

    def _fork(self, voice: socket.socket, *, partials: bool) -> None:
        """Fork a worker for ``voice``. If that fails, the closed socket tells the engine."""
        zygote = os.getpid()
        with voice, _children_held():
            try:
                pid = os.fork()
            except OSError:
                traceback.print_exc()
                return
            if pid == 0:
                self._control.close()
                _become_worker(zygote, voice, self._sphinx, partials=partials)
            self._workers.add(pid)

    def _kill(self, pid: int) -> None:
        with _children_held():
            if pid in self._workers:
                os.kill(pid, signal.SIGKILL)

    def _reap(self, _signal: int, _frame: FrameType | None) -> None:
        while self._workers:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._workers.discard(pid)


@contextmanager
def _children_held() -> Iterator[None]:
    """Hold back news of ended children, so that the set of workers is right when it comes."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _become_worker(zygote: int, voice: socket.socket, sphinx: Sphinx, *, partials: bool) -> NoReturn:
    """Serve one voice and end the process, whatever happens: the zygote's code must not run twice."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        _die_with(zygote)
        os.nice(_NICER)
        _serve(voice, Caller(sphinx, partials=partials))
        status = 0
    except ConnectionError:
        status = 0  # the voice was closed while its answer was being worked out
    except BaseException:  # noqa: BLE001 there is no caller to tell, only the log
        traceback.print_exc()
    finally:
        os._exit(status)


def _die_with(parent: int) -> None:
    """Have the kernel end this process when ``parent`` ends, even while it decodes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _serve(voice: socket.socket, caller: Caller) -> None:
    voice.sendall(wire.frame(wire.HELLO, str(os.getpid()).encode()))
    deframer = wire.Deframer()
    while data := voice.recv(1 << 16):
        for kind, body in deframer.feed(data):
            voice.sendall(_answer(caller, kind, body))


def _answer(caller: Caller, kind: bytes, body: bytes) -> bytes:
    if kind == wire.FINISH:
        return wire.frame(wire.FINAL, wire.pack(caller.finish()))
    text = caller.feed(body)
    return wire.frame(wire.SAME) if text is None else wire.frame(wire.TEXT, text.encode())


def main() -> None:
    """``python -m perch.inference.embedded_worker FD``: the zygote, on an inherited socket."""
    control = socket.socket(fileno=int(sys.argv[1]))
    sphinx = Sphinx()
    gc.collect()
    gc.freeze()  # so that a worker's collections do not write to, and thereby copy, the shared pages
    with control, suppress(ConnectionError):  # an engine that closes while this loads is not an error
        Zygote(control, sphinx).run()


if __name__ == "__main__":
    main()
