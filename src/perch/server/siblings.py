"""The gateway processes of one machine, which ask each other for sessions over Unix sockets.

Each listens on ``state_dir/run/<id>.sock``. A question is a line of JSON. One for a session is answered ``yes``
(it is in its file now) or ``no``; one for metrics with their exposition, to the end of the connection.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import orjson
import structlog

log = structlog.get_logger(__name__)

Give = Callable[[str, str], Awaitable[bool]]
"""Called with token and principal; True when the session was let go of."""

Render = Callable[[], bytes]
"""The metrics of this process."""

_ASK_S = 2.0
_MAX_LINE = 4096
_MAX_METRICS = 4 << 20
_METRICS = b'{"metrics": true}\n'


class Siblings:
    """This process among the others that share ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = f"{secrets.token_hex(4)}.sock"

    @asynccontextmanager
    async def listening(self, give: Give, render: Render = lambda: b"") -> AsyncIterator[None]:
        """Answer the others while the block runs. Without a usable folder nobody is, and the log says so."""
        try:
            server = await self._listen(give, render)
        except OSError as error:
            log.warning("no_handoff", problem=str(error), folder=str(self._folder))
            server = None
        try:
            yield
        finally:
            if server is not None:
                _remove(self._folder / self._own)
                server.close()
                await server.wait_closed()

    async def _listen(self, give: Give, render: Render) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _answer(reader, writer, give, render)

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _reachable(self._folder / self._own) as path:
            server = await asyncio.start_unix_server(answer, path, limit=_MAX_LINE)
            os.chmod(path, 0o600)  # noqa: PTH101 - as short as the socket was bound by
            return server

    async def ask(self, token: str, principal: str) -> bool:
        """Whether one of the others has now put this session into its file."""
        question = orjson.dumps({"token": token, "principal": principal}) + b"\n"
        return any(answer == b"yes\n" for _, answer in await self._ask_all(question))

    async def metrics(self) -> list[tuple[str, bytes]]:
        """The exposition of each of the others, under its name."""
        return [(name, answer) for name, answer in await self._ask_all(_METRICS) if answer]

    @property
    def name(self) -> str:
        """What tells this process from the others."""
        return self._own.removesuffix(".sock")

    async def _ask_all(self, question: bytes) -> list[tuple[str, bytes]]:
        try:
            others = sorted(path for path in self._folder.glob("*.sock") if path.name != self._own)
        except OSError:
            return []
        answers = await asyncio.gather(*(_ask(path, question) for path in others))
        return [(path.stem, answer) for path, answer in zip(others, answers, strict=True)]


async def _ask(path: Path, question: bytes) -> bytes:
    """The whole answer of one process; nothing if it does not answer."""
    try:
        async with asyncio.timeout(_ASK_S):
            with _reachable(path) as reachable:
                reader, writer = await asyncio.open_unix_connection(reachable, limit=_MAX_METRICS)
            try:
                writer.write(question)
                return await reader.read(-1)
            finally:
                writer.close()
    except (ConnectionRefusedError, FileNotFoundError):
        _remove(path)  # its process was killed
    except (OSError, TimeoutError) as error:
        log.warning("sibling_silent", problem=str(error) or type(error).__name__)
    return b""


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, give: Give, render: Render
) -> None:
    answer = b"no\n"
    try:
        async with asyncio.timeout(_ASK_S):
            line = await reader.readline()
            if line == _METRICS:
                answer = render()
            else:
                question = orjson.loads(line)
                if await give(str(question["token"]), str(question["principal"])):
                    answer = b"yes\n"
    except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
        log.warning("sibling_question_failed", problem=type(error).__name__)
    finally:
        with suppress(OSError):
            writer.write(answer)
            await writer.drain()
        writer.close()


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


@contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """``path`` in a form that fits into the 108 bytes of a Unix socket's address."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
