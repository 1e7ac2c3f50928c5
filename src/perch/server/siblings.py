"""The gateway processes of one machine, which ask each other for sessions over Unix sockets.

Each listens on ``state_dir/run/<id>.sock``. A question is a line of JSON, the answer is ``yes`` (the session
is in its file now) or ``no``.
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

_ASK_S = 2.0
_MAX_LINE = 4096


class Siblings:
    """This process among the others that share ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = f"{secrets.token_hex(4)}.sock"

    @asynccontextmanager
    async def listening(self, give: Give) -> AsyncIterator[None]:
        """Answer the others while the block runs. Without a usable folder nobody is, and the log says so."""
        try:
            server = await self._listen(give)
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

    async def _listen(self, give: Give) -> asyncio.Server:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _answer(reader, writer, give)

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _reachable(self._folder / self._own) as path:
            server = await asyncio.start_unix_server(answer, path, limit=_MAX_LINE)
            os.chmod(path, 0o600)  # noqa: PTH101 - as short as the socket was bound by
            return server

    async def ask(self, token: str, principal: str) -> bool:
        """Whether one of the others has now put this session into its file."""
        with suppress(OSError):
            others = [path for path in self._folder.glob("*.sock") if path.name != self._own]
            answers = await asyncio.gather(*(_ask(path, token, principal) for path in others))
            return any(answers)
        return False


async def _ask(path: Path, token: str, principal: str) -> bool:
    try:
        async with asyncio.timeout(_ASK_S):
            with _reachable(path) as reachable:
                reader, writer = await asyncio.open_unix_connection(reachable)
            try:
                writer.write(orjson.dumps({"token": token, "principal": principal}) + b"\n")
                return await reader.readline() == b"yes\n"
            finally:
                writer.close()
    except (ConnectionRefusedError, FileNotFoundError):
        _remove(path)  # its process was killed
    except (OSError, TimeoutError) as error:
        log.warning("sibling_silent", problem=str(error) or type(error).__name__)
    return False


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, give: Give) -> None:
    given = False
    try:
        async with asyncio.timeout(_ASK_S):
            question = orjson.loads(await reader.readline())
            given = await give(str(question["token"]), str(question["principal"]))
    except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
        log.warning("sibling_question_failed", problem=type(error).__name__)
    finally:
        with suppress(OSError):
            writer.write(b"yes\n" if given else b"no\n")
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
