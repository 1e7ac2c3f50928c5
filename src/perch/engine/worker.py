"""What the container of an engine is told by its environment, and which weights that means."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from perch.core import languages
from perch.engine.registration import DEFAULT_PREFIX, RegistrationConfig
from perch.errors import BadConfig
from perch.inference.choice import Machine, named
from perch.inference.loader import about, load_model
from perch.inference.parakeet.backends import BACKENDS, is_backend
from perch.inference.parakeet.model import LoadOptions
from perch.inference.recogniser import Recogniser
from perch.registry import catalogue
from perch.registry.cache import ModelCache, default_folder
from perch.registry.catalogue import Entry
from perch.registry.machine import has_cuda

SHORTEST_CHUNK_MS = 80
LONGEST_CHUNK_MS = 1120
"""Which of the multiples of 80 in between a model takes, it says itself when it is loaded."""

Device = Literal["cuda", "auto", "cpu"]
_DEVICES: tuple[Device, ...] = get_args(Device)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What an operator chose for one engine container. ``VARIABLES`` names and explains where it comes from."""

    model: Entry
    weights: Path | None = None
    models_dir: Path = field(default_factory=Path)
    backend: str | None = None
    device: Device = "cuda"
    allow_cpu: bool = False
    chunk_ms: int | None = None
    slots: int | None = None
    host: str = "0.0.0.0"  # noqa: S104 in a container others must reach it
    port: int = 9000
    api_key: str | None = field(default=None, repr=False)
    worker_id: str = ""
    endpoint: str = ""
    redis_url: str = field(default="", repr=False)
    prefix: str = DEFAULT_PREFIX

    @property
    def registration(self) -> RegistrationConfig | None:
        """Where the engine registers; None without ``REDIS_URL``."""
        if not self.redis_url:
            return None
        return RegistrationConfig(self.redis_url, self.worker_id, self.endpoint, self.prefix)


VARIABLES: Mapping[str, str] = {
    "PARAKEET_MODEL": "the model: an id, alias or published name that perch models list shows",
    "PARAKEET_BACKEND": f"the library that runs it: {', '.join(BACKENDS)}; unset: whichever weights are here",
    "PARAKEET_WEIGHTS": "a folder or .nemo file of weights, instead of those that were pulled",
    "PERCH_MODELS_DIR": "where pulled weights are",
    "DEVICE": "cuda (the engine does not start without a GPU), auto or cpu; unset: cuda, with ALLOW_CPU auto",
    "ALLOW_CPU": "1 runs PyTorch on a CPU, which is not for production",
    "CHUNK_DURATION_MS": "audio of one step of streaming: a multiple of 80 from 80 to 1120",
    "CHUNK_SIZE_MS": "the same, by its older name",
    "MAX_SESSIONS": "streams at the same time; unset: measured at start",
    "WORKER_HOST": "the address to listen on",
    "WORKER_PORT": "the port to listen on",
    "WORKER_ID": "the name in Redis; unset: the host's name",
    "WORKER_ENDPOINT": "host:port at which others reach this engine; unset: the host's name and the port",
    "REDIS_URL": "redis://… registers the engine there; unset: nowhere",
    "REGISTRY_PREFIX": "what its keys begin with",
    "PERCH_ENGINE_API_KEY": "the key that clients must send; unset: none",
}


def read(environment: Mapping[str, str], *, model: str) -> WorkerSettings:
    """The settings in ``environment``; an empty variable is an unset one.

    Args:
        environment: Of the process.
        model: The engine's own, where the environment names none.

    Raises:
        BadConfig: A value cannot be; the message names its variable.
        ModelUnavailable: There is no model of that name.
    """
    told = {name: value for name, value in environment.items() if name in VARIABLES and value}
    port = _number(told, "WORKER_PORT", 0, 65_535) if "WORKER_PORT" in told else 9000
    own_name = socket.gethostname()
    allow_cpu = _flag(told, "ALLOW_CPU")
    return WorkerSettings(
        model=catalogue.get(told.get("PARAKEET_MODEL", model)),
        weights=Path(told["PARAKEET_WEIGHTS"]) if "PARAKEET_WEIGHTS" in told else None,
        models_dir=default_folder(environment),
        backend=_backend(told),
        device=_one_of(told, "DEVICE", _DEVICES) or ("auto" if allow_cpu else "cuda"),
        allow_cpu=allow_cpu,
        chunk_ms=_chunk(told),
        slots=_number(told, "MAX_SESSIONS", 1, 4096) if "MAX_SESSIONS" in told else None,
        host=told.get("WORKER_HOST", "0.0.0.0"),  # noqa: S104 see the field
        port=port,
        api_key=told.get("PERCH_ENGINE_API_KEY"),
        worker_id=told.get("WORKER_ID", own_name),
        endpoint=told.get("WORKER_ENDPOINT", f"{own_name}:{port}"),
        redis_url=told.get("REDIS_URL", ""),
        prefix=told.get("REGISTRY_PREFIX", DEFAULT_PREFIX),
    )


