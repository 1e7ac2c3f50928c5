"""Pulling weights: resumed after any break, verified, all or nothing; a real server and a real disk."""

import asyncio
import bz2
import hashlib
import io
import json
import os
import random
import tarfile
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from yarl import URL

from perch.errors import ModelUnavailable
from perch.registry.cache import ModelCache
from perch.registry.catalogue import Entry, Weights
from perch.registry.download import Puller
from perch.registry.hub import Hub
from perch.registry.patience import Patience
from registry.fake_hub import FakeHub, Told, fake_hub

ENCODER = random.Random(1).randbytes(300_000)
FILES = {"encoder.onnx": ENCODER, "tokens.txt": b"a 0\nb 1\n", "README.md": b"# about", "sub/x.onnx": b"x"}
WEIGHTS = Weights("sherpa-onnx", "cpu", 0.0003, "acme/tiny", ("encoder.onnx", "*.txt"))
ENTRY = Entry(
    id="tiny",
    engine_model="acme/tiny",
    tier="fast",
    languages=("en",),
    decoder="tdt",
    punctuation=True,
    memory_gb=0.1,
    licence="CC0",
    weights=(WEIGHTS,),
)
QUICK = Patience(tries=3, first_wait_s=0.01, max_wait_s=2.0, unreachable_s=0.1)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "models")


def serving(**parts: object) -> AbstractAsyncContextManager[FakeHub]:
    return fake_hub(**{"repositories": {"acme/tiny": dict(FILES)}, **parts})


def puller(cache: ModelCache, server: FakeHub, hub: Hub | None = None, **changes: Any) -> Puller:
    """One that reports to the server, which cuts connections when it is told that what it sent has come."""
    return replace(Puller(cache, hub or server.as_hub(), server.told, QUICK, read_s=0.3), **changes)


def entry(weights: Weights) -> Entry:
    return replace(ENTRY, weights=(weights,))


async def refusal(puller: Puller, weights: Weights = WEIGHTS) -> str:
    """The message of a pull that must fail, which leaves nothing that passes for weights."""
    with pytest.raises(ModelUnavailable) as refused:
        await puller.pull(entry(weights), weights)
    assert puller.cache.list() == []
    return refused.value.message


async def test_a_pull_has_the_wanted_files_and_what_is_known_of_them(cache: ModelCache) -> None:
    async with serving() as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert held.path == cache.folder / "tiny/sherpa-onnx"
    assert {path.name for path in held.path.iterdir()} == {"encoder.onnx", "tokens.txt", "perch.json"}
    assert (held.path / "encoder.onnx").read_bytes() == ENCODER
    written = json.loads((held.path / "perch.json").read_text(encoding="utf-8"))
    assert (written["id"], written["backend"], written["source"]) == ("tiny", "sherpa-onnx", "acme/tiny")
    assert written["revision"] == "c0ffee"
    assert written["files"]["encoder.onnx"] == {
        "size": len(ENCODER),
        "sha256": hashlib.sha256(ENCODER).hexdigest(),
    }
    assert cache.find(ENTRY) == [held]
    assert cache.verify(held) == {}
    assert not cache.workplace("tiny", "sherpa-onnx").exists()
    assert server.told.sizes == {"encoder.onnx": len(ENCODER), "tokens.txt": 8}
    assert server.told.positions["encoder.onnx"][-1] == len(ENCODER)


async def test_what_is_here_is_not_asked_for_again(cache: ModelCache) -> None:
    async with serving() as server:
        first = await puller(cache, server).pull(ENTRY, WEIGHTS)
        server.asked.clear()
        assert await puller(cache, server).pull(ENTRY, WEIGHTS) == first
        assert server.asked == []


async def test_the_token_goes_to_the_hub_and_not_where_it_redirects(cache: ModelCache) -> None:
    async with serving() as server:
        await puller(cache, server, server.as_hub("hf_secret")).pull(ENTRY, WEIGHTS)
    sent = {asked.where: set[str | None]() for asked in server.asked}
    for asked in server.asked:
        sent[asked.where].add(asked.authorization)
    assert sent == {"hub": {"Bearer hf_secret"}, "cdn": {None}}
    assert "hf_secret" not in repr(server.as_hub("hf_secret"))


