"""Weights into the cache: all of them or none, and what came stays for the next try."""

import asyncio
import fnmatch
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from yarl import URL

from perch.core.command import command
from perch.errors import ModelUnavailable
from perch.registry.amiss import missing_files, pull_command, unmatched
from perch.registry.archive import unpack
from perch.registry.cache import Held, ModelCache
from perch.registry.catalogue import Entry, Weights
from perch.registry.http import Broken, Client, Refused, Unreachable
from perch.registry.hub import Hub, RemoteFile, explained, list_files
from perch.registry.manifest import NAME, FileFacts, Manifest, sha256_of
from perch.registry.patience import Patience, persist
from perch.registry.report import Quiet, Report
from perch.registry.transfer import fetch

_UNPACKED = 1.5
"""Bytes of an archive's content, about, for each of its own: weights hardly compress."""

_TOLERANCE = 0.1
"""How far, as a share, files of unknown digests may be from the size that the catalogue tells."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class Puller:
    """Pulls weights into ``cache``.

    Args:
        cache: Where they go.
        hub: Where those that lie in repositories come from.
        report: Told of progress.
        patience: With a network that breaks.
        read_s: Seconds without a byte after which a connection counts as broken.
        free: Bytes that a folder has room for.
    """

    cache: ModelCache
    hub: Hub = field(default_factory=Hub)
    report: Report = field(default_factory=Quiet)
    patience: Patience = field(default_factory=Patience)
    read_s: float = 30.0
    free: Callable[[Path], int] = _free

    async def pull(self, entry: Entry, weights: Weights) -> Held:
        """Have ``weights`` in the cache; nothing is fetched if they are there with the digests they had.

        Raises:
            ModelUnavailable: They cannot be had; the message says why, and what to do.
            OSError: The cache cannot be written.
        """
        held, wrong = await self._here(entry, weights)  # before any lock: the folder may be read-only
        if held is not None and not wrong:
            return held
        self._check_offline(entry, weights, wrong)
        async with self.cache.lock(entry.id, weights.backend).taken(self._say_waiting):
            held, wrong = await self._here(entry, weights)
            return held if held is not None and not wrong else await self._pull(entry, weights, wrong)

    async def _here(self, entry: Entry, weights: Weights) -> tuple[Held | None, Mapping[str, str]]:
        """What was pulled before, and which of its files differ from what came then."""
        held = self.cache.record(entry.id, weights.backend)
        if held is None:
            return None, _NOTHING
        self.report.say("These weights were pulled before; comparing them with their digests.")
        return held, await asyncio.to_thread(self.cache.verify, held)

    def _check_offline(self, entry: Entry, weights: Weights, wrong: Mapping[str, str]) -> None:
        """Without a network only whole weights can be taken, and no manifest is written over one that differs."""
        if self.hub.offline and (wrong or missing_files(self.cache, entry, weights)):
            raise absent(self.cache, entry, weights, "Offline, so no connection was tried.", wrong)

    def _say_waiting(self) -> None:
        self.report.say("Another process is pulling these weights; waiting for it.")

    async def _pull(self, entry: Entry, weights: Weights, wrong: Mapping[str, str]) -> Held:
        work = _Work(self.cache.workplace(entry.id, weights.backend), tuple(wrong))
        if self.hub.offline:
            self._check_offline(entry, weights, wrong)
            return self._finish(self._adopted(entry, weights, work), work)
        work.open()
        try:
            async with Client(self.hub.endpoint, self.hub.token, read_s=self.read_s) as client:
                fetching = self._from_archive if weights.archive else self._from_hub
                manifest = await fetching(client, entry, weights, work)
        except Unreachable as error:
            why = f"There is no connection: {error}."
            raise absent(self.cache, entry, weights, why, wrong) from error
        except Broken as error:
            raise ModelUnavailable(
                f"The pull of {entry.id} was given up: {error}. What came is kept; run it again to go on."
            ) from error
        return self._finish(manifest, work)

    async def _from_hub(self, client: Client, entry: Entry, weights: Weights, work: "_Work") -> Manifest:
        listing = await persist(
            lambda: list_files(client, self.hub, weights), self.patience, say=self.report.say
        )
        work.take_up(self.cache.place(entry.id, weights.backend))
        work.keep_only(weights.source, listing.revision, listing.files)
        _check_complete(weights, [remote.name for remote in listing.files], weights.source)
        self._check_room(_total(listing.files, weights) - work.bytes())
        for remote in listing.files:
            self.report.begin(remote.name, remote.size)
        try:
            files = {
                remote.name: await fetch(
                    client,
                    remote,
                    work.files / remote.name,
                    work.folder,
                    patience=self.patience,
                    report=self.report,
                )
                for remote in listing.files
            }
        except Refused as refused:
            raise explained(refused, self.hub, weights) from refused
        return _manifest(entry, weights, listing.revision, files)

    async def _from_archive(self, client: Client, entry: Entry, weights: Weights, work: "_Work") -> Manifest:
        url = URL(weights.archive)
        archive = work.folder / url.name
        if not archive.is_file():  # whole: it gets this name at its end
            self._check_room(int(weights.gigabytes * 1e9 * (1 + _UNPACKED)) - work.bytes())
            remote = RemoteFile(url.name, url, sha256=weights.sha256.get(url.name))
            self.report.begin(remote.name, remote.size)
            try:
                await fetch(client, remote, archive, work.folder, patience=self.patience, report=self.report)
            except Refused as refused:
                raise ModelUnavailable(f"{refused}: the archive is not there (any more).") from refused
        self.report.say(f"Unpacking {archive.name} …")
        work.empty_files()
        try:
            await unpack(archive, work.files, limit=self.free(work.folder))
        except ModelUnavailable:
            archive.unlink()  # it will not get better
            raise
        return self._described(entry, weights, work.files)

    def _adopted(self, entry: Entry, weights: Weights, work: "_Work") -> Manifest:
        """What somebody copied to where the weights belong."""
        place = self.cache.place(entry.id, weights.backend)
        manifest = self._described(entry, weights, place)
        _check_size(weights, manifest, place)
        work.take_up(place)
        return manifest

    def _described(self, entry: Entry, weights: Weights, folder: Path) -> Manifest:
        """The manifest of files that no hub has listed.

        Raises:
            ModelUnavailable: A digest that is known beforehand is another one, or the folder holds no model.
        """
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME):
            name = path.relative_to(folder).as_posix()
            files[name] = FileFacts(path.stat().st_size, sha256_of(path))
            if files[name].sha256 != weights.sha256.get(name, files[name].sha256):
                raise ModelUnavailable(
                    f"{path} has the SHA-256 {files[name].sha256} instead of {weights.sha256[name]}: it is not "
                    "the file that it should be. Get it again."
                )
        _check_complete(weights, list(files), str(folder))
        return _manifest(entry, weights, "", files)

    def _finish(self, manifest: Manifest, work: "_Work") -> Held:
        """The one step from "not there" to "there"."""
        place = self.cache.place(manifest.id, manifest.backend)
        manifest.write(work.files)
        if place.is_dir():
            shutil.rmtree(place)
        work.files.rename(place)
        shutil.rmtree(work.folder)
        return Held(manifest.id, manifest.backend, place, manifest)

    def _check_room(self, needed: int) -> None:
        folder = self.cache.folder
        free = self.free(folder)
        if needed > free:
            raise ModelUnavailable(
                f"{needed / 1e9:.2f} GB are still to come and {folder} has room for {free / 1e9:.2f} GB. Free "
                "some, or use another folder (--models-dir, PERCH_MODELS_DIR)."
            )


@dataclass(frozen=True, slots=True)
class _Work:
    """The folder of a pull that is not done: whole files in ``files``, pieces and notes beside it."""

    folder: Path
    wrong: tuple[str, ...] = ()
    """Files of an earlier pull that are not any more what came then: nothing of them is used."""

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def _note(self) -> Path:
        return self.folder / "source.json"

    def open(self) -> None:
        self.files.mkdir(parents=True, exist_ok=True)

    def take_up(self, place: Path) -> None:
        """Use the files that lie at ``place`` without being known to be whole."""
        self.open()
        if place.is_dir():
            shutil.rmtree(self.files)
            place.rename(self.files)
            for name in (NAME, *self.wrong):
                (self.files / name).unlink(missing_ok=True)

    def keep_only(self, source: str, revision: str, files: tuple[RemoteFile, ...]) -> None:
        """Drop what is of no use for ``files``: other files, and those of another commit that have no digest."""
        note = {"source": source, "revision": revision}
        same = _read_json(self._note) == note
        useful = {remote.name for remote in files if same or remote.sha256 is not None}
        for path in self.files.iterdir():
            if path.name not in useful:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.folder.glob("*.part*"):
            if path.name.partition(".part")[0] not in useful:
                path.unlink()
        self._note.write_text(json.dumps(note), encoding="utf-8")

    def empty_files(self) -> None:
        shutil.rmtree(self.files)
        self.files.mkdir()

    def bytes(self) -> int:
        """What is there already."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _total(files: tuple[RemoteFile, ...], weights: Weights) -> int:
    if any(remote.size is None for remote in files):
        return int(weights.gigabytes * 1e9)
    return sum(remote.size or 0 for remote in files)


