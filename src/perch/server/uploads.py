"""Recordings that arrive in the body of a request: onto disk as they come, up to a limit."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from perch import errors

_IN_MEMORY = 1 << 20
_CHUNK = 1 << 16
_SILENCE_S = 30.0
"""A client that sends nothing for so long has gone."""
_MAX_FIELDS = 2000
_DAMAGED = (ValueError, AssertionError, OSError, RuntimeError, HttpProcessingError, web.HTTPException)
"""What aiohttp raises over a body that is not what its type says."""
_MAX_FIELD = 64 << 10


@dataclass
class Upload:
    """A recording and what came with it. ``file`` is at its start."""

    file: BinaryIO
    fields: list[tuple[str, str]] = field(default_factory=list)
    size: int = 0
    sha256: str = ""


@asynccontextmanager
async def uploaded(request: web.Request, limit: int) -> AsyncIterator[Upload]:
    """The recording in the body of ``request``, a form or the bytes themselves, while the block runs.

    Raises:
        MessageTooBig: It has more than ``limit`` bytes.
        BadMessage: The body is not what its type says, or breaks off.
    """
    if request.content_length is not None and request.content_length > limit + _MAX_FIELD:
        raise _too_big(limit)
    with SpooledTemporaryFile(max_size=_IN_MEMORY) as file:
        upload = Upload(cast("BinaryIO", file))
        try:
            if request.content_type == "multipart/form-data":
                await _read_form(request, upload, limit)
            else:
                await _read(request.content.iter_chunked(_CHUNK), upload, limit)
        except _DAMAGED as error:
            raise errors.BadMessage("The body is damaged or breaks off; send it again.") from error
        file.seek(0)
        yield upload


async def _read_form(request: web.Request, upload: Upload, limit: int) -> None:
    reader = await request.multipart()
    has_file = False
    while (part := await _in_time(reader.next())) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise errors.BadMessage("Each part of the form must have a name, and none may hold another form.")
        if len(upload.fields) >= _MAX_FIELDS:
            raise errors.BadMessage(f"The form has more than {_MAX_FIELDS} fields.")
        if part.name == "file":
            has_file = True
            await _read(_chunks(part), upload, limit)
        else:
            upload.fields.append((part.name, await _text(part)))
    if not has_file:
        raise errors.BadMessage("The form has no part named file: put the recording there.")


async def _text(part: BodyPartReader) -> str:
    value = bytearray()
    async for chunk in _chunks(part):
        value += chunk
        if len(value) > _MAX_FIELD:
            raise errors.MessageTooBig(f"The field {part.name!r} has more than {_MAX_FIELD} bytes.")
    return value.decode()


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    while chunk := await part.read_chunk(_CHUNK):
        yield chunk


async def _read(chunks: AsyncIterator[bytes], upload: Upload, limit: int) -> None:
    digest = hashlib.sha256()
    while (chunk := await _in_time(anext(chunks, b""))) != b"":
        upload.size += len(chunk)
        if upload.size > limit:
            raise _too_big(limit)
        digest.update(chunk)
        upload.file.write(chunk)
    upload.sha256 = digest.hexdigest()


async def _in_time(awaitable: Any) -> Any:
    try:
        async with asyncio.timeout(_SILENCE_S):
            return await awaitable
    except TimeoutError as error:
        raise errors.IdleTimeout(f"Nothing of the body came for {_SILENCE_S:g} s; send it again.") from error


def _too_big(limit: int) -> errors.MessageTooBig:
    return errors.MessageTooBig(
        f"The recording has more than {limit >> 20} MiB; send it in parts, or as a stream."
    )
