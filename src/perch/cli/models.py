"""``perch models list|show|pull|rm|verify|path|export``: the weights of models, and where they lie."""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perch.errors import BadConfig, ModelUnavailable, PerchError
from perch.registry import catalogue
from perch.registry.cache import Held, ModelCache, default_folder
from perch.registry.catalogue import Entry, Weights
from perch.registry.machine import choose, has_cuda, is_installed, lacking

if TYPE_CHECKING:
    from rich.table import Table

_FEW = 3
_OF_WEIGHTS = ("weights", "streaming_mode")
"""What is shown for each form of a model's weights by itself."""
_WIDE = 200
"""Columns of a table that goes to a file or pipe."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of each sub-verb."""
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    _json_option(_verb(kinds, "list", "the models that Perch knows, and which of their weights are here"))
    show = _verb(kinds, "show", "all that is known of one model", model="which")
    _json_option(show)
    pull = _verb(kinds, "pull", "fetch weights, or go on fetching them", model="whose")
    _backend_option(pull, "the library they are for (default: the best for this machine)")
    pull.add_argument("--all", action="store_true", help="those for every library")
    pull.add_argument(
        "--offline",
        action="store_true",
        help="try no connection; take files that were copied to their place ($PERCH_OFFLINE, $HF_HUB_OFFLINE)",
    )
    remove = _verb(kinds, "rm", "remove weights, also those that are there by half", model="whose")
    _backend_option(remove, "only those for this library (default: all)")
    remove.add_argument("--yes", action="store_true", help="without asking")
    _verb(
        kinds, "verify", "compare files with the digests they had when they were pulled", model="only whose"
    )
    path = _verb(kinds, "path", "print where the weights are: the folder, or the .nemo file", model="whose")
    _backend_option(path, "those for this library (default: the best for this machine that are here)")
    _add_export(kinds)


