"""How far MLflow on PostgreSQL lags behind 64 workers: trials arrive at a steady rate, as their driver records them.

    python -m tests.load.tracking_backlog --seconds 120 --rate 12.8

The rate is that of 64 trials of five seconds. Driver, server and database share this machine.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from raybd.search.records import TrialRecord
from raybd.stages.recording import SearchLog
from raybd.stages.run_folder import RunFolder
from raybd.tracking.client import connect
from tests.cluster.postgres import Postgres, why_not
from tests.load.tracking_server import tracking_server
from tests.search.fakes import SPACE, measured
from tests.studies import study

RESULTS = Path(__file__).parent / "results" / "tracking_backlog.json"
SUSPECT: Any = SimpleNamespace(knowledge="planted", digest="0" * 64, how="injected")


def resident_mb() -> float:
    """Memory of this process that is in RAM, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def cpu_seconds(root: int) -> float:
    """What a process and its descendants have used of the processors, those that run and those waited for."""
    parents, used = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    tree, new = {root}, True
    while new:
        new = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree |= new
    return sum(used.get(pid, 0.0) for pid in tree)


def record(number: int) -> TrialRecord:
    """A trial as a search of so many would record it."""
    outcome = measured(0.01 * (number % 90), 0.9)
    return TrialRecord.of(number, {**SPACE.first[0], "lr_base": 1e-4 + 1e-8 * number}, number, outcome, feasible=False)


def arrivals(log: SearchLog, *, trials: int, rate: float) -> dict[str, float]:
    """Hand trials to the log at their times; return what that cost whoever hands them."""
    longest = behind = 0.0
    start = time.monotonic()
    for number in range(trials):
        due = start + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        begun = time.monotonic()
        log.trial(record(number))
        longest, behind = max(longest, time.monotonic() - begun), max(behind, begun - due)
    return {"longest_call_seconds": longest, "latest_arrival_seconds": behind}


def measure(uri: str, folder: Path, *, seconds: float, rate: float) -> dict[str, Any]:
    """Return what was written while trials arrived, and after; nothing may be missing in the end."""
    trials = round(seconds * rate)
    settings = study(folder / "study", tracking={"uri": uri})
    log = SearchLog(settings, SUSPECT, RunFolder(path=folder / "run"))
    with log:
        log.begin(trials, [])
        before, start, cpu, own = resident_mb(), time.monotonic(), cpu_seconds(os.getpid()), time.process_time()
        cost = arrivals(log, trials=trials, rate=rate)
        arriving, at_end = time.monotonic() - start, resident_mb()
        left = log.backlog
    took, cpu, own = time.monotonic() - start, cpu_seconds(os.getpid()) - cpu, time.process_time() - own
    client = connect(uri)
    experiment = client.get_experiment_by_name(f"raybd/{settings.name}").experiment_id
    return {
        "trials": trials,
        "rate": rate,
        "arriving_seconds": arriving,
        "behind_when_the_last_arrived": left,
        "seconds_until_all_were_written": took,
        "written_per_second": trials / took,
        "written_per_second_while_arriving": (trials - left) / arriving,
        "cpu_seconds_per_trial": {"driver": own / trials, "server_and_database": (cpu - own) / trials},
        **cost,
        "driver_mb_before": before,
        "driver_mb_when_the_last_arrived": at_end,
        "driver_mb_after": resident_mb(),
        "runs_in_mlflow": count(client, experiment) - 1,  # one is the study's own
        "in_the_outbox": log.waiting,
    }


def count(client: Any, experiment: str) -> int:
    """How many runs an experiment has."""
    runs, token = 0, None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        runs, token = runs + len(page), page.token
        if not token:
            return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rate", type=float, default=12.8, help="trials per second")
    parser.add_argument("--server-workers", type=int, default=2, help="processes of the server; 0: no server between")
    parser.add_argument("--to", type=Path, default=RESULTS)
    given = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    postgres = Postgres()
    try:
        postgres.start()
        os.environ |= postgres.environment
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            how = {"seconds": given.seconds, "rate": given.rate}
            if given.server_workers:
                with tracking_server(postgres, folder, workers=given.server_workers) as uri:
                    found = measure(uri, folder, **how)
            else:
                found = measure(postgres.fresh_database().replace("://", "+psycopg://"), folder, **how)
    finally:
        postgres.remove()
    machine = {"system": platform.platform(), "cores": os.cpu_count(), "load_average": os.getloadavg()}
    command = "python -m tests.load.tracking_backlog " + " ".join(sys.argv[1:])
    text = json.dumps({"command": command.strip(), "machine": machine, **found}, indent=2)
    given.to.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