async def test_a_connection_that_breaks_goes_on_where_it_broke(cache: ModelCache) -> None:
    async with serving(cuts={"encoder.onnx": [100_000, 50_000, 1, 40_000]}) as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "encoder.onnx").read_bytes() == ENCODER
    asked = server.requests_for("encoder.onnx")
    assert len(asked) == 5, "more breaks than tries in a row are allowed: each brought something"
    assert asked[0].range is None
    starts = [int((one.range or "").removeprefix("bytes=").removesuffix("-")) for one in asked[1:]]
    assert starts == sorted(set(starts)), "each went on further than the one before"
    assert all(one.if_range for one in asked[1:])
    assert server.served["encoder.onnx"] < len(ENCODER) + 4 * 32_768, "at most what was on its way came twice"
    assert any("trying again" in line for line in server.told.said)


async def test_a_server_that_says_nothing_more_is_asked_again(cache: ModelCache) -> None:
    async with serving(stalls={"encoder.onnx": 100_000}) as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "encoder.onnx").read_bytes() == ENCODER
    assert [one.range is None for one in server.requests_for("encoder.onnx")] == [True, False]


async def test_breaks_without_end_end_the_pull_and_the_next_one_fetches_the_rest(cache: ModelCache) -> None:
    async with serving(cuts={"encoder.onnx": [200_000, 0, 0]}) as server:
        message = await refusal(puller(cache, server))
        assert "run it again to go on" in message
        server.served.clear()
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "encoder.onnx").read_bytes() == ENCODER
    assert server.served["encoder.onnx"] <= len(ENCODER) - 150_000


async def test_a_file_that_changed_since_the_break_is_fetched_anew(cache: ModelCache) -> None:
    """Its ETag is another one, and the digest of the old beginning is forgotten."""
    other = random.Random(2).randbytes(280_000)
    async with serving(cuts={"encoder.onnx": [200_000, 0, 0]}) as server:
        await refusal(puller(cache, server))
        server.repositories["acme/tiny"]["encoder.onnx"] = other
        server.revision = "beef"
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "encoder.onnx").read_bytes() == other
    assert held.manifest.revision == "beef"
    assert server.requests_for("encoder.onnx")[-1].range is not None


async def test_small_files_of_another_commit_are_not_kept(cache: ModelCache) -> None:
    """They have no digest that would tell: the same size says nothing."""
    async with serving(cuts={"encoder.onnx": [0, 0, 0]}) as server:
        server.repositories["acme/tiny"] = {"tokens.txt": b"a 0\nb 1\n", "encoder.onnx": ENCODER}
        await refusal(puller(cache, server))
        server.repositories["acme/tiny"]["tokens.txt"] = b"c 0\nd 1\n"
        server.revision = "beef"
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "tokens.txt").read_bytes() == b"c 0\nd 1\n"


async def test_a_file_with_a_wrong_digest_is_deleted_and_named(cache: ModelCache) -> None:
    wrong = bytes(reversed(ENCODER))
    async with serving(lies={"encoder.onnx": wrong}) as server:
        message = await refusal(puller(cache, server))
        assert hashlib.sha256(wrong).hexdigest() in message
        assert hashlib.sha256(ENCODER).hexdigest() in message
        assert not list(cache.folder.rglob("encoder.onnx*"))
        server.lies.clear()
        await puller(cache, server).pull(ENTRY, WEIGHTS)


async def test_a_page_of_a_proxy_does_not_replace_what_came(cache: ModelCache) -> None:
    async with serving(cuts={"encoder.onnx": [200_000, 0, 0]}) as server:
        await refusal(puller(cache, server))
        server.lies["encoder.onnx"] = b"<html>Please log in</html>"
        assert "sent 26 bytes as encoder.onnx" in await refusal(puller(cache, server))
        server.lies.clear()
        server.served.clear()
        await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert server.served["encoder.onnx"] <= len(ENCODER) - 150_000


async def test_the_catalogues_digest_counts_more_than_the_hubs(cache: ModelCache) -> None:
    pinned = replace(WEIGHTS, sha256=MappingProxyType({"tokens.txt": "0" * 64}))
    async with serving() as server:
        assert "0" * 64 in await refusal(puller(cache, server), pinned)


async def test_a_server_that_asks_to_wait_is_waited_for(cache: ModelCache) -> None:
    async with serving(answers=[(429, {"Retry-After": "1"}), (503, {})]) as server:
        await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert "status 429" in server.told.said[0]
    assert "again in 1.0 s" in server.told.said[0]
    assert "status 503" in server.told.said[1]


async def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(cache: ModelCache) -> None:
    async with serving(answers=[(429, {"Retry-After": "3600"})]) as server:
        message = await refusal(puller(cache, server))
    assert "status 429" in message
    assert server.told.said == []


