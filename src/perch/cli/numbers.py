"""Numbers as arguments of commands: what ``type=`` of ``argparse`` is given."""

import argparse


def counts(text: str) -> list[int]:
    """Whole numbers from 1, with commas between."""
    return [count(part) for part in text.split(",")]


def count(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return number
