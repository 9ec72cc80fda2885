"""A machine that joins while a search runs is used by the next of its Tuners without being asked for."""

from pathlib import Path

import pytest

from tests.cluster import scripts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SCRIPT = """
import sys
from pathlib import Path

from ray.cluster_utils import Cluster

from raybd.search import tuner
from tests.search.fakes import open_decider, tiny_view
from tests.search.test_tuner import with_side_effect


def rest():
    import time
    time.sleep(4)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ended = []

    def join(record):
        ended.append(record)
        if len(ended) == 2:
            cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)

    try:
        with tuner.connected(address=cluster.address) as workers, open_decider(folder, trials=6) as decider:
            effect = with_side_effect(rest)
            workers.run(tiny_view(), decider, trials=folder / "trials", objectives=effect, segment=3, on_trial=join)
            (folder / "slots.txt").write_text(f"{workers.slots} {workers.now()}")
            (folder / "workers.txt").write_text("\\n".join(r.worker for r in decider.records()))
    finally:
        cluster.shutdown()
"""


def test_a_machine_that_joins_is_used_from_the_next_tuner_on(tmp_path: Path) -> None:
    scripts.run(SCRIPT, tmp_path, timeout=350)
    assert (tmp_path / "slots.txt").read_text(encoding="utf-8") == "1 2"
    by_worker = (tmp_path / "workers.txt").read_text(encoding="utf-8").split()
    assert len(set(by_worker[:3])) == 1, "the first Tuner had one place"
    assert len(set(by_worker[3:])) == 2, "the second had two"