def _verb(
    kinds: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str, *, model: str = ""
) -> argparse.ArgumentParser:
    parser = kinds.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    if model:
        many = "?" if name == "verify" else None
        parser.add_argument("model", metavar="ID", nargs=many, help=f"{model}: an id or alias of the list")
    parser.add_argument(
        "--models-dir",
        type=Path,
        metavar="FOLDER",
        help="where weights lie (default: $PERCH_MODELS_DIR, else perch/models in the user's cache)",
    )
    return parser


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _backend_option(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--backend", choices=("sherpa-onnx", "transformers", "nemo"), help=about)


def _add_export(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "make ONNX files, which run on a CPU, of a .nemo file"
    export = kinds.add_parser("export", help=about, description=f"{about[0].upper()}{about[1:]}.")
    export.add_argument("file", metavar="FILE", type=Path, help="the .nemo file")
    export.add_argument("folder", metavar="FOLDER", type=Path, help="where the ONNX files go; made anew")
    export.add_argument("--chunk-ms", type=int, metavar="N", help="audio of one step, of a streaming model")
    export.add_argument("--int8", action="store_true", help="a quarter of the size, and faster on a CPU")


def run(arguments: argparse.Namespace) -> "int | Awaitable[int]":
    if arguments.what == "pull":
        return _reported_async(_pull, arguments)
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "show": _show,
        "rm": _remove,
        "verify": _verify,
        "path": _path,
        "export": _export,
    }
    try:
        return verbs[arguments.what](arguments)
    except (PerchError, OSError) as error:
        return _told(error)


async def _reported_async(
    verb: Callable[[argparse.Namespace], Awaitable[int]], arguments: argparse.Namespace
) -> int:
    try:
        return await verb(arguments)
    except (PerchError, OSError) as error:
        return _told(error)


def _told(error: PerchError | OSError) -> int:
    """Print it; the exit status for it."""
    text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
    print(f"perch models: {text}", file=sys.stderr)
    return 2 if isinstance(error, BadConfig) else 1


def _cache(arguments: argparse.Namespace) -> ModelCache:
    return ModelCache(arguments.models_dir or default_folder(os.environ))


def _entry(name: str) -> Entry:
    try:
        return catalogue.get(name)
    except ModelUnavailable as error:
        raise BadConfig(error.message) from error


# --- looking -----------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    cache = _cache(arguments)
    if arguments.json:
        print(json.dumps([_facts(entry, cache) for entry in catalogue.CATALOGUE], indent=1))
        return 0
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    console.print(_table(cache))
    console.print(f"Weights lie in {cache.folder}.", markup=False, highlight=False, soft_wrap=True)
    return 0


def _table(cache: ModelCache) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Model", "Aliases", "Languages", "Streaming", "GPU memory", "Licence", "Weights", "Here"):
        table.add_column(name, overflow="fold")
    for entry in catalogue.CATALOGUE:
        table.add_row(
            entry.id,
            ", ".join(entry.aliases),
            ", ".join(entry.languages)
            if len(entry.languages) <= _FEW
            else f"{len(entry.languages)} languages",
            _streaming(entry, cache),
            f"{entry.memory_gb:g} GB",
            entry.licence,
            ", ".join(f"{weights.backend} {weights.gigabytes:g} GB" for weights in entry.weights),
            ", ".join(_here(held) for held in cache.find(entry)) or "-",
        )
    for held in cache.list():
        if catalogue.find(held.id) is None:
            table.add_row(held.id, "", "", "", "", "", "", _here(held))
    return table


def _streaming(entry: Entry, cache: ModelCache) -> str:
    """How a stream is recognised on this machine, which depends on the weights."""
    weights = _likely(entry, cache)
    elsewhere = weights.device == "cuda" and not has_cuda(os.environ)
    return f"{weights.streaming_mode}, on a GPU" if elsewhere else weights.streaming_mode


def _likely(entry: Entry, cache: ModelCache) -> Weights:
    """The weights that are here, or else those that a pull would fetch; where none suit, the best."""
    held = cache.find(entry)
    try:
        return _chosen(entry, _best(entry, held).backend if held else None)
    except BadConfig:
        return entry.weights[0]


def _here(held: Held) -> str:
    return f"{held.backend} {size_text(held.bytes)}"


def size_text(number: int) -> str:
    """Bytes for people."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.3g} {unit}"
    return f"{number} B"


def _facts(entry: Entry, cache: ModelCache) -> dict[str, Any]:
    return {
        "id": entry.id,
        "aliases": list(entry.aliases),
        "engine": entry.engine,
        "engine_model": entry.engine_model,
        "tier": entry.tier,
        "languages": list(entry.languages),
        "streaming_mode": entry.streaming_mode,
        "decoder": entry.decoder,
        "punctuation": entry.punctuation,
        "word_timestamps": entry.word_timestamps,
        "memory_gb": entry.memory_gb,
        "licence": entry.licence,
        "weights": [_weights_facts(entry, weights, cache) for weights in entry.weights],
    }


def _weights_facts(entry: Entry, weights: Weights, cache: ModelCache) -> dict[str, Any]:
    held = cache.get(entry.id, weights.backend)
    return {
        "backend": weights.backend,
        "device": weights.device,
        "streaming_mode": weights.streaming_mode,
        "gigabytes": weights.gigabytes,
        "source": weights.source,
        "path": str(held.path) if held else None,
        "bytes": held.bytes if held else None,
        "revision": held.manifest.revision if held else None,
    }


def _show(arguments: argparse.Namespace) -> int:
    entry, cache = _entry(arguments.model), _cache(arguments)
    facts = _facts(entry, cache)
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return 0
    for name, value in facts.items():
        if name not in _OF_WEIGHTS:
            print(f"{name}: {_text(value)}")
    for weights in entry.weights:
        held = cache.get(entry.id, weights.backend)
        state = f"here, {size_text(held.bytes)}: {held.path}" if held else "not here"
        print(f"weights for {weights.backend} ({weights.device}, {weights.gigabytes:g} GB): {state}")
        print(f"  {weights.streaming_mode}, from {weights.source}")
    return 0


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _path(arguments: argparse.Namespace) -> int:
    entry, cache = _entry(arguments.model), _cache(arguments)
    held = cache.find(entry, arguments.backend)
    if not held:
        backend = f" --backend {arguments.backend}" if arguments.backend else ""
        raise ModelUnavailable(
            f"No such weights of {entry.id} are in {cache.folder}. Fetch them with: "
            f"perch models pull {entry.id}{backend}"
        )
    print(_best(entry, held).path)
    return 0


def _best(entry: Entry, held: list[Held]) -> Held:
    """For this machine, as far as there is a choice."""
    device = "cuda" if has_cuda(os.environ) else "cpu"
    fitting = {weights.backend for weights in entry.weights if weights.device == device}
    return next((one for one in held if one.backend in fitting), held[0])


def _verify(arguments: argparse.Namespace) -> int:
    cache = _cache(arguments)
    every = cache.records(_entry(arguments.model).id if arguments.model else None)
    if not every:
        raise ModelUnavailable(f"There is nothing to verify in {cache.folder}.")
    status = 0
    for held in every:
        wrong = cache.verify(held)
        changed = ", ".join(f"{name} ({how})" for name, how in wrong.items())
        verdict = f"CHANGED: {changed}" if wrong else f"{size_text(held.bytes)} as they were pulled"
        print(f"{held.id}\t{held.backend}\t{verdict}")
        if wrong:
            status = 1
            print(
                f"Get what differs anew: perch models pull {held.id} --backend {held.backend}",
                file=sys.stderr,
            )
    return status


# --- changing ----------------------------------------------------------------------------------------


async def _pull(arguments: argparse.Namespace) -> int:
    from perch.cli.pull_display import display
    from perch.registry.download import Puller
    from perch.registry.hub import Hub

    entry = _entry(arguments.model)
    if arguments.all and arguments.backend:
        raise BadConfig("Say --backend or --all, not both.")
    wanted = entry.weights if arguments.all else (_chosen(entry, arguments.backend),)
    hub = Hub.from_environment(os.environ, offline=arguments.offline)
    for weights in wanted:
        with display() as report:
            held = await Puller(_cache(arguments), hub, report).pull(entry, weights)
        print(held.path)
        print(
            f"{entry.id} for {held.backend}: {size_text(held.bytes)}. Licence: {entry.licence}.",
            file=sys.stderr,
        )
        if not is_installed(held.backend):
            print(f"Before they can be used: {lacking(held.backend)}", file=sys.stderr)
        elif weights.device == "cpu" and has_cuda(os.environ):
            print(_of_the_gpu(entry), file=sys.stderr)
    return 0


def _of_the_gpu(entry: Entry) -> str:
    better = choose(entry, backend=None, cuda=True, is_installed=lambda _: True)
    return (
        f"They run on the CPU. For the GPU get those for {better.backend}, {better.gigabytes:g} GB: "
        f"perch models pull {entry.id} --backend {better.backend}"
    )


def _chosen(entry: Entry, backend: str | None) -> Weights:
    return choose(entry, backend=backend, cuda=has_cuda(os.environ))


def _remove(arguments: argparse.Namespace) -> int:
    entry, cache = catalogue.find(arguments.model), _cache(arguments)
    name = entry.id if entry else _unknown_but_here(arguments.model, cache)
    there = cache.there(name, arguments.backend)
    if not there:
        raise ModelUnavailable(f"Nothing of it is in {cache.folder}.")
    if not arguments.yes and not _confirmed(name, there):
        return 1
    for backend in there:
        cache.remove(name, backend)
        print(f"Removed {name} for {backend}.", file=sys.stderr)
    return 0


def _unknown_but_here(name: str, cache: ModelCache) -> str:
    """The id of weights whose model this version does not know any more."""
    if not any(held.id == name for held in cache.list()):
        _entry(name)  # says what there is
    return name


def _confirmed(name: str, backends: tuple[str, ...]) -> bool:
    if not sys.stdin.isatty():
        raise BadConfig("There is nobody to ask; say --yes.")
    return input(f"Remove {name} for {', '.join(backends)}? [y/N] ").strip().lower() in {"y", "yes"}


def _export(arguments: argparse.Namespace) -> int:
    export = import_module("perch.inference.parakeet.export").export
    export(
        arguments.file,
        arguments.folder,
        chunk_ms=arguments.chunk_ms,
        int8=arguments.int8,
        report=lambda text: print(text, file=sys.stderr),
    )
    print(arguments.folder)
    return 0
