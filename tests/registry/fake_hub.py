"""A hub on loopback that speaks the real one's interface, and its content network on another port."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from perch.registry.hub import Hub

_LARGE = (".onnx", ".safetensors", ".nemo", ".bz2")
_PIECE = 1 << 14


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    where: str
    path: str
    authorization: str | None
    range: str | None
    if_range: str | None


@dataclass
class Told:
    """What a pull reports, and a way to wait for it."""

    said: list[str] = field(default_factory=list)
    positions: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[str, int | None] = field(default_factory=dict)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, name: str, size: int | None) -> None:
        self.sizes[name] = size
        self.positions[name] = [0]

    def at(self, name: str, position: int) -> None:
        self.positions[name].append(position)
        self.moved.set()

    def say(self, text: str) -> None:
        self.said.append(text)
        self.moved.set()

    async def until(self, condition: Callable[["Told"], bool]) -> None:
        while not condition(self):
            self.moved.clear()
            await self.moved.wait()

    async def until_at(self, name: str, position: int) -> None:
        """Until so much of a file is on the disk."""
        await self.until(lambda told: told.positions.get(name, [0])[-1] >= position)


@dataclass
class FakeHub:
    """What it has, how it misbehaves, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    archives: dict[str, bytes] = field(default_factory=dict)
    revision: str = "c0ffee"
    gated: bool = False
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Refusals of the next requests, whatever they ask."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File → bytes after which the connection is cut, for each of the next requests."""
    stalls: dict[str, int] = field(default_factory=dict)
    """File → bytes after which nothing comes any more."""
    lies: dict[str, bytes] = field(default_factory=dict)
    """File → what is sent instead of it."""
    asked: list[Asked] = field(default_factory=list)
    served: dict[str, int] = field(default_factory=dict)
    """File → bytes that were sent of it."""
    told: Told = field(default_factory=Told)
    """Waited for before a cut, so that what was sent has come."""
    is_told: bool = True
    """False if the client is another process."""
    on_stall: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    hub: URL = field(default_factory=URL)
    cdn: URL = field(default_factory=URL)

    def as_hub(self, token: str | None = None) -> Hub:
        return Hub(self.hub, token)

    def requests_for(self, name: str) -> list[Asked]:
        """Those for the bytes of a file, where they come from in the end."""
        return [asked for asked in self.asked if asked.path.endswith(f"/{name}") and asked.where == "cdn"]

    # What it answers.

    async def describe(self, request: web.Request) -> web.Response:
        self._log("hub", request)
        repository = request.match_info["repository"]
        if refusal := self._refusal(repository):
            return refusal
        siblings = []
        for name, content in self.repositories[repository].items():
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            if name.endswith(_LARGE):
                sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            siblings.append(sibling)
        return web.json_response({"sha": self.revision, "siblings": siblings})

    async def resolve(self, request: web.Request) -> web.Response:
        self._log("hub", request)
        if refusal := self._refusal(request.match_info["repository"]):
            return refusal
        if request.match_info["revision"] != self.revision:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        name = request.match_info["name"]
        if name not in self.repositories[request.match_info["repository"]]:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        raise web.HTTPFound(self.cdn / "blobs" / request.match_info["repository"] / name % {"sig": "a+b/c="})

    def _refusal(self, repository: str) -> web.Response | None:
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.Response(status=status, headers=headers)
        if repository not in self.repositories:
            return web.Response(status=401, headers={"X-Error-Code": "RepoNotFound"})
        if self.gated:
            return web.Response(status=403, headers={"X-Error-Code": "GatedRepo"})
        return None

    async def blob(self, request: web.Request) -> web.StreamResponse:
        self._log("cdn", request)
        name = request.match_info["name"]
        files = {**self.archives, **self.repositories.get(request.match_info.get("repository", ""), {})}
        if name not in files:
            return web.Response(status=404)
        content = self.lies.get(name, files[name])
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        start = _start(request, etag)
        if start is not None and start >= len(content):
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(content)}"})
        response = web.StreamResponse(status=200 if start is None else 206, headers={"ETag": etag})
        if start is not None:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response.content_length = len(content) - (start or 0)
        await response.prepare(request)
        await self._send(request, response, content, start or 0)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, content: bytes, begin: int
    ) -> None:
        name = request.match_info["name"]
        cut = self.cuts[name].pop(0) if self.cuts.get(name) else None
        stall = self.stalls.pop(name, None)
        for start in range(begin, len(content), _PIECE):
            if cut is not None and start - begin >= cut:
                await self._has_come(name, start)
                assert request.transport is not None
                request.transport.close()
                return
            if stall is not None and start - begin >= stall:
                await self._has_come(name, start)
                self.on_stall.set()
                await self.go_on.wait()
            piece = content[start : start + _PIECE]
            await response.write(piece)
            self.served[name] = self.served.get(name, 0) + len(piece)

    async def _has_come(self, name: str, position: int) -> None:
        if self.is_told:
            await self.told.until_at(name, position)

    def _log(self, where: str, request: web.Request) -> None:
        headers = request.headers
        self.asked.append(
            Asked(
                where,
                request.path,
                headers.get("Authorization"),
                headers.get("Range"),
                headers.get("If-Range"),
            )
        )


def _start(request: web.Request, etag: str) -> int | None:
    wanted = request.headers.get("Range")
    if wanted is None or request.headers.get("If-Range", etag) != etag:
        return None
    return int(wanted.removeprefix("bytes=").removesuffix("-"))


@asynccontextmanager
async def fake_hub(**parts: object) -> AsyncIterator[FakeHub]:
    """A hub that runs while the block does."""
    hub = FakeHub(**parts)  # type: ignore[arg-type]
    front, behind = web.Application(), web.Application()
    repository = r"{repository:[^/]+/[^/]+}"
    front.router.add_get(f"/api/models/{repository}/revision/{{revision}}", hub.describe)
    front.router.add_get(f"/{repository}/resolve/{{revision}}/{{name}}", hub.resolve)
    behind.router.add_get(f"/blobs/{repository}/{{name}}", hub.blob)
    behind.router.add_get("/archives/{name}", hub.blob)
    async with _serving(front) as hub.hub, _serving(behind) as hub.cdn:
        try:
            yield hub
        finally:
            hub.go_on.set()


@asynccontextmanager
async def _serving(application: web.Application) -> AsyncIterator[URL]:
    server = TestServer(application)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield server.make_url("").with_path("")
    finally:
        await server.close()