Load = Callable[[Entry], Awaitable[Recogniser]]
"""Starts a model; whoever calls it closes it."""


def loader(
    settings: WorkerSettings, environment: Mapping[str, str], *, mode: Literal["auto", "vad-segmented"]
) -> Load:
    """Loads models as the settings say: from the weights they name, or those that were pulled.

    Args:
        settings: Of the container.
        environment: Where the driver's tool is looked for.
        mode: How streams are recognised.
    """

    async def load(entry: Entry) -> Recogniser:
        backend, path = _weights(settings, environment, entry)
        options = LoadOptions(
            path=str(path),
            name=entry.id,
            languages=entry.languages,
            device=settings.device,
            allow_cpu=settings.allow_cpu,
            mode=mode,
            chunk_ms=settings.chunk_ms if mode == "auto" else None,
        )
        aliases = (*entry.aliases, entry.engine_model)
        return await load_model(
            options, backend=backend, slots=settings.slots, aliases=aliases, about=about(entry)
        )

    return load


def _weights(
    settings: WorkerSettings, environment: Mapping[str, str], entry: Entry
) -> tuple[str | None, Path]:
    if settings.weights is not None and entry == settings.model:
        return settings.backend, settings.weights
    machine = Machine(has_cuda(environment), settings.allow_cpu)
    choice = named(entry, ModelCache(settings.models_dir), machine, backend=settings.backend)
    return choice.backend, choice.path


def speaks(entry: Entry, language: str) -> bool:
    """Whether a model recognises a language; ``auto`` and nothing leave it to the model."""
    return language in {"", "auto"} or languages.find(entry.languages, language) is not None


def _backend(told: Mapping[str, str]) -> str | None:
    name = told.get("PARAKEET_BACKEND")
    return name if name is not None and is_backend(name) else _one_of(told, "PARAKEET_BACKEND", BACKENDS)


_Choice = TypeVar("_Choice", bound=str)


def _one_of(told: Mapping[str, str], name: str, known: tuple[_Choice, ...]) -> _Choice | None:
    if name not in told:
        return None
    for value in known:
        if value == told[name]:
            return value
    raise BadConfig(f"{name} is {told[name]!r}; it can be {', '.join(known)}.")


def _flag(told: Mapping[str, str], name: str) -> bool:
    value = told.get(name, "0").lower()
    if value not in {"1", "true", "yes", "0", "false", "no"}:
        raise BadConfig(f"{name} is {value!r}; it can be 1 or 0.")
    return value in {"1", "true", "yes"}


def _number(told: Mapping[str, str], name: str, least: int, most: int) -> int:
    value = told[name]
    if not value.isdecimal() or not least <= int(value) <= most:
        raise BadConfig(f"{name} is {value!r}; it must be a number from {least} to {most}.")
    return int(value)


def _chunk(told: Mapping[str, str]) -> int | None:
    name = next((name for name in ("CHUNK_DURATION_MS", "CHUNK_SIZE_MS") if name in told), None)
    if name is None:
        return None
    chunk_ms = _number(told, name, SHORTEST_CHUNK_MS, LONGEST_CHUNK_MS)
    if chunk_ms % SHORTEST_CHUNK_MS:
        raise BadConfig(f"{name} is {chunk_ms}; it must be a multiple of {SHORTEST_CHUNK_MS}.")
    return chunk_ms