@pytest.mark.parametrize(
    ("parts", "weights", "token", "about"),
    [
        ({"gated": True}, WEIGHTS, None, ["gated", "accept its licence at", "HF_TOKEN is not set"]),
        ({"gated": True}, WEIGHTS, "t", ["HF_TOKEN is set, but may not read it"]),
        ({}, replace(WEIGHTS, repository="acme/none"), None, ["no repository acme/none", "private"]),
        ({}, replace(WEIGHTS, files=("gone.onnx",)), None, ["no file gone.onnx"]),
        ({}, replace(WEIGHTS, backend="nemo", files=("*.nemo",)), None, ["holds no *.nemo"]),
        (
            {"answers": [(404, {"X-Error-Code": "RevisionNotFound"})]},
            WEIGHTS,
            None,
            ["has no revision 'main'"],
        ),
        (
            {"answers": [(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]},
            WEIGHTS,
            "t",
            ["does not know the token in HF_TOKEN"],
        ),
    ],
)
async def test_a_refusal_says_what_to_do(
    cache: ModelCache, parts: dict[str, object], weights: Weights, token: str | None, about: list[str]
) -> None:
    async with serving(**parts) as server:
        message = await refusal(puller(cache, server, server.as_hub(token)), weights)
    assert all(words in message for words in about), message
    assert len(server.asked) == 1, "a refusal is final"


async def test_without_a_network_the_message_comes_soon_and_names_the_folder(cache: ModelCache) -> None:
    nobody = Hub(URL("http://127.0.0.1:1"))
    told = Told()
    started = asyncio.get_running_loop().time()
    message = await refusal(Puller(cache, nobody, told, QUICK))
    assert asyncio.get_running_loop().time() - started < 2
    assert told.said, "it was tried again"
    assert "127.0.0.1 cannot be reached (connection refused)" in message
    assert f"Missing in {cache.folder / 'tiny/sherpa-onnx'}: encoder.onnx" in message


async def test_offline_no_connection_is_tried_and_what_is_missing_is_named(cache: ModelCache) -> None:
    async with serving() as server:
        offline = replace(server.as_hub(), offline=True)
        message = await refusal(Puller(cache, offline))
    assert server.asked == []
    place = cache.folder / "tiny/sherpa-onnx"
    assert f"Missing in {place}: encoder.onnx" in message
    assert "perch models pull tiny --backend sherpa-onnx" in message
    assert not cache.folder.exists(), "looking writes nothing"


async def test_offline_files_that_were_copied_by_hand_are_checked_and_taken(cache: ModelCache) -> None:
    place = cache.place("tiny", "sherpa-onnx")
    place.mkdir(parents=True)
    (place / "encoder.onnx").write_bytes(ENCODER)
    offline = Puller(cache, Hub(URL("http://127.0.0.1:1"), offline=True))
    pinned = replace(WEIGHTS, files=("encoder.onnx", "tokens.txt"))
    assert "Missing" in (message := await refusal(offline, pinned))
    assert "encoder.onnx" not in message
    (place / "tokens.txt").write_bytes(FILES["tokens.txt"])
    wrong = replace(pinned, sha256=MappingProxyType({"encoder.onnx": "1" * 64}))
    assert "1" * 64 in await refusal(offline, wrong)
    held = await offline.pull(entry(pinned), pinned)
    assert held.path == place
    assert set(held.manifest.files) == {"encoder.onnx", "tokens.txt"}


async def test_offline_files_of_unknown_digests_must_have_about_the_size_that_is_known(
    cache: ModelCache,
) -> None:
    place = cache.place("tiny", "sherpa-onnx")
    place.mkdir(parents=True)
    (place / "README.md").write_bytes(ENCODER)  # it is no part of the weights
    (place / "tokens.txt").write_bytes(FILES["tokens.txt"])
    offline = Puller(cache, Hub(URL("http://127.0.0.1:1"), offline=True))
    for size in (1000, 260_000, 340_000):
        (place / "encoder.onnx").write_bytes(bytes(size))
        message = await refusal(offline)
        assert "acme/tiny has about 0.0003 GB" in message
    digest = hashlib.sha256(bytes(340_000)).hexdigest()
    other = hashlib.sha256(FILES["tokens.txt"]).hexdigest()
    known = replace(WEIGHTS, sha256=MappingProxyType({"encoder.onnx": digest, "tokens.txt": other}))
    assert (await offline.pull(entry(known), known)).path == place, "a digest says more than a size"


async def test_offline_an_unpacked_archive_may_be_larger_than_the_archive(cache: ModelCache) -> None:
    archived = replace(WEIGHTS, repository="", files=(), archive="https://example/x.tar.bz2")
    place = cache.place("tiny", "sherpa-onnx")
    place.mkdir(parents=True)
    (place / "tokens.txt").write_bytes(FILES["tokens.txt"])
    offline = Puller(cache, Hub(URL("http://127.0.0.1:1"), offline=True))
    (place / "encoder.onnx").write_bytes(bytes(100_000))
    assert "not these weights" in await refusal(offline, archived)
    (place / "encoder.onnx").write_bytes(bytes(400_000))
    assert (await offline.pull(entry(archived), archived)).path == place


async def test_files_that_were_copied_by_hand_are_not_fetched_again(cache: ModelCache) -> None:
    """Whole ones are kept, a damaged one is fetched."""
    place = cache.place("tiny", "sherpa-onnx")
    place.mkdir(parents=True)
    (place / "encoder.onnx").write_bytes(ENCODER)
    (place / "tokens.txt").write_bytes(b"a 0")
    async with serving() as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (held.path / "tokens.txt").read_bytes() == FILES["tokens.txt"]
    assert server.requests_for("encoder.onnx") == []


@pytest.mark.parametrize(
    ("damaged", "how"),
    [(ENCODER[:1000], "1000 bytes instead of 300000"), (bytes(300_000), "other content of the same size")],
    ids=["cut", "changed"],
)
async def test_offline_a_file_that_is_not_as_it_was_pulled_is_refused_and_stays_told(
    cache: ModelCache, damaged: bytes, how: str
) -> None:
    """The manifest of the pull is not written over with what somebody's disk made of the file."""
    async with serving() as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
        offline = Puller(cache, replace(server.as_hub(), offline=True))
        assert await offline.pull(ENTRY, WEIGHTS) == held
    written = (held.path / "perch.json").read_bytes()
    (held.path / "encoder.onnx").write_bytes(damaged)
    with pytest.raises(ModelUnavailable) as refused:
        await offline.pull(ENTRY, WEIGHTS)
    assert f"{held.path / 'encoder.onnx'}: {how}." in refused.value.message
    assert "perch models pull tiny --backend sherpa-onnx" in refused.value.message
    assert "--offline" not in refused.value.message, "that is what was just refused"
    assert (held.path / "perch.json").read_bytes() == written
    assert cache.verify(held) == {"encoder.onnx": how}


@pytest.mark.parametrize("damaged", [ENCODER[:1000], b"x" * 1000, bytes(300_000)])
async def test_a_pull_fetches_anew_only_what_is_not_as_it_was_pulled(
    cache: ModelCache, damaged: bytes
) -> None:
    async with serving() as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
        (held.path / "encoder.onnx").write_bytes(damaged)
        server.asked.clear()
        again = await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert (again.path / "encoder.onnx").read_bytes() == ENCODER
    assert again.manifest.files == held.manifest.files
    assert [asked.range for asked in server.requests_for("encoder.onnx")] == [None], "whole, at the first try"


async def test_without_a_network_what_differs_stays_and_is_named(cache: ModelCache) -> None:
    async with serving() as server:
        held = await puller(cache, server).pull(ENTRY, WEIGHTS)
    (held.path / "encoder.onnx").write_bytes(b"")
    written = (held.path / "perch.json").read_bytes()
    message = await refusal(Puller(cache, Hub(URL("http://127.0.0.1:1")), Told(), QUICK))
    assert "There is no connection" in message
    assert "encoder.onnx: 0 bytes instead of 300000" in message
    assert (held.path / "perch.json").read_bytes() == written


async def test_two_pulls_at_once_fetch_everything_once(cache: ModelCache) -> None:
    async with serving(stalls={"encoder.onnx": 100_000}) as server:
        first = asyncio.create_task(puller(cache, server, read_s=20.0).pull(ENTRY, WEIGHTS))
        await server.on_stall.wait()
        waiting = Told()
        second = asyncio.create_task(puller(cache, server, report=waiting).pull(ENTRY, WEIGHTS))
        await waiting.until(lambda told: told.said != [])
        assert waiting.said == ["Another process is pulling these weights; waiting for it."]
        with pytest.raises(ModelUnavailable, match="being pulled by another process"):
            cache.remove("tiny", "sherpa-onnx")
        server.go_on.set()
        assert await first == await second
    assert len(server.requests_for("encoder.onnx")) == 1


async def test_a_cancelled_pull_keeps_what_came_and_unlocks(cache: ModelCache) -> None:
    async with serving(stalls={"encoder.onnx": 200_000}) as server:
        pull = asyncio.create_task(puller(cache, server, read_s=20.0).pull(ENTRY, WEIGHTS))
        await server.on_stall.wait()
        pull.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pull
        assert cache.list() == []
        await puller(cache, server).pull(ENTRY, WEIGHTS)
    assert server.requests_for("encoder.onnx")[-1].range is not None


async def test_a_disk_without_room_is_told_before_anything_is_fetched(cache: ModelCache) -> None:
    async with serving() as server:
        message = await refusal(puller(cache, server, free=lambda _: 100_000))
    assert "--models-dir" in message
    assert server.requests_for("encoder.onnx") == []


# --- archives ----------------------------------------------------------------------------------------


def files_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def packed(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:bz2") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


GOOD: dict[str, bytes | tarfile.TarInfo] = {
    "model": special("model", tarfile.DIRTYPE),
    "model/encoder.onnx": ENCODER,
    "model/tokens.txt": b"a 0\n",
    "model/test_wavs/0.wav": b"RIFF",
}


def archived(server: FakeHub) -> Weights:
    return Weights("sherpa-onnx", "cpu", 0.0001, archive=str(server.cdn / "archives/model.tar.bz2"))


async def test_an_archive_is_unpacked_without_its_top_folder(cache: ModelCache) -> None:
    async with serving(archives={"model.tar.bz2": packed(GOOD)}) as server:
        weights = archived(server)
        held = await puller(cache, server, server.as_hub("hf_secret")).pull(entry(weights), weights)
    assert (held.path / "encoder.onnx").read_bytes() == ENCODER
    assert set(held.manifest.files) == {"encoder.onnx", "tokens.txt", "test_wavs/0.wav"}
    assert held.manifest.source == weights.archive
    assert {asked.authorization for asked in server.asked} == {None}
    assert not cache.workplace("tiny", "sherpa-onnx").exists()


async def test_an_archive_that_breaks_off_goes_on_and_is_fetched_once(cache: ModelCache) -> None:
    async with serving(archives={"model.tar.bz2": packed(GOOD)}, cuts={"model.tar.bz2": [100_000]}) as server:
        weights = archived(server)
        await puller(cache, server).pull(entry(weights), weights)
    assert [one.range is None for one in server.requests_for("model.tar.bz2")] == [True, False]


@pytest.mark.parametrize(
    ("members", "about"),
    [
        ({"model/../../evil.txt": b"x"}, "leads outside"),
        ({"/etc/evil.txt": b"x"}, "leads outside"),
        ({"model/x": special("model/x", tarfile.SYMTYPE, "/etc/passwd")}, "link or device"),
        ({"model/x": special("model/x", tarfile.LNKTYPE, "model/tokens.txt")}, "link or device"),
        ({"model/x": special("model/x", tarfile.CHRTYPE)}, "link or device"),
        ({"model/x": special("model/x", tarfile.FIFOTYPE)}, "link or device"),
        ({"evil.txt": b"x"}, "outside of its folder"),
    ],
)
async def test_an_archive_with_a_member_it_should_not_have_leaves_nothing(
    cache: ModelCache, tmp_path: Path, members: dict[str, bytes | tarfile.TarInfo], about: str
) -> None:
    async with serving(archives={"model.tar.bz2": packed({**GOOD, **members})}) as server:
        assert about in await refusal(puller(cache, server), archived(server))
    left = files_under(tmp_path)
    assert "evil.txt" not in left
    assert "model.tar.bz2" not in left, "it would not get better by unpacking it again"


@pytest.mark.parametrize(
    "content", [b"no archive", packed(GOOD)[:-1000], bz2.compress(b"x" * 2000), packed({})]
)
async def test_what_is_no_whole_archive_is_told(cache: ModelCache, content: bytes) -> None:
    async with serving(archives={"model.tar.bz2": content}) as server:
        message = await refusal(puller(cache, server), archived(server))
    assert "is no whole .tar.bz2" in message or "holds no" in message


async def test_an_archive_with_more_than_the_disk_has_room_for_is_not_unpacked(cache: ModelCache) -> None:
    small = packed({"model/encoder.onnx": bytes(10_000_000), "model/tokens.txt": b"a 0\n"})
    async with serving(archives={"model.tar.bz2": small}) as server:
        message = await refusal(puller(cache, server, free=lambda _: 1_000_000), archived(server))
    assert "more than the disk has room for" in message


async def test_an_archive_that_is_gone_is_told(cache: ModelCache) -> None:
    async with serving() as server:
        assert "answered 404" in await refusal(puller(cache, server), archived(server))
