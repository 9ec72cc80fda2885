"""What the commands print of the cards that the stages leave: tables, the chosen point, where the report is."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from raybd.cli.console import err, out
from raybd.registry import read_card

LISTS = (
    "models",
    "scenarios",
    "attacks",
    "defenses",
    "triggers",
    "schedules",
    "spaces",
    "presets",
    "sources",
    "samplers",
)
FRONT_HEADER = ("trial", "C-Acc", "ASR", "C-Acc lost, points", "within limits")


@contextmanager
def searching() -> Iterator[dict[str, Any]]:
    """Show a search while it goes on, on stderr; gives the callbacks that `pipeline.search` takes."""
    from raybd.progress import watch

    with watch(err) as view:
        yield {"on_start": view.on_start, "on_trial": view.on_trial, "on_progress": view.on_progress}


def training() -> dict[str, Any]:
    """Show trainings, on stderr; gives the callback that `pipeline.inject` and `pipeline.adopt` take."""
    from raybd.progress import Trainings

    return {"on_training": Trainings(err).on_training}


def repeating() -> dict[str, Any]:
    """Show a stage's trainings, on stderr; gives the callback that `pipeline.select` and `pipeline.assess` take."""
    from raybd.progress import Repeats

    return {"on_done": Repeats(err).on_done}


@contextmanager
def running() -> Iterator[dict[str, Any]]:
    """Name each stage of `raybd run` on stderr, with what it took, and show its search; gives `run`'s callbacks."""
    from raybd.progress import watch

    view = watch(err)
    with ExitStack() as stage:

        def took(word: str, start: float) -> None:
            err.print(Text(f"{word} took {time.monotonic() - start:.0f} s", style="dim"))

        def on_stage(word: str) -> None:
            stage.close()  # what shows the search ends with it
            err.print(Text(word, style="bold"))
            stage.callback(took, word, time.monotonic())
            if word == "search":
                stage.enter_context(view)

        def on_kept(word: str) -> None:
            err.print(Text(f"{word}: done before, kept"))

        callbacks = {"on_start": view.on_start, "on_trial": view.on_trial, "on_progress": view.on_progress}
        yield {"on_stage": on_stage, "on_kept": on_kept, **training(), **repeating(), **callbacks}


def outcome(run: Path) -> None:
    """Print what was chosen and why, the before/after table, what became of it, the verdict, where the report is."""
    if (run / "select" / "card.json").is_file():
        choice(_card(run, "select"))
    if (run / "assess" / "card.json").is_file():
        assessment(run)
    if (run / "promote" / "card.json").is_file():
        promotion(_card(run, "promote"))
    waiting(run)
    if (run / "summary.json").is_file():
        summary = read_card(run / "summary.json", verdict=dict[str, str], warnings=list[str])
        for warning in summary["warnings"]:
            _line(f"warning: {warning}")
        _line(f"verdict: {summary['verdict']['word']}. {summary['verdict']['sentence']}")
    _line(f"report: {(run / 'report.html').absolute()}")


def _card(run: Path, word: str) -> Any:
    from raybd.stages.cards import load_card

    return load_card(run / word, word)


def waiting(run: Path) -> None:
    """Print how many records wait for a tracking server that did not answer, if any do."""
    outbox = run / "outbox.jsonl"
    count = outbox.read_bytes().count(b"\n") if outbox.is_file() else 0
    if count:
        _line(f"MLflow did not answer: {count} records wait in the run folder; `raybd sync` delivers them")


def assessment(run: Path) -> None:
    """Print one row per model with its 95 % intervals, and the word of each check of the gate."""
    from raybd.report import table_rows

    card = _card(run, "assess")
    header, *rows = table_rows(card)
    _table(header, rows)
    for check in card["checks"]:
        _line(f"gate: {check['status']:<9} {check['detail']}")


def promotion(card: Mapping[str, Any]) -> None:
    """Print which version now holds the alias, or each limit that refused it."""
    if card["promoted"]:
        _line(f"promoted: {card['name']} version {card['version']} is now '{card['alias']}'")
    elif "rolled_back_to" in card:
        _line(f"rolled back: {card['name']} version {card['rolled_back_to']} holds '{card['alias']}' again")
    for refusal in card["refusals"]:
        _line(f"refused: {refusal}")


def version(restored: Any, alias: str) -> None:
    """Print who holds the alias after a rollback."""
    _line(f"rolled back: {restored.name} version {restored.version} is now '{alias}'")


def suspect(card: Mapping[str, Any]) -> None:
    """Print what is known of a suspect, and what its reader must be warned of."""
    architecture = card["architecture"]
    splits = ", ".join(f"{name} {split['images']}" for name, split in card["splits"].items())
    _facts(
        {
            "suspect": f"{card['how']}, {architecture['name'] or architecture['factory']}",
            "images": splits,
            **{
                key.replace("_", " "): card["facts"][key]
                for key in ("scenario", "reference_model")
                if key in card["facts"]
            },
            "trigger": f"{_trigger(card['trigger'])} ({card['trigger_knowledge']})",
            "weights": card["weights_digest"][:12],
        },
        card["warnings"],
    )


