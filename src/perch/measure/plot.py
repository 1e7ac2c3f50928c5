"""Line and bar plots as inline SVG: no script, no library, readable in any browser."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 40, 44
_TICKS = 5
_BAR, _BAR_LEFT, _BAR_TOP = 22, 200, 4
_COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A named line of points, in order of x."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Bar:
    """A named value; ``passed`` colours it, None leaves it plain."""

    name: str
    value: float
    label: str
    passed: bool | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: what it shows, and where it begins and ends."""

    label: str
    low: float
    high: float
    whole: bool = False
    """Of what is counted: no ticks between whole numbers."""

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the axis."""
        step = max(1.0, self._step) if self.whole else self._step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    @property
    def _step(self) -> float:
        rough = (self.high - self.low) / _TICKS or 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        nice = (1, 2, 5, 10) if self.whole else (1, 2, 2.5, 5, 10)
        return next(times * power for times in nice if times * power >= rough)


def plot(title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """An SVG element."""
    place = _Place(x, y)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(_vertical(place, tick) for tick in x.ticks),
        *(_horizontal(place, tick) for tick in y.ticks),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x.label, "middle"),
        _text(_LEFT, 14, y.label, "start"),
        *(_drawn(place, line, _COLOURS[index % 3]) for index, line in enumerate(lines)),
        *(_named(line, index) for index, line in enumerate(lines)),
        "</svg>",
    ]
    return "".join(parts)


def bars(title: str, axis: Axis, rows: Sequence[Bar]) -> str:
    """An SVG element with one horizontal bar below the other, each as long as its value."""
    height = _BAR_TOP + len(rows) * _BAR + _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        *(_bar_tick(axis, tick, height) for tick in axis.ticks),
        _text((_BAR_LEFT + _WIDTH - _RIGHT) / 2, height - 6, axis.label, "middle"),
        *(_bar(axis, row, _BAR_TOP + index * _BAR) for index, row in enumerate(rows)),
        "</svg>",
    ]
    return "".join(parts)


def cdf(values: Sequence[float], most: int = 400) -> list[Point]:
    """The share of ``values`` (sorted) up to each, thinned to about ``most`` points."""
    count = len(values)
    picked = sorted({round(step * (count - 1) / most) for step in range(most + 1)}) if count else []
    return [(values[index], 100 * (index + 1) / count) for index in picked]


@dataclass(frozen=True, slots=True)
class _Place:
    x: Axis
    y: Axis

    def at(self, point: Point) -> Point:
        return self.across(point[0]), self.down(point[1])

    def across(self, value: float) -> float:
        share = (value - self.x.low) / ((self.x.high - self.x.low) or 1)
        return _LEFT + min(max(share, 0), 1) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        share = (value - self.y.low) / ((self.y.high - self.y.low) or 1)
        return _HEIGHT - _BOTTOM - min(max(share, 0), 1) * (_HEIGHT - _TOP - _BOTTOM)


def _drawn(place: _Place, line: Line, colour: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place.at, line.points))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _named(line: Line, index: int) -> str:
    x = _WIDTH - _RIGHT - 8
    y = 14 + index * 16
    colour = _COLOURS[index % 3]
    return f'<text x="{x}" y="{y}" text-anchor="end" style="fill:{colour}">{escape(line.name)}</text>'


def _vertical(place: _Place, value: float) -> str:
    x = place.across(value)
    return (
        f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        f"{_text(x, _HEIGHT - _BOTTOM + 16, f'{value:g}', 'middle')}"
    )


def _horizontal(place: _Place, value: float) -> str:
    y = place.down(value)
    return (
        f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"/>'
        f"{_text(_LEFT - 8, y + 4, f'{value:g}', 'end')}"
    )


def _bar(axis: Axis, row: Bar, top: float) -> str:
    colour = {None: _COLOURS[0], True: _COLOURS[2], False: _COLOURS[1]}[row.passed]
    end = _along(axis, row.value)
    middle = top + _BAR / 2 + 4
    return (
        f'<rect x="{_BAR_LEFT}" y="{top + 4:.1f}" width="{end - _BAR_LEFT:.1f}" height="{_BAR - 8}" '
        f'fill="{colour}"/>{_text(_BAR_LEFT - 8, middle, row.name, "end")}'
        f"{_text(end + 6, middle, row.label, 'start')}"
    )


def _bar_tick(axis: Axis, value: float, height: float) -> str:
    x = _along(axis, value)
    return (
        f'<line x1="{x:.1f}" y1="{_BAR_TOP}" x2="{x:.1f}" y2="{height - _BOTTOM}"/>'
        f"{_text(x, height - _BOTTOM + 16, f'{value:g}', 'middle')}"
    )


def _along(axis: Axis, value: float) -> float:
    share = (value - axis.low) / ((axis.high - axis.low) or 1)
    return _BAR_LEFT + min(max(share, 0), 1) * (_WIDTH - _RIGHT - 48 - _BAR_LEFT)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