def _manifest(entry: Entry, weights: Weights, revision: str, files: Mapping[str, FileFacts]) -> Manifest:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(entry.id, weights.backend, weights.source, revision, files, now)


def _check_complete(weights: Weights, names: list[str], where: str) -> None:
    if missing := unmatched(weights, names):
        raise ModelUnavailable(
            f"{where} holds no {' and no '.join(missing)}: no weights for {weights.backend}."
        )


def _check_size(weights: Weights, manifest: Manifest, place: Path) -> None:
    """That files whose digests nobody knows beforehand have about the size that the weights should have."""
    patterns = weights.files or ("*",)
    ours = [name for name in manifest.files if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if all(name in weights.sha256 for name in ours):
        return
    size = sum(manifest.files[name].size for name in ours) / 1e9
    most = _UNPACKED if weights.archive else 1 + _TOLERANCE
    if not (1 - _TOLERANCE) * weights.gigabytes <= size <= most * weights.gigabytes:
        raise ModelUnavailable(
            f"The files in {place} have {size:.3g} GB, and {weights.source} has about {weights.gigabytes:g} GB: "
            "they are not these weights, or not all of them. Copy them again."
        )


def absent(
    cache: ModelCache, entry: Entry, weights: Weights, why: str, wrong: Mapping[str, str]
) -> ModelUnavailable:
    """An error that says what is missing or ``wrong``, where it belongs, and how it gets there."""
    place = cache.place(entry.id, weights.backend)
    missing = ", ".join(missing_files(cache, entry, weights))
    pull = pull_command(cache, entry, weights)
    if wrong:
        return ModelUnavailable(
            "\n".join(
                [
                    f"The {weights.backend} weights of {entry.id} are not as they were pulled. {why}",
                    *(f"{place / name}: {how}." for name, how in wrong.items()),
                    f"Where there is a network, this fetches anew what differs: {pull}",
                    f"Where there is none, copy {entry.id} again from where it was pulled into {cache.folder}.",
                ]
            )
        )
    whose = f"models pull {entry.id} --backend {weights.backend}"
    lines = [f"The {weights.backend} weights of {entry.id} are not here. {why}"]
    if missing:
        lines += [
            f"Missing in {place}: {missing}, from {weights.source}.",
            f"Where there is a network run: {command(whose)} --models-dir FOLDER",
            f"then copy FOLDER/{entry.id} into {cache.folder}.",
        ]
    lines.append(f"Files that were put into {place} by hand are checked and taken by: {pull} --offline")
    return ModelUnavailable("\n".join(lines))
