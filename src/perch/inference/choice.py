"""From a model's name to the weights to load: those that are here, and that this machine can run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perch.core.command import command
from perch.errors import BadConfig
from perch.registry import amiss
from perch.registry.cache import Held, ModelCache
from perch.registry.catalogue import CATALOGUE, Entry, Weights
from perch.registry.machine import choose, described, is_installed, lacking


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights to load."""

    entry: Entry
    backend: str
    path: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """What counts for a choice."""

    cuda: bool
    """Whether there is a GPU."""
    allow_cpu: bool = False
    """Whether the CPU may be used for weights that are meant for a GPU."""
    is_installed: Callable[[str], bool] = is_installed


def named(entry: Entry, cache: ModelCache, machine: Machine, *, backend: str | None = None) -> Choice:
    """The weights of ``entry`` to load.

    Raises:
        BadConfig: None are here, or none that are can be run; the message says what to do.
    """
    held = cache.find(entry, backend)
    usable = _usable(entry, held, machine)
    if not usable:
        obstacles = [_obstacle(one, machine) for one in held] + _amiss(entry, cache, machine, backend)
        raise BadConfig(" ".join(obstacles) or _absent(entry, cache, machine, backend))
    return Choice(entry, usable[0].backend, usable[0].path)


def candidates(cache: ModelCache, machine: Machine) -> list[Choice]:
    """All models whose weights are here and can be run, the best first."""
    return [
        Choice(entry, one.backend, one.path)
        for entry in CATALOGUE
        for one in _usable(entry, cache.find(entry), machine)
    ]


def passed_over(cache: ModelCache, machine: Machine) -> str:
    """Why weights that are here, also by half, cannot be run; nothing if there are none such."""
    return " ".join(reason for entry in CATALOGUE for reason in _reasons(entry, cache, machine))


def _reasons(entry: Entry, cache: ModelCache, machine: Machine) -> list[str]:
    held = cache.find(entry)
    unusable = [one for one in held if not _usable(entry, [one], machine)]
    return [_obstacle(one, machine) for one in unusable] + _amiss(entry, cache, machine, None)


def _amiss(entry: Entry, cache: ModelCache, machine: Machine, backend: str | None) -> list[str]:
    """What is wrong with weights that are not whole and would be run if they were."""
    found = amiss.find(cache, entry, backend)
    return [one.text for one in found if _suits(one.weights, machine)]


def _absent(entry: Entry, cache: ModelCache, machine: Machine, backend: str | None) -> str:
    """What to say of weights that are not here: how to get them, if they would be of use."""
    if backend is None and not any(_suits(weights, machine) for weights in entry.weights):
        return (
            f"{entry.id} has no weights for the CPU, and there is no GPU here. There are: {described(entry)}. "
            f"`{command('models export')}` makes some for the CPU of a .nemo file."
        )
    cuda = machine.cuda or all(weights.device == "cuda" for weights in entry.weights)
    weights = choose(entry, backend=backend, cuda=cuda, is_installed=machine.is_installed)
    where = f"not in {cache.folder}. Get them with: {amiss.pull_command(cache, entry, weights)}"
    if not _suits(weights, machine):
        return f"{_for_a_gpu(entry.id, weights.backend)} They are {where}"
    return f"The weights of {entry.id} are {where}"


def _suits(weights: Weights, machine: Machine) -> bool:
    """Whether the machine may run them, once what runs them is installed."""
    return machine.cuda or machine.allow_cpu or weights.device == "cpu"


def _usable(entry: Entry, held: Sequence[Held], machine: Machine) -> list[Held]:
    """Those that can be run, those meant for what this machine has first."""
    forms: dict[str, Weights] = {weights.backend: weights for weights in entry.weights}
    ours = "cuda" if machine.cuda else "cpu"
    runs = [one for one in held if machine.is_installed(one.backend) and _suits(forms[one.backend], machine)]
    return sorted(runs, key=lambda one: forms[one.backend].device != ours)


def _obstacle(held: Held, machine: Machine) -> str:
    if not machine.is_installed(held.backend):
        return f"The weights of {held.id} for {held.backend} are here, but {lacking(held.backend)}."
    return _for_a_gpu(held.id, held.backend)


def _for_a_gpu(model: str, backend: str) -> str:
    return (
        f"The weights of {model} for {backend} are meant for a GPU, and there is none. "
        "Give --allow-cpu or set ALLOW_CPU=1 to try them on the CPU, which is too slow for production."
    )
