"""What the search did, drawn: the Pareto front, the effect of each parameter, the learning-rate schedule."""

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
    wide, near = _ranges(run, study, records)
    return figure(
        [*_trial_traces(records, study["front"]), *_published_traces(run, records), *_chosen_traces(run, records)],
        height=560,
        xaxis=axis("clean accuracy on selection, %", range=wide[0]),
        yaxis=axis("attack success rate on selection, %", range=wide[1]),
        shapes=_gate_shapes(run.gate, study["reference"]),
        annotations=_gate_notes(run.gate, study["reference"]),
        updatemenus=[
            _buttons(
                {
                    "all trials": {"xaxis.range": wide[0], "yaxis.range": wide[1]},
                    "around the gate": {"xaxis.range": near[0], "yaxis.range": near[1]},
                }
            )
        ],
        margin={"l": 56, "r": 16, "t": 52, "b": 48},
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
            traces.append(_points(those, f"{label} ({len(those)})", marker))
    return traces


def _published_traces(run: ReportInput, records: list[Card]) -> list[Figure]:
    """Published settings that a trial ran are framed; the others are known on the test split only, and say so."""
    here = published(run)
    traces = [
        _points(
            [(r, hover(r)) for r in records if r["number"] in numbers], f"published: {safe(name)}", _PUBLISHED
        )
        for name, numbers in here.items()
    ]
    styles = marks(list(references(run)))
    for key, row in references(run).items():
        name, style = name_of(key), styles[key]
        if name not in here:
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


def _gate_corner(gate: Card, reference: Card) -> tuple[float, float] | None:
    """Lowest C-Acc and highest ASR that the gate lets through, in percent; the rates, not their bounds."""
    drop, success = gate.get("max_accuracy_drop"), gate.get("max_attack_success_rate")
    return None if drop is None or success is None else (100 * (reference["rate"] - drop), 100 * success)


def _gate_shapes(gate: Card, reference: Card) -> list[Figure]:
    suspect = {"type": "line", "x0": 100 * reference["rate"], "x1": 100 * reference["rate"], "y0": 0, "y1": 1}
    shapes = [suspect | {"yref": "paper", "line": {"color": MUTED, "width": 1, "dash": "dot"}, "layer": "below"}]
    corner = _gate_corner(gate, reference)
    if corner:
        edge = {"color": GREEN, "width": 1, "dash": "dash"}
        box = {"type": "rect", "x0": corner[0], "x1": 101.5, "y0": -3, "y1": corner[1]}
        shapes.append(box | {"fillcolor": GATE, "line": edge, "layer": "below"})
    return shapes


def _gate_notes(gate: Card, reference: Card) -> list[Figure]:
    quiet = {"showarrow": False, "font": {"size": 11, "color": MUTED}}
    suspect = {"x": 100 * reference["rate"], "y": 1, "yref": "paper", "yanchor": "top", "xanchor": "right"}
    notes = [quiet | suspect | {"text": f"the suspect's C-Acc, {percent(reference['rate'])} "}]
    corner = _gate_corner(gate, reference)
    if corner:
        place = {"x": corner[0], "y": corner[1], "xanchor": "right", "yanchor": "bottom"}
        notes.append(quiet | place | {"text": "gate "})
    return notes


def _ranges(run: ReportInput, study: Card, records: list[Card]) -> tuple[list[list[float]], list[list[float]]]:
    """Axis ranges (x, y) that show every trial, and those that show the neighbourhood of the gate."""
    reference = 100 * study["reference"]["rate"]
    rows = [*records, *references(run).values()]
    lowest = min([100 * r["clean_accuracy"]["rate"] for r in rows] + [reference])
    corner = _gate_corner(run.gate, study["reference"]) or (reference - 5, 10.0)
    wide = [[max(-1.0, lowest - 3), 101.0], [-3.0, 103.0]]
    near = [[corner[0] - 2 * (reference - corner[0]) - 1, min(101.0, reference + 2)], [-1.0, 4 * corner[1] + 2]]
    return wide, near


def _buttons(views: Mapping[str, Figure]) -> Figure:
    """A row of buttons above the plot, each of which changes the axes."""
    return {
        "type": "buttons",
        "direction": "right",
        "x": 1,
        "xanchor": "right",
        "y": 1.01,
        "yanchor": "bottom",
        "pad": {"t": 0, "b": 2},
        "font": {"size": 12},
        "bgcolor": "#ffffff",
        "bordercolor": "#c4ccd6",
        "buttons": [{"label": label, "method": "relayout", "args": [change]} for label, change in views.items()],
    }


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
        yaxis2=axis("C-Acc, %", domain=[0, 0.46], nticks=4),
    )


def _effect_traces(
    records: list[Card], parameter: str, dimension: Card, label: str, marker: Figure
) -> list[Figure]:
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
    if dimension["type"] == "categorical":
        order = [str(choice) for choice in dimension["choices"]]
        return {"type": "category", "categoryorder": "array", "categoryarray": order, "range": [-0.5, len(order) - 0.5]}
    # dtick "D2" labels 1, 2 and 5 of every decade: a short log axis would otherwise show one number.
    return {"type": "log", "dtick": "D2", "exponentformat": "power"} if dimension.get("log") else {}


def schedules(run: ReportInput, chosen: list[float]) -> Figure:
    """Return the chosen learning rate at each step, the references' beside it for comparison."""
    curves = {"candidate": chosen, **run.reference_schedules}
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
        updatemenus=[
            _buttons({"linear": _rate_axis("linear"), "logarithmic": _rate_axis("log")}),
        ],
        margin={"l": 56, "r": 16, "t": 52, "b": 48},
    )


def _rate_axis(kind: str) -> Figure:
    return {"yaxis.type": kind, "yaxis.autorange": True}
