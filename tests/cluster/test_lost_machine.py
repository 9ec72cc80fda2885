"""A machine that dies under the last call, with idle actors beside it, costs that call one attempt."""

from pathlib import Path

import pytest

from tests.cluster import scripts

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

SCRIPT = """
import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from raybd.search import tuner

FOLDER = Path(sys.argv[1])


def met(n):
    # All four are under way together, so that each actor has one; the last then works on while the others are idle.
    with open(FOLDER / f"try-{n}", "a") as file:
        file.write(".")
    while len(list(FOLDER.glob("try-*"))) < 4:
        time.sleep(0.1)
    if n == 3 and not (FOLDER / "gone").exists():
        (FOLDER / "last").touch()
        time.sleep(600)
    return n


if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    old, _ = (cluster.add_node(num_cpus=n, object_store_memory=80 * 2**20) for n in (5, 4))

    def lose():
        while not (FOLDER / "last").exists():
            time.sleep(0.1)
        time.sleep(3)
        (FOLDER / "gone").touch()
        cluster.remove_node(old, allow_graceful=False)

    try:
        with tuner.connected(address=cluster.address, placement="pack") as workers:
            threading.Thread(target=lose, daemon=True).start()
            (FOLDER / "results").write_text(str(workers.map_calls(met, range(4))))
    finally:
        cluster.shutdown()
"""


def test_a_lost_machine_costs_the_call_that_ran_on_it_one_attempt(tmp_path: Path) -> None:
    scripts.run(SCRIPT, tmp_path, timeout=350)
    assert (tmp_path / "results").read_text(encoding="utf-8") == "[0, 1, 2, 3]"
    assert [len((tmp_path / f"try-{n}").read_text(encoding="utf-8")) for n in range(4)] == [1, 1, 1, 2]
