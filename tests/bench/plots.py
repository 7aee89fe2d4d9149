"""Plots as SVG, readable in light and dark, and small enough to stand beside the text."""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LABEL, VALUE = 760, 260, 110
LINE, HEAD, FOOT = 22, 52, 14
STYLE = """
    svg { --ground: #ffffff; --ink: #1b2430; --quiet: #55606e; --line: #d5dbe2;
      --bar: #3d6fb6; --missed: #b3471d; }
    @media (prefers-color-scheme: dark) {
      svg { --ground: #161b22; --ink: #e6ebf1; --quiet: #a7b2bf; --line: #343d49;
        --bar: #7fb0f5; --missed: #ff9a6b; }
    }
    .ground { fill: var(--ground); } .line { stroke: var(--line); }
    .bar { fill: var(--bar); } .missed { fill: var(--missed); }
    .aim { stroke: var(--ink); stroke-width: 2; }
    text { fill: var(--ink); font-size: 12.5px; } .title { font-size: 15px; font-weight: 600; }
    .quiet { fill: var(--quiet); } .right { text-anchor: end; }
"""


class Bar(NamedTuple):
    """One bar: ``aim`` is marked where there is one."""

    label: str
    value: float
    text: str
    aim: float | None = None

    @property
    def is_missed(self) -> bool:
        """Whether it is beyond its aim."""
        return self.aim is not None and self.value > self.aim


def bars(title: str, unit: str, found: Sequence[Bar]) -> str:
    """Horizontal bars on a scale of powers of ten; none: a plot that says that nothing was
    measured."""
    height = HEAD + LINE * max(1, len(found)) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        " font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\">",
        f"  <title>{escape(title)}</title>",
        f"  <style>{STYLE}  </style>",
        f'  <rect class="ground" width="{WIDTH}" height="{height}" rx="10"/>',
        f'  <text class="title" x="16" y="26">{escape(title)}</text>',
        f'  <text class="quiet right" x="{WIDTH - 16}" y="26">{escape(unit)}</text>',
    ]
    if not found:
        parts += [f'  <text class="quiet" x="16" y="{HEAD + 12}">not measured yet</text>']
    else:
        parts += _drawn(found, height)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(found: Sequence[Bar], height: int) -> list[str]:
    numbers = [b.value for b in found] + [b.aim for b in found if b.aim is not None]
    low = math.floor(math.log10(max(min(numbers), 1e-9)))
    high = max(math.ceil(math.log10(max(*numbers, 1e-9))), low + 1)
    room = WIDTH - LABEL - VALUE

    def at(value: float) -> float:
        share = (math.log10(max(value, 1e-9)) - low) / (high - low)
        return round(LABEL + room * min(1.0, max(0.0, share)), 1)

    parts = []
    for power in range(low, high + 1):
        x = at(10.0**power)
        parts.append(f'  <path class="line" d="M{x} {HEAD - 6}V{height - FOOT}"/>')
        mark = f"{10**power:,}" if power >= 0 else f"{10.0**power:g}"
        parts.append(f'  <text class="quiet" x="{x + 3}" y="{HEAD - 6}">{mark}</text>')
    for number, bar in enumerate(found):
        y = HEAD + LINE * number
        kind = "missed" if bar.is_missed else "bar"
        parts.append(
            f'  <text class="right" x="{LABEL - 10}" y="{y + 15}">{escape(bar.label)}</text>'
        )
        width = max(1.0, round(at(bar.value) - LABEL, 1))
        parts.append(
            f'  <rect class="{kind}" x="{LABEL}" y="{y + 4}" width="{width}" height="14" rx="2"/>'
        )
        parts.append(f'  <text x="{LABEL + width + 6:g}" y="{y + 15}">{escape(bar.text)}</text>')
        if bar.aim is not None:
            parts.append(f'  <path class="aim" d="M{at(bar.aim)} {y + 1}v20"/>')
    return parts
