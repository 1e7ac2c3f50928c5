"""What tests share. Every one gets this: no task may outlive the test that started it."""

import asyncio
import inspect
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import settings

import transports

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # PyTorch's threads, where several processes have one each
settings.register_profile("perch", deadline=None)  # what an example takes is the machine's affair
settings.load_profile("perch")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

logging.getLogger("grpc._cython.cygrpc").setLevel(logging.INFO)  # for the reason in perch.engine.server

_LOOPS: list[asyncio.AbstractEventLoop] = []


@pytest_asyncio.fixture
async def task_guard() -> AsyncIterator[None]:
    # gRPC's answers to a call that was given up may come when its loop is closed, and it holds no reference to
    # the loop (``CallbackWrapper`` in callback_common.pyx.pxi): were it gone, that would write to freed memory.
    _LOOPS.append(asyncio.get_running_loop())
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=10.0)  # tasks already told to end may need a turn of the loop
    leaked = [task for task in left if not task.done()]
    assert not leaked, f"tasks left behind: {leaked}"


@pytest.fixture(autouse=True)
def no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("task_guard")


@pytest.fixture(params=["http2", "grpc"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two transports to engines in turn."""
    monkeypatch.setattr(transports, "current", request.param)
    return str(request.param)
