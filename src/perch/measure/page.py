"""One HTML file for a report: no script, nothing fetched, readable offline and in print."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c1917 }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } .wide { overflow-x: auto }
td, th { padding: .3rem .6rem; border-bottom: 1px solid #e7e5e4; text-align: left; vertical-align: top }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
th.number { white-space: normal } th { vertical-align: bottom }
.good { color: #3f6212 } .bad { color: #b91c1c; font-weight: 600 }
svg { width: 100%; height: auto } svg text { font-size: 12px; fill: #57534e } svg line { stroke: #e7e5e4 }
li { margin: .2rem 0 } .note { color: #57534e }
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; ``passed`` colours it, None leaves it plain."""

    cells: Sequence[str]
    passed: bool | None = None


def page(title: str, sections: Iterable[str]) -> str:
    """A whole document of ``sections``, which are HTML already."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{''.join(sections)}</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Row], *, text_columns: int = 1) -> str:
    """A table whose first ``text_columns`` columns are text and the others numbers."""
    kinds = ["" if index < text_columns else " class=number" for index in range(len(head))]
    top = "".join(f"<th{kind}>{escape(name)}" for kind, name in zip(kinds, head, strict=True))
    body = "".join(_row(row, kinds) for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'


def section(title: str, *parts: str) -> str:
    return f"<h2>{escape(title)}</h2>{''.join(parts)}"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def items(texts: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _row(row: Row, kinds: Sequence[str]) -> str:
    verdict = {None: "", True: ' class="good"', False: ' class="bad"'}[row.passed]
    cells = "".join(f"<td{kind}>{escape(cell)}" for kind, cell in zip(kinds, row.cells, strict=True))
    return f"<tr{verdict}>{cells}</tr>"
