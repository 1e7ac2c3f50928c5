"""Weights that come as one .tar.bz2: unpacked so that nothing gets outside, and nothing but files gets in."""

import asyncio
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from perch.errors import ModelUnavailable

_CHUNK = 1 << 20


async def unpack(archive: Path, into: Path, *, limit: int) -> None:
    """The files of ``archive`` in the empty folder ``into``, without the one folder that holds them all.

    Args:
        archive: The file.
        into: Where to.
        limit: Bytes that all files may have together.

    Raises:
        ModelUnavailable: It is no such archive, or has a member that it should not have.
    """
    try:
        with tarfile.open(archive, "r:bz2") as tar:
            for member in tar:
                path = _path(member, archive.name)
                limit -= member.size
                if limit < 0:
                    raise ModelUnavailable(f"{archive.name} unpacks to more than the disk has room for.")
                if path is not None:
                    await _write(tar, member, into / path)
                await asyncio.sleep(0)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk, not of the archive
        raise ModelUnavailable(f"{archive.name} is no whole .tar.bz2 archive ({error}).") from error


def _path(member: tarfile.TarInfo, archive: str) -> Path | None:
    """Where a member goes, relative to the folder; None for a folder, which is made when it gets a file."""
    parts = PurePosixPath(member.name).parts
    if member.name.startswith("/") or ".." in parts or "\0" in member.name:
        raise ModelUnavailable(f"{archive} has a member that leads outside ({member.name!r}); not unpacked.")
    if member.isdir():
        return None
    if not member.isreg():
        raise ModelUnavailable(f"{archive} has a link or device ({member.name!r}); not unpacked.")
    if len(parts) < 2:
        raise ModelUnavailable(f"{archive} has a file outside of its folder ({member.name!r}); not unpacked.")
    return Path(*parts[1:])


async def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source = cast("BinaryIO", tar.extractfile(member))
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            await asyncio.sleep(0)  # minutes of unpacking: a signal must get through
