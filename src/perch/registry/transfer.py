"""One file from the network to the disk: in pieces, from where it broke, and only if its digest is right."""

import asyncio
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from perch.errors import ModelUnavailable
from perch.registry.http import Broken, Client
from perch.registry.hub import RemoteFile
from perch.registry.manifest import FileFacts
from perch.registry.patience import Patience, persist
from perch.registry.report import Report

_CHUNK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


async def fetch(
    client: Client, remote: RemoteFile, target: Path, parts: Path, *, patience: Patience, report: Report
) -> FileFacts:
    """Have ``remote`` at ``target``, whatever of it is there already.

    Args:
        client: Fetches.
        remote: What.
        target: Where it lies in the end; there is nothing or the whole file there at any time.
        parts: Folder of what is not whole yet.
        patience: With breaks.
        report: Told of progress.

    Raises:
        ModelUnavailable: What came has another digest or size than it should; it was deleted.
        Refused: The server does not give it.
        Broken: The connection broke too often; what came stays for the next time.
    """
    part = Part.of(target, parts / f"{remote.name}.part")
    await part.read_again()
    if part.size == remote.size and remote.sha256 not in {None, part.sha256}:
        part.begin(None)  # it has the size, but it is another file

    async def attempt() -> None:
        await _fetch_rest(client, remote, part, report)

    report.at(remote.name, part.size)
    if remote.size is None or part.size != remote.size:
        await persist(attempt, patience, progress=lambda: part.size, say=report.say)
    _check(remote, part)
    part.finish(target)
    report.at(remote.name, part.size)
    return FileFacts(part.size, part.sha256)


@dataclass(slots=True)
class Part:
    """The beginning of a file, its digest, and what shows whether the server still has the same file."""

    path: Path
    size: int = 0
    _digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    @classmethod
    def of(cls, target: Path, path: Path) -> "Part":
        """What there is of ``target``: also all of it, from an earlier run or put there by hand."""
        if target.is_file():
            target.replace(path)
        path.touch()
        return cls(path)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def _note(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    async def read_again(self) -> None:
        """Take up what is there."""
        with self.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                self._digest.update(chunk)
                self.size += len(chunk)
                await asyncio.sleep(0)  # gigabytes: a signal must get through

    def validator(self) -> str | None:
        """The ETag or date of the file that this is the beginning of."""
        try:
            return str(json.loads(self._note.read_text(encoding="utf-8"))["validator"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self, validator: str | None) -> None:
        """Forget what is there."""
        self.path.write_bytes(b"")
        self._note.unlink(missing_ok=True)
        if validator is not None:
            self._note.write_text(json.dumps({"validator": validator}), encoding="utf-8")
        self.size, self._digest = 0, hashlib.sha256()

    async def append(self, response: aiohttp.ClientResponse, name: str, report: Report) -> None:
        # Unbuffered: a process that is killed leaves all that came.
        with self.path.open("ab", buffering=0) as file:
            async for chunk in response.content.iter_any():
                file.write(chunk)
                self._digest.update(chunk)
                self.size += len(chunk)
                report.at(name, self.size)

    def finish(self, target: Path) -> None:
        """Give it its name, on the disk before this returns."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def delete(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


async def _fetch_rest(client: Client, remote: RemoteFile, part: Part, report: Report) -> None:
    """One request for what is missing."""
    if remote.size is not None and part.size > remote.size:
        part.begin(None)
    async with client.get(remote.url, _resuming(remote, part)) as response:
        size = _begin_or_go_on(response, remote, part)
        await part.append(response, remote.name, report)
    size = size if remote.size is None else remote.size
    if size is not None and part.size < size:
        raise Broken(f"the connection ended after {part.size} of {size} bytes of {remote.name}")


def _resuming(remote: RemoteFile, part: Part) -> Mapping[str, str]:
    """The headers that ask for the rest of the same file, or for all of another one."""
    validator = part.validator()
    if part.size == 0 or (validator is None and remote.sha256 is None):
        return {}
    asked = {"Range": f"bytes={part.size}-"}
    return asked if validator is None else {**asked, "If-Range": validator}


def _begin_or_go_on(response: aiohttp.ClientResponse, remote: RemoteFile, part: Part) -> int | None:
    """Make ``part`` fit what the server sends; the size that the whole will have, if it is told."""
    if response.status == 416:  # there is nothing after what we have: it was another file's
        part.begin(None)
        raise Broken("the file has changed at its source")
    if response.status == 206:
        told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if told is None or int(told[1]) != part.size:
            part.begin(None)
            raise Broken("another piece came than was asked for")
        return None if told[2] == "*" else int(told[2])
    size = response.content_length
    if None not in {size, remote.size} and size != remote.size:  # such as a proxy's page: keep what we have
        raise Broken(f"{response.url.host} sent {size} bytes as {remote.name} instead of {remote.size}")
    part.begin(_validator_of(response))
    return size


def _validator_of(response: aiohttp.ClientResponse) -> str | None:
    etag = response.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
        return etag
    return response.headers.get("Last-Modified")


def _check(remote: RemoteFile, part: Part) -> None:
    if remote.size is not None and part.size != remote.size:
        problem = f"has {part.size} bytes instead of {remote.size}"
    elif remote.sha256 is not None and part.sha256 != remote.sha256:
        problem = f"has the SHA-256 {part.sha256} instead of {remote.sha256}"
    else:
        return
    part.delete()
    raise ModelUnavailable(
        f"{remote.name} from {remote.url.host} {problem}, so it was deleted. Try again; if it happens again, "
        "the file was changed at its source or on the way."
    )
