"""Write the measured tables and the example's files into README.md, from the results and from what the example writes.

    python tests/benchmarks/readme_tables.py

`tests/test_readme.py` fails when the README says anything else.
"""

import json
import re
from pathlib import Path
from typing import Any

from tests.benchmarks import readme_paper, readme_speed
from tests.benchmarks.readme_speed import machine
from tests.examples import own_model, planted_transfer
from tests.faults import table as faults
from tests.load import readme_load

README = Path(__file__).parents[2] / "README.md"
RESULTS = Path(__file__).parent / "results"
NAMES = {
    "suspect": "suspect, as it came",
    "super_fine_tuning": "super-fine-tuning, the paper's values",
    "fine_tuning": "conventional fine-tuning (100 epochs)",
    "selected": "**raybd's candidate**",
}


def blocks() -> dict[str, str]:
    """Return what belongs between each pair of markers of the README."""
    found = {"my_nets": f"```python\n{own_model.NETS}```", "study": f"```yaml\n{own_model.STUDY}```"}
    found |= {"transfer-study": f"```yaml\n{planted_transfer.STUDY}```", "faults": "\n".join(faults.rows())}
    found["load"] = readme_load.block()
    for name, table in (("third-party", third_party), ("demo-seeds", demo_seeds)):
        path = RESULTS / f"{name.replace('-', '_')}.json"
        if path.is_file():
            found[name] = table(json.loads(path.read_text(encoding="utf-8")))
    return found | readme_paper.blocks() | readme_speed.blocks()


def third_party(results: dict[str, Any]) -> str:
    """Return the third party's table: one row for each model, one candidate per search seed."""
    rows = ["| model | search seed | C-Acc | ASR | R-Acc | training |", "|---|---|---|---|---|---|"]
    for run in results["seeds"]:
        summary = run["summary"]
        if summary["references"]:
            rows.append(_row("suspect", "", summary["suspect"]))
            rows += [_row(name, "", row) for name, row in summary["references"].items()]
    for run in results["seeds"]:
        chosen = run["summary"]["selected"]
        rows.append(
            _row("selected", str(run["seed"]), chosen)
            if chosen
            else f"| {NAMES['selected']} | {run['seed']} | nothing feasible | | | |"
        )
    endings = "; ".join(f"seed {run['seed']}: {run['ending'].splitlines()[0]}" for run in results["seeds"])
    options, searched = results["options"], [run["summary"]["search"] for run in results["seeds"]]
    minutes = ", ".join(f"{search['seconds'] / 60:.0f}" for search in searched)
    n = results["seeds"][0]["summary"]["suspect"]["clean_accuracy"]["n"]
    note = (
        f"Intervals are 95 %, on {n:,} test images; ± is the standard deviation over training seeds "
        "(three); training times were taken beside other work. "
        f"{options['trials']} trials each in the space `{options['space']}`, training images shifted by up to "
        f"{options['crop']} pixels, precision {options['precision']}, "
        f"{options['workers']} workers; searches took {minutes} minutes. Ended: {endings}. {machine(results)}"
    )
    return "\n".join([*rows, "", note, "", *_sequela(results)])


def _sequela(results: dict[str, Any]) -> list[str]:
    """What else the cure changed: a row per candidate, with the suspect and the references before them."""
    first = next(run["summary"] for run in results["seeds"] if run["summary"]["references"])
    counts = ", ".join(map(str, first["sequela"]["reinjection"]["poisoned_samples"]))
    attack = f"ASR after re-injection of {counts} poisoned samples"
    rows = [
        f"| model | search seed | {attack} | membership AUC of the suspect's training images |",
        "|---|---|---|---|",
    ]
    rows += [_sequela_row(name, "", first["sequela"]) for name in ("suspect", *first["references"])]
    for run in results["seeds"]:
        if run["summary"]["sequela"]:
            rows.append(_sequela_row("candidate", str(run["seed"]), run["summary"]["sequela"]))
    return rows


def _sequela_row(name: str, seed: str, sequela: dict[str, Any]) -> str:
    curve = ", ".join("-" if r is None else f"{100 * r['rate']:.1f}" for r in sequela["reinjection"]["curves"][name])
    read = sequela["membership"]["suspect_members"]
    auc = read["rows"][name]
    told = f"{auc['auc']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
    if name == "candidate" and read["rise"]:
        rise = read["rise"]
        told += f", rise {rise['value']:+.3f} [{rise['low']:+.3f}, {rise['high']:+.3f}]"
    return f"| {NAMES.get('selected' if name == 'candidate' else name, name)} | {seed} | {curve} % | {told} |"


def demo_seeds(results: dict[str, Any]) -> str:
    """Return the demo's table: one row per seed."""
    rows = [
        "| seed | suspect C-Acc / ASR | paper's values C-Acc / ASR | candidate C-Acc / ASR | ended |",
        "|---|---|---|---|---|",
    ]
    for run in results["seeds"]:
        cells = [_pair(run.get(name)) for name in ("suspect", "super_fine_tuning", "selected")]
        rows.append(f"| {run['seed']} | {' | '.join(cells)} | {run['ending'].splitlines()[0]} |")
    papers = {run["with_the_papers_values"].partition(":")[0] for run in results["seeds"]}
    return "\n".join(
        [
            *rows,
            "",
            f"With the search replaced by the paper's values: {', '.join(sorted(papers))}. {machine(results)}",
        ]
    )


def _row(name: str, seed: str, row: dict[str, Any]) -> str:
    cells = [_rate(row[rate], (row["spread"] or {}).get(rate)) for rate in ("clean_accuracy", "attack_success_rate")]
    cells.append(f"{100 * row['robust_accuracy']['rate']:.1f} %")
    cells.append(f"{row['training_seconds']:.0f} s" if row["training_seconds"] else "")
    return f"| {NAMES.get(name, name)} | {seed} | {' | '.join(cells)} |"


def _rate(rate: dict[str, Any], spread: dict[str, Any] | None) -> str:
    text = f"{100 * rate['rate']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"
    return text if spread is None else f"{text}, {100 * spread['mean']:.1f} ± {100 * spread['sd']:.1f}"


def _pair(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{100 * row['clean_accuracy']['rate']:.1f} % / {100 * row['attack_success_rate']['rate']:.1f} %"


def filled(text: str) -> str:
    """Return the README with every block in its place.

    Raises:
        ValueError: if a block has no place: it would be missing without a word.
    """
    for name, block in blocks().items():
        places = re.findall(rf"<!-- {name} -->.*?<!-- /{name} -->", text, flags=re.DOTALL)
        if len(places) != 1:
            raise ValueError(f"README.md: {len(places)} places for {name}")
        text = text.replace(places[0], f"<!-- {name} -->\n{block}\n<!-- /{name} -->")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
