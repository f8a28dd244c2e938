"""The results as a chart in SVG: a bar per model and number of threads, on a logarithmic scale around 1."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from bench.rows import label

WIDTH, LEFT, RIGHT, TOP = 900, 270, 60, 56
BAR, GAP = 9, 7
"""Heights of a bar, and of the space between models, in pixels."""

COLOURS = ("#2f6fab", "#8ab6de", "#c9dcee")
"""By number of threads, the fewest first."""

SLOWER = ("#b4552d", "#dba184", "#efd6c9")
"""The same where lepton is slower."""

TICKS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def svg(results: Mapping[str, Any]) -> str:
    """A chart of the ratio to the first of the other runtimes; longer to the right is faster than that, to the left slower."""
    other = results["against"][0]
    rows = [row for row in results["rows"] if not row["error"] and other in row["speedup"]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    threads = sorted({row["threads"] for row in rows})
    ratio = {(row["model"], row["threads"]): float(row["speedup"][other]) for row in rows}
    low = min([0.5, *ratio.values()])
    high = max([2.0, *ratio.values()])

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / low) / math.log(high / low)

    step = BAR * len(threads) + GAP
    height = TOP + step * len(models) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" fill="#222222">{escape(label(other))}\'s time divided by lepton\'s: '
        "right of 1, lepton is faster</text>",
        *_legend(threads),
        *_axis([t for t in TICKS if low <= t <= high], x, height),
    ]
    for k, model in enumerate(models):
        y = TOP + k * step
        parts.append(f'<text x="{LEFT - 8}" y="{y + step / 2:.1f}" text-anchor="end" fill="#222222">{escape(model)}</text>')
        for n, count in enumerate(threads):
            if (value := ratio.get((model, count))) is not None:
                parts += _bar(value, n, y + n * BAR, x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(threads: Sequence[int]) -> list[str]:
    parts = []
    for n, count in enumerate(threads):
        at = LEFT + 130 * n
        parts.append(f'<rect x="{at}" y="27" width="12" height="12" fill="{COLOURS[n % len(COLOURS)]}"/>')
        parts.append(f'<text x="{at + 18}" y="37" fill="#222222">{count} thread{"s" if count > 1 else ""}</text>')
    return parts


def _axis(ticks: Sequence[float], x: Any, height: int) -> list[str]:
    parts = []
    for tick in ticks:
        colour = "#555555" if tick == 1 else "#dddddd"
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP - 6}" y2="{height - 20}" stroke="{colour}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle" fill="#555555">{tick:g}</text>')
    return parts


def _bar(value: float, series: int, y: float, x: Any) -> list[str]:
    begin, end = sorted((x(1.0), x(value)))
    colour = (COLOURS if value >= 1 else SLOWER)[series % len(COLOURS)]
    at, anchor = (end + 4, "start") if value >= 1 else (begin - 4, "end")
    return [
        f'<rect x="{begin:.1f}" y="{y:.1f}" width="{max(end - begin, 0.5):.1f}" height="{BAR - 1}" fill="{colour}"/>',
        f'<text x="{at:.1f}" y="{y + BAR - 1:.1f}" font-size="9" text-anchor="{anchor}" fill="#444444">{value:.2f}</text>',
    ]
