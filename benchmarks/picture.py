"""Draw each store and concurrency as a share of the floor. Readable on light and on dark pages."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from benchmarks.facts import sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["svg"]

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 860, 56, 20, 84, 116
PLOT = 240
BAR, GAP = 46, 8

STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #1f2328 }
    .title { font-size: 16px; font-weight: 600 } .small { font-size: 10.5px; fill: #59636e }
    .paper { fill: #ffffff } .line { stroke: #d1d9e0 } .floor { stroke: #1f2328; stroke-dasharray: 5 4 }
    .memory { fill: #8c959f } .sqlite { fill: #0969da } .postgres { fill: #8250df } .redis { fill: #cf222e }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc } .small { fill: #9198a1 } .paper { fill: #0d1117 } .line { stroke: #3d444d }
      .floor { stroke: #f0f6fc } .memory { fill: #6e7681 } .sqlite { fill: #4493f8 } .postgres { fill: #ab7df8 }
      .redis { fill: #f85149 }
    }
"""


def svg(known: dict[str, Any], figures: Sequence[dict[str, Any]]) -> str:
    """Return the picture as SVG. Above each bar: its share of the floor; below it: flows a second, milliseconds."""
    stores = list(dict.fromkeys(each["store"] for each in figures))
    groups = list(dict.fromkeys(each["concurrency"] for each in figures))
    group_width = len(stores) * (BAR + GAP) + 3 * GAP
    width = max(WIDTH, LEFT + RIGHT + len(groups) * group_width)
    step = (width - LEFT - RIGHT) / len(groups)
    top = max(1.0, *(each["ratio"] for each in figures))
    base = TOP + PLOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {base + BOTTOM}" role="img">',
        f"<title>Whole resets, as a share of four bare calls; {escape(sentence(known))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{base + BOTTOM}"/>',
        _text(LEFT, 28, "Durable resets a second, as a share of the same four calls with bare aiohttp", "title"),
        *_legend(stores, known),
    ]
    for share in (0.25, 0.5, 0.75, 1.0):
        y = base - share / top * PLOT
        name = "floor" if share == 1 else "line"
        parts.append(f'<line class="{name}" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, "floor" if share == 1 else f"{share:.2f}", "small", "end"))
    for place, concurrency in enumerate(groups):
        middle = LEFT + (place + 0.5) * step
        left = middle - len(stores) * (BAR + GAP) / 2
        several = [each for each in figures if each["concurrency"] == concurrency]
        for each in several:
            x = left + stores.index(each["store"]) * (BAR + GAP) + GAP / 2
            parts += _bar(each, x, base, each["ratio"] / top * PLOT)
        floor = sum(each["floor"] for each in several) / len(several)
        label = f"{concurrency} at once" if concurrency > 1 else "one by one"
        parts.append(_text(middle, base + 58, label, "", "middle"))
        parts.append(_text(middle, base + 73, f"floor: {floor:.0f} flows/s", "small", "middle"))
    parts.append(_text(LEFT, base + 100, f"{sentence(known)}. ms: a command, median and p99.", "small"))
    return "\n".join([*parts, "</svg>", ""])


def _legend(stores: Sequence[str], known: dict[str, Any]) -> list[str]:
    parts, x = [], float(LEFT)
    for store in stores:
        label = f"{store}: {known['durability'][store]}"
        parts.append(f'<rect class="{store}" x="{x:.0f}" y="44" width="12" height="12" rx="2"/>')
        parts.append(_text(x + 18, 54, label, "small"))
        x += 34 + 5.6 * len(label)
    return parts


def _bar(each: dict[str, Any], x: float, base: float, height: float) -> list[str]:
    middle = x + BAR / 2
    return [
        f'<rect class="{each["store"]}" x="{x:.1f}" y="{base - height:.1f}" width="{BAR}" height="{height:.1f}"/>',
        _text(middle, base - height - 6, f"{each['ratio']:.2f}", "", "middle"),
        _text(middle, base + 14, f"{each['flows_per_second']:.0f}/s", "small", "middle"),
        _text(middle, base + 27, f"{each['p50_ms']:.1f} ms", "small", "middle"),
        _text(middle, base + 40, f"p99 {each['p99_ms']:.0f}", "small", "middle"),
    ]


def _text(x: float, y: float, text: str, name: str, anchor: str = "start") -> str:
    return f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
