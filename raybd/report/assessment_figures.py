"""What the assessment found, drawn: accuracy by class, membership AUCs, re-injection curves."""

import math

from raybd.report.contents import Card
from raybd.report.style import GRID, MUTED, Figure, Mark, axis, error_bar, figure, in_reading_order, marks, safe
from raybd.report.wording import bracket, count, decimal, name_of, percent


def classes(suspect: Card, selected: Card) -> Figure:
    """Return each class's accuracy before and after, joined by a line; intervals are 95 %."""
    before = {entry["label"]: entry for entry in suspect["per_class"]}
    after = {entry["label"]: entry for entry in selected["per_class"]}
    labels = [label for label in before if label in after]
    names = ["pooled" if label is None else f"class {label}" for label in labels]
    joins: list[float | None] = []
    rungs: list[str | None] = []
    for label, name in zip(labels, names, strict=True):
        joins += [100 * before[label]["rate"], 100 * after[label]["rate"], None]
        rungs += [name, name, None]
    join = {
        "type": "scatter",
        "mode": "lines",
        "x": joins,
        "y": rungs,
        "showlegend": False,
        "hoverinfo": "skip",
        "name": "change",
    }
    return figure(
        [
            join | {"line": {"color": "#b8c1cc", "width": 3}},
            _class_trace("suspect", "suspect (before)", [before[k] for k in labels], names),
            _class_trace("candidate", "candidate (after), 95 % interval", [after[k] for k in labels], names),
        ],
        height=110 + 19 * max(len(labels), 4),
        xaxis=axis("clean accuracy on test, %"),
        yaxis=axis("", range=[len(labels) - 0.3, -0.7], type="category", tickfont={"size": 11}, ticks="", dtick=1),
        margin={"l": 80, "r": 16, "t": 32, "b": 48},
    )


def _class_trace(model: str, label: str, rates: list[Card], names: list[str]) -> Figure:
    style = marks([model])[model]
    after = model == "candidate"
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [100 * r["rate"] for r in rates],
        "y": names,
        "text": [f"{percent(r['rate'])} % {bracket(r)}, n = {count(r['n'])}" for r in rates],
        "hovertemplate": "%{y}, " + model + ": %{text}<extra></extra>",
        "marker": {
            "symbol": style.symbol if after else f"{style.symbol}-open",
            "color": style.color,
            "size": 8,
            "line": {"width": 1.5, "color": style.color},
        },
        # Only one of the two carries bars: two on one line cannot be read, and the table has both.
        **({"error_x": error_bar(rates) | {"thickness": 1, "width": 0}} if after else {}),
    }


def membership(reading: Card) -> Figure:
    """Return the AUC of one membership reading for each model that has one, with 95 % intervals."""
    rows = {name: row for name, row in in_reading_order(reading["rows"]).items() if row}
    styles = marks(list(rows))
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": safe(name_of(name)),
            "x": [row["auc"]],
            "y": [_folded(name_of(name))],
            "error_x": error_bar([row], value="auc", scale=1.0),
            "hovertemplate": f"AUC {decimal(row['auc'], 3)} [{decimal(row['low'], 3)}, {decimal(row['high'], 3)}]"
            "<extra></extra>",
            "marker": {"symbol": styles[name].symbol, "color": styles[name].color, "size": 10},
        }
        for name, row in rows.items()
    ]
    ends = [0.5, *(row[end] for row in rows.values() for end in ("low", "high"))]
    chance = {"type": "line", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    return figure(
        traces,
        height=90 + 36 * len(rows),
        showlegend=False,
        xaxis=axis("AUC (0.5 = guessing)", range=[min(ends) - 0.02, max(ends) + 0.02], tickformat=".2f"),
        yaxis=axis("", type="category", autorange="reversed", ticks="", dtick=1),
        shapes=[chance | {"line": {"color": MUTED, "width": 1, "dash": "dot"}}],
        margin={"l": 80, "r": 16, "t": 8, "b": 48},
    )


def _folded(name: str) -> str:
    """A name on two lines: beside a figure on a phone there is no room for one."""
    return safe(name).replace(", ", ",<br>").replace(" fine-tuning", "<br>fine-tuning").replace(" twin", "<br>twin")


def reinjection(study: Card) -> Figure:
    """Return ASR after fine-tuning with k poisoned samples, k on a log axis, the control k = 0 set apart."""
    counts = study["poisoned_samples"]
    curves = {name: rates for name, rates in in_reading_order(study["curves"]).items() if rates}
    styles = marks(list(curves))
    # Models at the same k stand side by side, 0.03 of a decade apart, so that their bars can be read.
    shifts = {name: 0.03 * (i - (len(curves) - 1) / 2) for i, name in enumerate(curves)}
    traces = [_curve(name, counts, rates, styles[name], shifts[name]) for name, rates in curves.items()]
    ticks = [_place(k) for k in counts]
    split = {"type": "line", "x0": -0.25, "x1": -0.25, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    return figure(
        traces,
        height=420,
        xaxis=axis(
            "poisoned samples k (log scale)",
            tickvals=ticks,
            ticktext=["0 (control)" if k == 0 else str(k) for k in counts],
            range=[min(ticks) - 0.2, max(ticks) + 0.15],
        ),
        yaxis=axis("attack success rate after, %", range=[-4, 104]),
        shapes=[split | {"line": {"color": GRID, "width": 2}}] if 0 in counts else [],
        margin={"l": 56, "r": 16, "t": 32, "b": 48},
    )


def _place(k: int) -> float:
    """Where k stands: its decimal logarithm, and 0 half a decade left of 1."""
    return math.log10(k) if k > 0 else -0.5


def _curve(name: str, counts: list[int], rates: list[Card | None], style: Mark, shift: float) -> Figure:
    """One model's curve; a k whose training diverged has no rate and leaves a gap."""
    points = [(k, rate) for k, rate in zip(counts, rates, strict=True) if rate is not None]
    # The control is no point of the curve: an empty point after it breaks the line.
    breaks = [i + 1 for i, (k, _) in enumerate(points) if k == 0]
    xs: list[float | None] = [_place(k) + shift for k, _ in points]
    ys: list[float | None] = [100 * rate["rate"] for _, rate in points]
    shown = [rate for _, rate in points]
    texts = [f"{k} poisoned: {percent(rate['rate'])} % {bracket(rate)}" for k, rate in points]
    for at in breaks:
        xs.insert(at, None)
        ys.insert(at, None)
        shown.insert(at, shown[at - 1])
        texts.insert(at, "")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": safe(name_of(name)),
        "x": xs,
        "y": ys,
        "error_y": error_bar(shown),
        "text": texts,
        "hovertemplate": "%{text}",
        "line": {"color": style.color, "dash": style.dash, "width": 1.8},
        "marker": {"symbol": style.symbol, "color": style.color, "size": 9},
    }
