"""The README's table of models put under another task: transfer and encoder."""

from tests.benchmarks import paper_moved
from tests.benchmarks.readme_cells import NOTHING, Cells, every_way, machines, missing, percent, title

SHOWN = {
    "suspect": "what the user would ship",
    "head": "head only",
    "fine_tuning": "whole model",
    "paper": "super-fine-tuning, paper's values",
    "tuned": "**tuned by raybd**",
}


def table(cells: Cells) -> str:
    """Return every way of fine-tuning; accuracy is counted from what the user would ship without a defense."""
    checks = []
    for name, cell in cells.items():
        if "undefended" not in cell:
            checks.append(f"Refused: {title(name)}: {cell['refused']}.")
            continue
        found, twin = cell["undefended"], cell["undefended"]["rows"]["twin"]
        checks.append(
            f"{title(name)}: the trigger pulls to label {found['target_label']}; a twin that never saw poison, shipped "
            f"likewise, has C-Acc {percent(twin['clean_accuracy'])}, ASR {percent(twin['attack_success_rate'])}."
        )
    wanted = [f"{name}/{attack}" for name, case in paper_moved.CASES.items() for attack in case.attacks]
    done = [name for name, cell in cells.items() if "defended" in cell]
    notes = [*checks, missing(wanted, done), *(machines(cells) if cells else [])]
    return "\n".join([*every_way(cells, SHOWN), "", " ".join(filter(None, notes))]) if cells else NOTHING
