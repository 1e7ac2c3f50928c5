"""Numbers as arguments of commands: what ``type=`` of ``argparse`` is given."""

import argparse

_LAST_PORT = 65_535


def counts(text: str) -> list[int]:
    """Whole numbers from 1, with commas between."""
    return [count(part) for part in text.split(",")]


def count(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def port_number(text: str) -> int:
    """The number of a TCP port; 0 takes a free one."""
    number = int(text)
    if not 0 <= number <= _LAST_PORT:
        raise argparse.ArgumentTypeError(f"must be 0 to {_LAST_PORT}")
    return number


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return number
