"""What the commands print of the cards that the stages leave: tables, the chosen point, where the report is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from raybd.cli.console import err, out
from raybd.registry import read_json

LISTS = ("models", "attacks", "defenses", "triggers", "schedules", "spaces", "presets", "sources", "samplers")
FRONT_HEADER = ("trial", "C-Acc", "ASR", "C-Acc lost, points", "within limits", "setting")


def stage(word: str) -> None:
    """Say on stderr that a stage of `raybd run` begins."""
    err.print(f"[bold]{word}[/bold]", highlight=False)


def outcome(run: Path) -> None:
    """Print the before/after table, what became of the candidate, and the report's path."""
    if (run / "assess" / "card.json").is_file():
        assessment(run)
    if (run / "promote" / "card.json").is_file():
        promotion(read_json(run / "promote" / "card.json"))
    out.print("report:", str((run / "report.html").absolute()), markup=False, highlight=False, soft_wrap=True)


def assessment(run: Path) -> None:
    """Print one row per model with its 95 % intervals, and the word of each check of the gate."""
    from raybd.report import table_rows

    card = read_json(run / "assess" / "card.json")
    header, *rows = table_rows(card)
    _table(header, rows)
    for check in card["checks"]:
        _line(f"gate: {check['status']:<9} {check['detail']}")


def promotion(card: Mapping[str, Any]) -> None:
    """Print which version now holds the alias, or each limit that refused it."""
    if card["promoted"]:
        _line(f"promoted: {card['name']} version {card['version']} is now '{card['alias']}'")
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
            "trigger": f"{(card['trigger'] or {}).get('kind', 'unknown')} ({card['trigger_knowledge']})",
            "weights": card["weights_digest"][:12],
        },
        card["warnings"],
    )


def overview(found: Mapping[str, Any]) -> None:
    """Print what `validate` found."""
    _facts({k: v for k, v in found.items() if k != "warnings"}, found["warnings"])
    _line("ok")


def front(run: Path) -> None:
    """Print the counts of a search and the points that no other beats on both accuracy and ASR."""
    from raybd.report.tables import search_counts
    from raybd.report.wording import points, setting, with_interval

    card = read_json(run / "search" / "card.json")
    records = {record["number"]: record for record in card["records"]}
    figures = search_counts(card) or {}
    _line(
        f"search: {figures['trials']} trials ({figures['complete']} complete, of which {figures['collapsed']} "
        f"collapsed; {figures['pruned']} pruned; {figures['failed']} failed), {figures['seconds']:.0f} s"
    )
    rows = [
        [
            str(number),
            with_interval(record["clean_accuracy"]),
            with_interval(record["attack_success_rate"]),
            points(record["accuracy_drop"]),
            "yes" if record["feasible"] else "no",
            setting(record["setting"]),
        ]
        for number, record in ((n, records[n]) for n in card["front"])
    ]
    _table(FRONT_HEADER, rows)


def choice(card: Mapping[str, Any]) -> None:
    """Print the chosen setting and why it won."""
    from raybd.report.wording import setting

    _line(f"chosen: trial {card['number']}: {setting(card['setting'])}")
    _line(card["why"])


def delivered(done: Any) -> None:
    """Print what a delivery to the tracking server did."""
    _line(f"sync: {done.sent} sent, {done.already_there} already there, {done.left} still waiting {done.reason}")


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

    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))  # as Text, so that an interval's brackets stay
    # In a file or pipe there is no width to fit into: a row stays a line.
    out.print(table, width=None if out.is_terminal else 250, highlight=False)


def _line(text: str) -> None:
    from raybd.report.wording import plain

    out.print(plain(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def searching(settings: Any) -> Iterator[Any]:
    yield None
