"""``perch models list|show|pull|rm|verify|path|export``: the weights of models, and where they lie."""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perch.core.command import command
from perch.errors import BadConfig, ModelUnavailable, PerchError
from perch.registry import amiss, catalogue
from perch.registry.amiss import Amiss
from perch.registry.cache import Held, ModelCache, default_folder
from perch.registry.catalogue import Entry, Weights
from perch.registry.machine import choose, has_cuda, is_installed, lacking

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FEW = 3
_OF_WEIGHTS = ("weights", "streaming_mode")
"""What is shown for each form of a model's weights by itself."""
_COLUMNS = ("Model", "Aliases", "Languages", "Streaming", "GPU memory", "Licence", "Weights", "Here")
_LEFT_OUT_FIRST = ("Aliases", "Licence", "GPU memory", "Streaming", "Languages", "Weights")
"""Columns of the list that go where a terminal has not enough room, one after the other."""
_ENDLESS = 10_000
"""Characters of a line that goes to a file or pipe, where no line is too long."""


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

    show_list(Console(width=None if sys.stdout.isatty() else _ENDLESS), cache)
    return 0


def show_list(console: "Console", cache: ModelCache) -> None:
    """Print the table, and below it what a person has to know or do."""
    table, left_out = _fitting(console, cache)
    console.print(table)
    console.print()
    wrong = [one.text for entry in catalogue.CATALOGUE for one in amiss.find(cache, entry)]
    more = [f"Not shown for want of room: {', '.join(left_out)}. `{command('models show ID')}` has all."]
    for line in (*wrong, *(more if left_out else []), f"Weights lie in {cache.folder}."):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _fitting(console: "Console", cache: ModelCache) -> "tuple[Table, list[str]]":
    """The table with as many columns as there is room for, and the names of the others.

    An id is never broken: where even the least is too wide, the terminal has to wrap its lines.
    """
    from rich.measure import Measurement

    left_out: list[str] = []
    table = _table(cache, left_out, between=", ")
    for one_more in ("", *_LEFT_OUT_FIRST):
        needed = Measurement.get(console, console.options.update_width(_ENDLESS), table).maximum
        if needed <= console.width:
            break
        left_out += [one_more] if one_more else []
        table = _table(cache, left_out, between="\n")
    console.width = max(console.width, needed)
    return table, left_out


def _table(cache: ModelCache, left_out: list[str], *, between: str) -> "Table":
    """The list, with ``between`` the weights of one model."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names = [name for name in _COLUMNS if name not in left_out]
    for name in names:
        table.add_column(name, no_wrap=True)
    for row in _rows(cache, between):
        table.add_row(*(row.get(name, "") for name in names))
    return table


def _rows(cache: ModelCache, between: str) -> Iterator[dict[str, str]]:
    """By the names of columns."""
    for entry in catalogue.CATALOGUE:
        here = [_here(held) for held in cache.find(entry)]
        here += [f"{one.backend}: {one.state}" for one in amiss.find(cache, entry)]
        yield {
            "Model": entry.id,
            "Aliases": ", ".join(entry.aliases),
            "Languages": _languages(entry),
            "Streaming": _streaming(entry, cache),
            "GPU memory": f"{entry.memory_gb:g} GB",
            "Licence": entry.licence,
            "Weights": between.join(
                f"{weights.backend} {weights.gigabytes:g} GB" for weights in entry.weights
            ),
            "Here": between.join(here) or "-",
        }
    for held in cache.list():
        if catalogue.find(held.id) is None:
            yield {"Model": held.id, "Here": _here(held)}


def _languages(entry: Entry) -> str:
    many = f"{len(entry.languages)} languages"
    return ", ".join(entry.languages) if len(entry.languages) <= _FEW else many


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
        "problem": _problem(entry, weights, cache) or None,
    }


def _problem(entry: Entry, weights: Weights, cache: ModelCache) -> str:
    """What is wrong with weights that are here and cannot be used; nothing if there is no such thing."""
    return " ".join(one.text for one in amiss.find(cache, entry, weights.backend))


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
        there = f"here, {size_text(held.bytes)}: {held.path}" if held else "not here"
        state = _problem(entry, weights, cache) or there
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
        pull = command(f"models pull {entry.id}{backend}{amiss.elsewhere(cache)}")
        wrong = " ".join(one.text for one in amiss.find(cache, entry, arguments.backend))
        raise ModelUnavailable(
            wrong or f"No such weights of {entry.id} are in {cache.folder}. Fetch them with: {pull}"
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
    entries = (_entry(arguments.model),) if arguments.model else catalogue.CATALOGUE
    every = cache.records(entries[0].id if arguments.model else None)
    unchecked = _never_checked(entries, cache)
    if not every and not unchecked:
        raise ModelUnavailable(f"There is nothing to verify in {cache.folder}.")
    status = 0
    for held in every:
        wrong = cache.verify(held)
        changed = ", ".join(f"{name} ({how})" for name, how in wrong.items())
        verdict = f"CHANGED: {changed}" if wrong else f"{size_text(held.bytes)} as they were pulled"
        print(f"{held.id}\t{held.backend}\t{verdict}")
        if wrong:
            status = 1
            pull = command(f"models pull {held.id} --backend {held.backend}{amiss.elsewhere(cache)}")
            print(f"Get what differs anew: {pull}", file=sys.stderr)
    for one in unchecked:
        why = "there is no perch.json to compare with" if one.state == "unchecked" else "it cannot be read"
        print(f"{one.id}\t{one.backend}\tNOT CHECKED: {why}")
        print(one.text, file=sys.stderr)
    return 1 if unchecked else status


def _never_checked(entries: tuple[Entry, ...], cache: ModelCache) -> list[Amiss]:
    """Files in the place of weights that no pull has looked at."""
    found = [one for entry in entries for one in amiss.find(cache, entry)]
    return [one for one in found if one.state in {"unchecked", "unreadable"}]


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
            print(_of_the_gpu(entry, _cache(arguments)), file=sys.stderr)
    return 0


def _of_the_gpu(entry: Entry, cache: ModelCache) -> str:
    better = choose(entry, backend=None, cuda=True, is_installed=lambda _: True)
    return (
        f"They run on the CPU. For the GPU get those for {better.backend}, {better.gigabytes:g} GB: "
        f"{amiss.pull_command(cache, entry, better)}"
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
