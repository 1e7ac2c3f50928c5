"""The live line: there on a terminal, absent everywhere else."""

import io

from rich.console import Console

from perch.cli.display import Display


def drawn(*, terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    with Display("speech[0].wav", 32_000, console) as display:
        display.heard(16_000, "hello [bold]bird")
        display.tell("This is the mock.")
    return out.getvalue()


def test_a_terminal_shows_the_name_the_progress_and_the_words() -> None:
    shown = drawn(terminal=True)
    assert "speech[0].wav" in shown
    assert "50%" in shown
    assert "hello [bold]bird" in shown


def test_anything_else_gets_only_the_lines_that_stay() -> None:
    assert drawn(terminal=False) == "This is the mock.\n"
