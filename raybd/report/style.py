"""How every figure looks: colours safe for colour-blind readers, marks that differ in shape too, calm axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Figure = dict[str, Any]
"""A plotly figure as plain JSON, `data` and `layout`, and the `views` that buttons above it give; the page draws it."""

INK, MUTED, GRID, GATE = "#1c2430", "#5b6675", "#e4e8ee", "rgba(0,158,115,0.13)"
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072b2", "#d55e00", "#007a5a", "#b87700", "#a3447a", "#56b4e9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How one model is drawn wherever it appears: colour, symbol and dash all differ."""

    color: str
    symbol: str
    dash: str


_REFERENCES = (
    Mark(color=MUTED, symbol="triangle-down", dash="longdash"),
    Mark(color=SKY, symbol="hexagon", dash="longdashdot"),
)
_MARKS = {
    "suspect": Mark(color=VERMILLION, symbol="square", dash="dashdot"),
    "super_fine_tuning": Mark(color=ORANGE, symbol="triangle-up", dash="dash"),
    "fine_tuning": Mark(color=PURPLE, symbol="diamond", dash="dot"),
    "candidate": Mark(color=BLUE, symbol="circle", dash="solid"),
    "never_poisoned": Mark(color=GREEN, symbol="cross", dash="5px,2px"),
}


def marks(names: list[str]) -> dict[str, Mark]:
    """Return the mark of each model in `names`; the less common references take theirs in the order given."""
    references = [name for name in names if name not in _MARKS]
    assigned = {name: _REFERENCES[i % len(_REFERENCES)] for i, name in enumerate(references)}
    return {name: _MARKS.get(name) or assigned[name] for name in names}


def in_reading_order(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Return `rows` with suspect first, then the references, then candidate and never-poisoned twin."""
    ends = {"suspect": 0, "candidate": 2, "never_poisoned": 3}
    return {name: rows[name] for name in sorted(rows, key=lambda name: ends.get(name, 1))}


def axis(title: str, **options: Any) -> Figure:
    """Return one quiet axis with its title."""
    quiet = {
        "title": {"text": title, "standoff": 8},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#aab3bf",
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#aab3bf",
        "automargin": True,
    }
    return quiet | options


def figure(data: list[Figure], *, height: int, views: Mapping[str, Figure] | None = None, **layout: Any) -> Figure:
    """Return a figure in the house style; `height` is in pixels, the width is the page's.

    Args:
        data: the traces.
        height: in pixels.
        views: label of a button -> what it changes in the layout; the first is how the figure opens.
        layout: whatever else plotly knows.
    """
    base = {
        "height": height,
        "autosize": True,
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "hoverlabel": {"align": "left", "font": {"family": FONT, "size": 12}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
    }
    return {"data": data, "layout": base | layout, "views": dict(views or {})}


def error_bar(rates: Sequence[Mapping[str, Any]], *, value: str = "rate", scale: float = 100.0) -> Figure:
    """Return asymmetric error bars over the 95 % intervals of `rates`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (r["high"] - r[value]) for r in rates],
        "arrayminus": [scale * (r[value] - r["low"]) for r in rates],
        "thickness": 1.2,
        "width": 3,
    }


def safe(text: object) -> str:
    """Return `text` for a hover label, where plotly reads markup."""
    return escape(str(text), quote=False)
