"""Who is told what happens on the way to an engine."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Metadata = tuple[tuple[str, str], ...]


class Watch(Protocol):
    """Counts and traces. Called on the event loop; nothing here may wait."""

    def attempt(self, endpoint: str) -> AbstractContextManager[Metadata]:
        """Around one stream on ``endpoint``; yields metadata to send with it."""
        ...

    def failover(self, code: str) -> None:
        """An engine failed a stream mid-way with ``code``, and the stream goes on."""
        ...

    def replayed(self, samples: int) -> None:
        """So much audio is sent to an engine again."""
        ...

    def engine_write(self, seconds: float) -> None:
        """How long one message to an engine took; told about once a second of audio."""
        ...


class Unwatched:
    """Tells nobody."""

    @contextmanager
    def attempt(self, endpoint: str) -> Iterator[Metadata]:  # noqa: ARG002
        yield ()

    def failover(self, code: str) -> None: ...

    def replayed(self, samples: int) -> None: ...

    def engine_write(self, seconds: float) -> None: ...
