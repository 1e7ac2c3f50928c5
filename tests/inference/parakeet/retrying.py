"""Streams of which some begin later, in a worker's way of stepping them; and functions that fail once."""

from collections.abc import Callable, Sequence
from typing import Any

from perch.inference.parakeet.model import Audio, Model, Piece, Token

Said = list[Token] | None
"""Of a stream; None if it has failed."""


class FailsOnce:
    """Stands in front of ``function`` and raises in place of one of its calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._calls_left: int | None = None

    def fail(self, call: int) -> None:
        """Raise at the ``call``-th call from now, counted from 1."""
        self._calls_left = call

    @property
    def has_failed(self) -> bool:
        return self._calls_left == 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if self._calls_left:
            self._calls_left -= 1
            if not self._calls_left:
                raise MemoryError("full for a moment")
        return self._function(*arguments, **named)


def recognise(
    model: Model, audios: Sequence[Audio], begins: Sequence[int], before_step: Callable[[int], None]
) -> list[Said]:
    """What each stream says, of which each begins at its step.

    After a step that fails the pieces go one at a time, as the worker does it.
    """
    model.reserve(len(audios))
    states = [model.begin() for _ in audios]
    size = model.facts.chunk
    said: list[Said] = [[] for _ in audios]
    steps = [-(-len(audio) // size) for audio in audios]
    for step in range(max(begin + count for begin, count in zip(begins, steps, strict=True))):
        pieces = {}
        for stream, audio in enumerate(audios):
            number = step - begins[stream]
            if 0 <= number < steps[stream] and said[stream] is not None:
                part = audio[number * size : (number + 1) * size]
                pieces[stream] = Piece(states[stream], part, number == steps[stream] - 1)
        before_step(step)
        _step(model, pieces, said)
    return said


def _step(model: Model, pieces: dict[int, Piece], said: list[Said]) -> None:
    try:
        added = model.step(list(pieces.values()))
    except Exception:  # noqa: BLE001 as the worker, which does not know what a library raises
        if len(pieces) == 1:
            said[next(iter(pieces))] = None
            return
        for stream, piece in pieces.items():
            _step(model, {stream: piece}, said)
        return
    for stream, tokens in zip(pieces, added, strict=True):
        said[stream] = [*(said[stream] or []), *tokens]
