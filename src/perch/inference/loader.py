"""From a name to a recogniser: the only file that names implementations.

What a recogniser needs is imported only when it is asked for.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from perch.errors import BadConfig
from perch.inference.parakeet.backends import backend_of
from perch.inference.parakeet.model import LoadOptions
from perch.inference.recogniser import Recogniser
from perch.registry.catalogue import Entry

RECOGNISERS = ("embedded", "scripted")


async def load_recogniser(
    name: str = "embedded", *, slots: int | None = None, instead: str = ""
) -> Recogniser:
    """A running recogniser; the caller closes it.

    Args:
        name: One of ``RECOGNISERS``.
        slots: Streams at the same time; None is the recogniser's own number.
        instead: Why it is the embedded one and not a better, which it then says of itself.

    Raises:
        BadConfig: There is no recogniser of that name.
        EngineFailed: It could not be started.
    """
    match name:
        case "embedded":
            return await _embedded(slots, instead)
        case "scripted":
            return _scripted(slots)
        case _:
            raise BadConfig(f"There is no recogniser named {name!r}; there are: {', '.join(RECOGNISERS)}.")


async def _embedded(slots: int | None, instead: str) -> Recogniser:
    from perch.inference.embedded import EmbeddedRecogniser  # noqa: PLC0415

    return await EmbeddedRecogniser.start(slots=slots, instead=instead)


def _scripted(slots: int | None) -> Recogniser:
    from dataclasses import replace  # noqa: PLC0415

    from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser  # noqa: PLC0415

    return ScriptedRecogniser(CAPABILITIES if slots is None else replace(CAPABILITIES, slots=slots))


async def load_model(
    options: LoadOptions,
    *,
    backend: str | None = None,
    slots: int | None = None,
    aliases: tuple[str, ...] = (),
    about: Mapping[str, str] = MappingProxyType({}),
) -> Recogniser:
    """A running recogniser of a model's weights; the caller closes it.

    Args:
        options: Which weights, and how they are loaded.
        backend: The library that runs them; None is told by their files.
        slots: Streams at the same time; None finds out how many this machine carries.
        aliases: Other names the model is asked for by.
        about: What else is to be published of it.

    Raises:
        BadConfig: What was asked for cannot be; the message says what to do.
        EngineFailed: The model or its process could not be started.
    """
    from perch.inference.parakeet.recogniser import ModelRecogniser  # noqa: PLC0415

    name = backend or backend_of(Path(options.path))
    return await ModelRecogniser.start(name, options, slots=slots, aliases=aliases, about=about)


def about(entry: Entry) -> dict[str, str]:
    """What an engine publishes of a model that the catalogue knows."""
    return {
        "engine": entry.engine,
        "engine_model": entry.engine_model,
        "tier": entry.tier,
        "licence": entry.licence,
        "memory_gb": f"{entry.memory_gb:g}",
    }
