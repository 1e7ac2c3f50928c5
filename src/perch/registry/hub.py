"""Which hub is asked, as whom, and which files a repository there has."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yarl import URL

from perch.errors import BadConfig, ModelUnavailable
from perch.registry.catalogue import Weights
from perch.registry.http import Broken, Client, Refused

_PUBLIC = "https://huggingface.co"
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub's address and our credentials there."""

    endpoint: URL = field(default_factory=lambda: URL(_PUBLIC))
    token: str | None = field(default=None, repr=False)
    offline: bool = False
    """No connection is tried."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, offline: bool = False) -> "Hub":
        """By the variables that the hub's own programs use, and ``PERCH_OFFLINE``.

        Raises:
            BadConfig: HF_ENDPOINT is no address.
        """
        flags = (environment.get(name, "").strip().lower() for name in ("PERCH_OFFLINE", "HF_HUB_OFFLINE"))
        return cls(
            _endpoint(environment.get("HF_ENDPOINT") or _PUBLIC),
            environment.get("HF_TOKEN", "").strip() or None,
            offline or any(flag in _TRUE for flag in flags),
        )

    def page(self, repository: str) -> str:
        """Where a person reads about the model and accepts its licence."""
        return str(self.endpoint / repository)


def _endpoint(text: str) -> URL:
    try:
        url = URL(text.rstrip("/"))
    except ValueError:
        url = URL()
    if url.scheme not in {"https", "http"} or not url.host:
        raise BadConfig(f"HF_ENDPOINT={text}: give an address such as {_PUBLIC}.")
    return url


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that can be fetched."""

    name: str
    url: URL
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is to fetch of one repository, at one commit."""

    revision: str
    files: tuple[RemoteFile, ...]


async def list_files(client: Client, hub: Hub, weights: Weights) -> Listing:
    """The files of ``weights`` in its repository.

    Raises:
        ModelUnavailable: The repository, the revision or a file is not there, or not for us.
        Broken: The answer did not come; trying again may help.
    """
    url = hub.endpoint / "api/models" / weights.repository / "revision" / weights.revision
    try:
        answer = await client.get_json(url.with_query(blobs="true"))
    except Refused as refused:
        raise explained(refused, hub, weights) from refused
    try:
        return _listing(answer, hub, weights)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Broken(f"{url.host} answered something that is no list of files") from error


def _listing(answer: Any, hub: Hub, weights: Weights) -> Listing:
    revision = str(answer["sha"])
    siblings = {str(sibling["rfilename"]): sibling for sibling in answer["siblings"]}
    names = _wanted(tuple(siblings), weights)
    files = hub.endpoint / weights.repository / "resolve" / revision
    return Listing(revision, tuple(_remote(siblings[name], files / name, weights) for name in names))


def _wanted(there: Sequence[str], weights: Weights) -> list[str]:
    """The files that the patterns name; only of the top folder, where no name can lead elsewhere."""
    plain = [name for name in there if name not in {"", ".", "..", "perch.json"} and "/" not in name]
    for pattern in weights.files:
        if "*" not in pattern and pattern not in plain:
            raise ModelUnavailable(f"The repository {weights.repository} has no file {pattern} (any more).")
    return [name for name in plain if any(fnmatch.fnmatchcase(name, pattern) for pattern in weights.files)]


def _remote(sibling: Mapping[str, Any], url: URL, weights: Weights) -> RemoteFile:
    """A file, with the digest that the catalogue knows rather than the one that the hub tells."""
    name, size, large = sibling["rfilename"], sibling.get("size"), sibling.get("lfs") or {}
    told = large.get("sha256")
    return RemoteFile(name, url, None if size is None else int(size), weights.sha256.get(name, told))


def explained(refused: Refused, hub: Hub, weights: Weights) -> ModelUnavailable:
    """What a refusal of the hub means, and what to do about it."""
    repository, page = weights.repository, hub.page(weights.repository)
    match refused.code:
        case "GatedRepo":
            token = "HF_TOKEN is set, but may not read it" if hub.token else "HF_TOKEN is not set"
            return ModelUnavailable(
                f"{repository} is gated: accept its licence at {page}, and set HF_TOKEN to a token of that "
                f"account ({token})."
            )
        case "RevisionNotFound":
            return ModelUnavailable(f"{repository} has no revision {weights.revision!r}; see {page}.")
        case "EntryNotFound":
            return ModelUnavailable(f"{repository} has no file {refused.url.name} (any more); see {page}.")
    if hub.token and refused.status == 401 and "credentials" in refused.message.lower():
        return ModelUnavailable(
            f"{hub.endpoint.host} does not know the token in HF_TOKEN; make a new one there."
        )
    if refused.code == "RepoNotFound" or refused.status in {401, 404}:
        return ModelUnavailable(
            f"There is no repository {repository} at {hub.endpoint}, or it is private and HF_TOKEN "
            f"{'may not read it' if hub.token else 'is not set'}."
        )
    return ModelUnavailable(f"{refused}. See {page}.")