def _trigger(card: Mapping[str, Any] | None) -> str:
    """A trigger and what it pulls to; under another task that is known only once the suspect is there."""
    if card is None:
        return "unknown"
    label = card.get("target_label")
    aim = "all to all" if card.get("goal") == "all_to_all" else f"pulls to label {label}"
    return f"{card['kind']}, {aim}"


def overview(found: Mapping[str, Any]) -> None:
    """Print what `validate` found."""
    _facts({k: v for k, v in found.items() if k != "warnings"}, found["warnings"])
    _line("ok")


def front(run: Path) -> None:
    """Print the counts of a search and the points that no other beats on both accuracy and ASR."""
    from raybd.report.wording import points, setting, with_interval

    card = _card(run, "search")
    records = {record["number"]: record for record in card["records"]}
    states = Counter("interrupted" if r.get("interrupted") else r["state"] for r in card["records"])
    collapsed = sum(record["collapsed"] for record in card["records"])
    cut = f", {states['interrupted']} interrupted" if states["interrupted"] else ""
    _line(
        f"search: {states['complete']} trials complete ({collapsed} collapsed), {states['pruned']} pruned, "
        f"{states['failed']} failed{cut}; {card['seconds']:.0f} s; the front, on the selection split:"
    )
    rows = [
        [
            str(number),
            with_interval(records[number]["clean_accuracy"]),
            with_interval(records[number]["attack_success_rate"]),
            points(records[number]["accuracy_drop"]),
            "yes" if records[number]["feasible"] else "no",
        ]
        for number in card["front"]
    ]
    _table(FRONT_HEADER, rows)
    for number in card["front"]:
        _line(f"trial {number}: {setting(records[number]['setting'])}")


def choice(card: Mapping[str, Any]) -> None:
    """Print the chosen setting and why it won."""
    from raybd.report.epochs import words_of
    from raybd.report.wording import setting

    chosen = card["setting"]
    words = words_of(chosen["epochs"], card.get("epochs_run")) if "epochs" in chosen else None
    _line(f"chosen: trial {card['number']}: {setting({**chosen, 'epochs': words} if words else chosen)}")
    _line(card["why"])


def delivered(done: Any) -> None:
    """Print what a delivery to the tracking server did."""
    counts = f"{done.sent} sent, {done.already_there} already there, {done.left} still waiting"
    waited = done.sent or done.already_there or done.left
    _line(f"sync: {counts} {done.reason}".rstrip() if waited else "sync: nothing waited")


def step(words: str) -> None:
    """Say on stderr what is measured next."""
    err.print(Text(f"measuring: {words}", style="dim"))


def speed(found: Any) -> None:
    """Print what was measured of this machine, where a trial's time goes, and how long the search would take."""
    kinds = {"training": found.training_seconds, "evaluation": found.evaluation_seconds}
    kinds["neither"] = found.overhead_seconds
    split = ", ".join(f"{name} {s:.2f} s ({s / found.seconds_per_trial:.0%})" for name, s in kinds.items())
    whole = f"{found.hours:.1f} hours" if found.hours >= 1 else f"{60 * found.hours:.1f} minutes"
    _facts(
        {
            "device": f"{found.device}, {found.precision}",
            "its limits": f"{found.matmul_flops / 1e9:,.0f} GFLOP/s multiplying matrices, "
            f"{found.copy_bytes_per_second / 1e9:,.1f} GB/s copying memory",
            "training": f"{found.training_rate:,.0f} images/s: {found.matmul_share:.0%} of the one limit, "
            f"at least {found.memory_share:.0%} of the other",
            "evaluation": f"{found.evaluation_rate:,.0f} images/s",
            "average trial": f"{found.images_per_trial:,.0f} images, {found.seconds_per_trial:.2f} s: {split}",
            "search": f"{found.trials} trials on {found.workers} workers: about {whole}",
        },
        ["measured with one worker: several share memory and caches, and are each a little slower"]
        if found.workers > 1
        else [],
    )


def entries(found: Sequence[tuple[str, str]]) -> None:
    """Print names with what each is."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, words in found:
        table.add_row(Text(name), Text(words))
    out.print(table, highlight=False)


def _facts(facts: Mapping[str, Any], warnings: Sequence[str]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        _line(f"{name:<{width}}  {value}")
    for warning in warnings:
        _line(f"warning: {warning}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from raybd.report.wording import plain

    cells = [[plain(cell) for cell in row] for row in (header, *rows)]
    needed = sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True))
    if out.is_terminal and needed > out.width:
        cells = [[_broken(cell) for cell in row] for row in cells]
    table = Table(
        *(Column(name, overflow="fold", no_wrap=not i) for i, name in enumerate(cells[0])), box=None, pad_edge=False
    )
    for row in cells[1:]:
        table.add_row(*map(Text, row))  # as Text, so that an interval's brackets are no markup
    # In a file or pipe there is no width to fit into: a row stays a line.
    page = out if out.is_terminal else Console(width=max(needed, 80))
    page.print(table, highlight=False)


def _broken(cell: str) -> str:
    """`cell` on two lines: an interval, or what comes after a comma, goes below."""
    value, bracket, interval = cell.partition(" [")
    return f"{value}\n[{interval}" if bracket else cell.replace(", ", ",\n")


def _line(text: str) -> None:
    from raybd.report.wording import plain

    out.print(plain(text), markup=False, highlight=False, soft_wrap=True)
