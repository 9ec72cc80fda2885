"""One user's search, small and without training: a run folder, a study in PostgreSQL, its trials told to MLflow.

    python -m tests.load.user FOLDER NAME SEED TRIALS OPTUNA TRACKING

It begins when `go` lies beside its folder, so that several begin at once.
"""

import sys
import time
from pathlib import Path

from raybd.stages.recording import SearchLog
from raybd.stages.run_folder import RunFolder
from raybd.tracking.client import connect
from tests.load.tracking_backlog import SUSPECT
from tests.search.fakes import open_decider, pretend
from tests.studies import study


def search(folder: Path, name: str, seed: int, trials: int, optuna: str, tracking: str) -> None:
    """Run one user's search to its end."""
    settings = study(folder / "study", name=name, tracking={"uri": tracking})
    connect(tracking)  # its imports take their time
    while not (folder.parent / "go").exists():
        time.sleep(0.05)
    with (
        SearchLog(settings, SUSPECT, RunFolder(path=folder / "run")) as log,
        open_decider(folder / "run" / "search", name=name, seed=seed, trials=trials, storage=optuna) as decider,
    ):
        log.begin(decider.trials, decider.records())
        while (proposal := decider.ask()) is not None:
            ended = decider.tell(proposal.number, pretend(proposal))
            assert ended is not None
            log.trial(ended)


if __name__ == "__main__":
    where, called, number, budget, *addresses = sys.argv[1:]
    search(Path(where), called, int(number), int(budget), *addresses)
