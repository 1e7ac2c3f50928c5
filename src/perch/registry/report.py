"""What a pull tells of its progress, and to whom."""

from typing import Protocol


class Report(Protocol):
    """Whoever shows it: a terminal, a log, a test."""

    def begin(self, name: str, size: int | None) -> None:
        """A file of ``size`` bytes will be fetched; all files of a pull are told before the first comes."""

    def at(self, name: str, position: int) -> None:
        """So many bytes of it are here; fewer than before if it began anew."""

    def say(self, text: str) -> None:
        """Something worth a line."""


class Quiet:
    """Tells nobody."""

    def begin(self, name: str, size: int | None) -> None:
        pass

    def at(self, name: str, position: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass
