"""What the search did, drawn: the Pareto front, the effect of each parameter, the learning-rate schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raybd.report.contents import Card, ReportInput
from raybd.report.style import BLUE, GATE, GREEN, INK, MUTED, ORANGE, Figure, axis, figure, marks, safe
from raybd.report.trials import KINDS, hover, kind_of, measured, published, rates_line, references
from raybd.report.wording import name_of, percent

Point = tuple[Mapping[str, Any], str]
"""Something with `clean_accuracy` and `attack_success_rate`, and its hover text."""

# Shape and filling alone tell the kinds apart; colour only helps.
_KIND_MARKS: dict[str, tuple[str, Figure]] = {
    "infeasible": ("over a limit", {"symbol": "circle-open", "color": MUTED, "size": 8}),
    "pruned": ("stopped early", {"symbol": "triangle-down-open", "color": MUTED, "size": 9}),
    "collapsed": ("collapsed", {"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": INK}}),
    "feasible": ("within both limits", {"symbol": "circle", "color": GREEN, "size": 9}),
    "front": ("on the front", {"symbol": "diamond", "color": BLUE, "size": 11}),
}
_CHOSEN: Figure = {"symbol": "star-open", "size": 24, "color": BLUE, "line": {"width": 2, "color": BLUE}}
_FRESH: Figure = {"symbol": "cross-thin", "size": 10, "line": {"width": 2, "color": BLUE}}
_PUBLISHED: Figure = {"symbol": "square-open", "size": 19, "color": ORANGE, "line": {"width": 2, "color": ORANGE}}


def pareto(run: ReportInput, study: Card) -> Figure:
    """Return attack success against clean accuracy on the selection split, one mark per trial."""
    records = measured(study)
    views = _views(run, study, records)
    first = views["trials"]
    return figure(
        [*_trial_traces(records, study["front"]), *_published_traces(run, records), *_chosen_traces(run, records)],
        height=560,
        xaxis=axis("clean accuracy on selection, %", range=first["xaxis.range"]),
        yaxis=axis("attack success rate on selection, %", range=first["yaxis.range"]),
        shapes=_gate_shapes(run, study),
        annotations=_gate_notes(run, study),
        views=views,
    )


def _points(points: Iterable[Point], name: str, marker: Figure, **options: Any) -> Figure:
    shown = list(points)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [100 * rates["clean_accuracy"]["rate"] for rates, _ in shown],
        "y": [100 * rates["attack_success_rate"]["rate"] for rates, _ in shown],
        "text": [text for _, text in shown],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }
    return trace | options


def _trial_traces(records: list[Card], front: list[int]) -> list[Figure]:
    on = sorted((r for r in records if r["number"] in front), key=lambda r: -r["clean_accuracy"]["rate"])
    line = {"mode": "lines", "line": {"color": BLUE, "width": 1.2, "shape": "hv"}, "showlegend": False}
    traces = [_points([(r, "") for r in on], "front", {}, hoverinfo="skip", hovertemplate=None, **line)]
    for kind in KINDS:
        label, marker = _KIND_MARKS[kind]
        those = [(r, hover(r)) for r in records if kind_of(r, front) == kind]
        if those:
            over = ", over a limit" if kind == "front" and not those[0][0]["feasible"] else ""
            traces.append(_points(those, f"{label}{over} ({len(those)})", marker))
    return traces


def _published_traces(run: ReportInput, records: list[Card]) -> list[Figure]:
    """Published settings that a trial ran are framed; the others are known on the test split only, and say so."""
    here = published(run)
    traces = [
        _points([(r, hover(r)) for r in records if r["number"] in numbers], safe(name), _PUBLISHED)
        for name, numbers in here.items()
    ]
    styles = marks(list(references(run)))
    for key, row in references(run).items():
        name, style = name_of(key), styles[key]
        if f"published: {name}" not in here:
            marker = {"symbol": f"{style.symbol}-open", "size": 12, "color": style.color, "line": {"width": 2}}
            text = f"<b>{safe(name)}</b>, on the test split<br>{rates_line(row)}"
            traces.append(_points([(row, text)], f"{safe(name)} (test split)", marker))
    return traces


def _chosen_traces(run: ReportInput, records: list[Card]) -> list[Figure]:
    """The chosen trial ringed, and what its setting gave with fresh seeds: the check against a lucky trial."""
    if run.selection is None:
        return []
    number = run.selection["number"]
    ring = _points([(r, hover(r)) for r in records if r["number"] == number], f"chosen: trial {number}", _CHOSEN)
    again = [
        {"clean_accuracy": accuracy, "attack_success_rate": success}
        for setting in run.selection["confirmed"]
        if setting["number"] == number
        for accuracy, success in zip(setting["clean_accuracy"], setting["attack_success_rate"], strict=True)
    ]
    fresh = [(r, f"chosen setting, fresh seed<br>{rates_line(r)}") for r in again]
    return [ring, _points(fresh, f"chosen, fresh seeds ({len(fresh)})", _FRESH)] if fresh else [ring]


def corner_of(limits: Card, reference: Card) -> tuple[float, float] | None:
    """Lowest C-Acc and highest ASR that limits let through, in percent; the rates, not their bounds."""
    drop, success = limits.get("max_accuracy_drop"), limits.get("max_attack_success_rate")
    return None if drop is None or success is None else (100 * (reference["rate"] - drop), 100 * success)


def own_corner(run: ReportInput, study: Card) -> tuple[float, float] | None:
    """The corner of the search's own limits, which say what is feasible; None where they are the gate's."""
    own = corner_of(run.limits, study["reference"])
    return None if own == corner_of(run.gate, study["reference"]) else own


def _gate_shapes(run: ReportInput, study: Card) -> list[Figure]:
    gate, reference = run.gate, study["reference"]
    suspect = {"type": "line", "x0": 100 * reference["rate"], "x1": 100 * reference["rate"], "y0": 0, "y1": 1}
    shapes = [suspect | {"yref": "paper", "line": {"color": MUTED, "width": 1, "dash": "dot"}, "layer": "below"}]
    corner = corner_of(gate, reference)
    if corner:
        edge = {"color": GREEN, "width": 1, "dash": "dash"}
        box = {"type": "rect", "x0": corner[0], "x1": 101.5, "y0": -3, "y1": corner[1]}
        shapes.append(box | {"fillcolor": GATE, "line": edge, "layer": "below"})
    own = own_corner(run, study)
    if own:
        edge = {"color": BLUE, "width": 1.5, "dash": "dot"}
        box = {"type": "rect", "x0": own[0], "x1": 101.5, "y0": -3, "y1": own[1]}
        shapes.append(box | {"line": edge, "layer": "below"})
    return shapes


def _gate_notes(run: ReportInput, study: Card) -> list[Figure]:
    gate, reference = run.gate, study["reference"]
    quiet = {"showarrow": False, "font": {"size": 11, "color": MUTED}}
    along = {"x": 100 * reference["rate"], "xanchor": "left", "y": 0.55, "yref": "paper", "textangle": -90}
    notes = [quiet | along | {"text": f"the suspect's C-Acc, {percent(reference['rate'])} %"}]
    corner = corner_of(gate, reference)
    if corner:
        place = {"x": 1, "xref": "paper", "xanchor": "right", "y": corner[1], "yanchor": "bottom"}
        notes.append(quiet | place | {"text": "gate"})
    own = own_corner(run, study)
    if own:
        place = {"x": own[0], "xanchor": "left", "y": own[1], "yanchor": "bottom"}
        notes.append(quiet | place | {"text": "search's limits", "font": {"size": 11, "color": BLUE}})
    return notes


def _views(run: ReportInput, study: Card, records: list[Card]) -> dict[str, Figure]:
    """What the buttons show. One collapsed trial would squeeze all others into a line: the first view is without."""
    reference = 100 * study["reference"]["rate"]
    sound = [r for r in records if kind_of(r, study["front"]) not in {"collapsed", "pruned"}]
    right = min(101.0, max([*_accuracies([*sound, *references(run).values()]), reference]) + 1.5)
    lowest = min([*_accuracies([*sound, *references(run).values()]), reference])
    gate = corner_of(run.gate, study["reference"])
    views = {"trials": _view([lowest - 1.5, right], [-3.0, 103.0])}
    if gate:
        views["near the gate"] = _view([2 * gate[0] - reference - 1, right], [-0.3 * gate[1], 4 * gate[1]])
    views["all"] = _view([max(-1.0, min([*_accuracies(records), lowest]) - 3), 101.0], [-3.0, 103.0])
    return views


def _view(x: list[float], y: list[float]) -> Figure:
    return {"xaxis.range": x, "yaxis.range": y}


def _accuracies(rows: Iterable[Card]) -> list[float]:
    return [100 * row["clean_accuracy"]["rate"] for row in rows]


def effect(run: ReportInput, study: Card, parameter: str) -> Figure:
    """Return one searched parameter against ASR (above) and C-Acc (below), one mark per trial."""
    dimension = run.space["search"][parameter]
    records = [r for r in measured(study) if parameter in r["setting"]]
    traces = []
    for kind in KINDS:
        label, marker = _KIND_MARKS[kind]
        those = [r for r in records if kind_of(r, study["front"]) == kind]
        small = marker | {"size": 0.75 * marker["size"]}
        traces += _effect_traces(those, parameter, dimension, label, small)
    chosen = [r for r in records if run.selection and r["number"] == run.selection["number"]]
    traces += _effect_traces(chosen, parameter, dimension, "chosen", _CHOSEN | {"size": 17})
    return figure(
        traces,
        height=330,
        showlegend=False,
        margin={"l": 48, "r": 10, "t": 6, "b": 44},
        xaxis=axis(parameter, anchor="y2", **_scale(dimension)),
        yaxis=axis("ASR, %", range=[-6, 106], domain=[0.54, 1], dtick=50),
        yaxis2=axis("C-Acc, %", domain=[0, 0.46], nticks=4, range=_sound_range(study, records)),
    )


def _sound_range(study: Card, records: list[Card]) -> list[float]:
    """C-Acc of the trials that were neither wrecked nor stopped, with some room."""
    sound = [r for r in records if kind_of(r, study["front"]) not in {"collapsed", "pruned"}]
    values = _accuracies(sound) or [0.0, 100.0]
    room = 0.12 * (max(values) - min(values)) + 0.2
    return [min(values) - room, max(values) + room]


def _effect_traces(records: list[Card], parameter: str, dimension: Card, label: str, marker: Figure) -> list[Figure]:
    if not records:
        return []
    values = [r["setting"][parameter] for r in records]
    shared = {
        "type": "scatter",
        "mode": "markers",
        "name": label,
        "x": [str(v) for v in values] if dimension["type"] == "categorical" else values,
        "text": [hover(r) for r in records],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }
    return [
        shared | {"y": [100 * r["attack_success_rate"]["rate"] for r in records]},
        shared | {"y": [100 * r["clean_accuracy"]["rate"] for r in records], "yaxis": "y2"},
    ]


def _scale(dimension: Card) -> Figure:
    """The axis of one searched parameter, as wide as its range in the space."""
    if dimension["type"] == "categorical":
        order = [str(choice) for choice in dimension["choices"]]
        ends = [-0.5, len(order) - 0.5]
        return {"type": "category", "categoryorder": "array", "categoryarray": order, "range": ends}
    low, high = dimension["low"], dimension["high"]
    if not dimension.get("log"):
        return {"range": _padded(low, high)}
    ticks = _log_ticks(low, high)
    return {
        "type": "log",
        "range": _padded(math.log10(low), math.log10(high)),
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def _padded(low: float, high: float) -> list[float]:
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten inside the range; with fewer than three of them, also 2 and 5 times each."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5)):
        ticks = [float(f"{k}e{d}") for d in decades for k in steps if low <= float(f"{k}e{d}") <= high]
        if len(ticks) >= 3:
            break
    return ticks


def schedules(run: ReportInput, chosen: list[float]) -> Figure:
    """Return the chosen learning rate at each step, the references' beside it for comparison."""
    curves = {"candidate": chosen} | {name: rates for name, rates in run.reference_schedules.items() if rates}
    styles = marks(list(curves))
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "chosen setting" if name == "candidate" else safe(name_of(name)),
            "x": list(range(len(rates))),
            "y": [float(f"{rate:.6g}") for rate in rates],
            "line": {
                "color": styles[name].color,
                "dash": styles[name].dash,
                "width": 2 if name == "candidate" else 1.5,
            },
            "hovertemplate": "step %{x:,}: %{y:.3g}",
        }
        for name, rates in curves.items()
    ]
    return figure(
        traces,
        height=380,
        hovermode="x unified",
        xaxis=axis("step", rangemode="tozero"),
        yaxis=axis("learning rate", rangemode="tozero"),
        views={"linear": _rate_axis("linear"), "logarithmic": _rate_axis("log")},
    )


def _rate_axis(kind: str) -> Figure:
    return {"yaxis.type": kind, "yaxis.autorange": True}
