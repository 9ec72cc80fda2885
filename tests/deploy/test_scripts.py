"""The scripts of deploy/ are run, with programs of their own making on PATH in place of raybd, Ray and Slurm."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT

ENTRYPOINT = ROOT / "deploy" / "entrypoint.sh"
HEALTH = ROOT / "deploy" / "healthcheck.sh"
SBATCH = ROOT / "deploy" / "slurm" / "raybd.sbatch"
SLOW_RAYBD = 'trap "exit 130" TERM\ntouch "$LOG.started"\nfor _ in $(seq 300); do sleep 0.1; done'


class Machine:
    """A PATH of small programs that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.log = folder / "bin", folder / "log"
        self.bin.mkdir()
        self.log.touch()

    def program(self, name: str, body: str = "exit 0") -> None:
        path = self.bin / name
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$LOG"\n{body}\n', encoding="utf-8")
        path.chmod(0o755)

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "LOG": str(self.log), **environment}
        return subprocess.Popen(list(map(str, command)), env=env, stderr=subprocess.PIPE, text=True)

    def run(self, *command: str | Path, **environment: str) -> tuple[int, str]:
        process = self.start(*command, **environment)
        _, err = process.communicate(timeout=60)
        return process.returncode, err

    def calls(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()

    def wait_for(self, file: str) -> None:
        deadline = time.monotonic() + 30
        while not Path(f"{self.log}.{file}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("code", "ends", "said"),
    [
        (0, 0, "promoted"),
        (1, 1, "start it again"),
        (2, 2, "bad input"),
        (3, 0, "nothing feasible"),
        (4, 0, "the gate refused"),
        (130, 130, "start it again"),
        (137, 137, "start it again"),
    ],
)
def test_the_entrypoint_ends_results_as_finished_and_all_else_as_raybd_did(
    machine: Machine, code: int, ends: int, said: str
) -> None:
    machine.program("raybd", f"exit {code}")
    status, err = machine.run(ENTRYPOINT, "a study.yaml", "--runs", "/runs")
    assert status == ends
    assert f"exit {code}: " in err
    assert said in err
    assert machine.calls() == ["raybd run a study.yaml --runs /runs"]


def test_the_entrypoint_hands_a_request_to_end_on_to_raybd_and_waits_for_it(machine: Machine) -> None:
    machine.program("raybd", SLOW_RAYBD)
    process = machine.start(ENTRYPOINT, "study.yaml")
    machine.wait_for("started")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "exit 130" in err


def processes(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names, start=1):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "comm").write_text(f"{name}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("code", [0, 1])
def test_a_ray_node_is_as_well_as_ray_says(machine: Machine, tmp_path: Path, code: int) -> None:
    machine.program("ray", f"exit {code}")
    status, _ = machine.run(HEALTH, PROC=str(processes(tmp_path / "proc", "bash", "raylet")))
    assert status == code
    assert machine.calls() == ["ray health-check"]


def test_a_container_without_a_ray_node_is_not_asked_about_ray(machine: Machine, tmp_path: Path) -> None:
    machine.program("ray", "exit 1")
    status, _ = machine.run(HEALTH, PROC=str(processes(tmp_path / "proc", "bash", "raylets")))
    assert status == 0
    assert machine.calls() == []


@pytest.fixture
def slurm(machine: Machine) -> Machine:
    machine.program("srun", 'while [[ $1 == --* ]]; do shift; done\nexec "$@"')
    healthy = 'until grep -q "^ray start --head" "$LOG"; do sleep 0.05; done'
    machine.program("ray", f'[ "$1" = start ] && {{ echo $$ >> "$LOG.pids"; exec sleep 60; }}\n{healthy}')
    machine.program("scontrol", '[ "$1" = show ] && printf "n1\\nn2\\nn3\\n"\nexit 0')
    # The program that waits until so many nodes have joined: `python - 3`.
    joined = 'until [ "$(grep -c "^ray start" "$LOG")" -ge "$2" ]; do sleep 0.05; done'
    machine.program("python", f"cat > /dev/null\n{joined}")
    return machine


SLURM = {
    "SLURM_JOB_ID": "4242",
    "SLURM_JOB_NODELIST": "n[1-3]",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_GPUS_PER_NODE": "1",
    "SLURM_SUBMIT_DIR": str(ROOT),
    "RAYBD_RUNS": "/shared/runs",
}


def alive(machine: Machine) -> list[int]:
    """Which of the Ray nodes that were started still run."""
    numbers = map(int, Path(f"{machine.log}.pids").read_text(encoding="utf-8").split())
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (3, 0)])
def test_a_slurm_job_starts_head_then_workers_then_raybd_and_ends_its_own_nodes(
    slurm: Machine, code: int, ends: int
) -> None:
    slurm.program("raybd", f"exit {code}")
    status, err = slurm.run("bash", SBATCH, "study.yaml", **SLURM)
    assert status == ends, err
    calls = slurm.calls()
    nodes = [re.search(r"--nodelist=(\w+)", call)[1] for call in calls if call.startswith("srun")]
    ray = [call for call in calls if call.startswith("ray start")]
    assert nodes[0] == "n1"
    assert sorted(nodes[1:]) == ["n2", "n3"]
    assert "--head" in ray[0]
    assert "--port=24242" in ray[0]
    assert all("--address=n1:24242" in call for call in ray[1:])
    assert len(ray) == 3
    assert all("--block" in call for call in ray)
    assert calls.index("raybd run study.yaml --runs /shared/runs") > calls.index(ray[0])
    assert alive(slurm) == []
    assert "scontrol requeue 4242" not in calls


def test_a_slurm_job_whose_time_is_up_ends_raybd_and_queues_itself_again(slurm: Machine) -> None:
    slurm.program("raybd", SLOW_RAYBD)
    process = slurm.start("bash", SBATCH, "study.yaml", **SLURM)
    slurm.wait_for("started")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "scontrol requeue 4242" in slurm.calls()
    assert alive(slurm) == []


def test_a_slurm_job_without_a_shared_folder_is_refused_before_anything_starts(slurm: Machine) -> None:
    status, err = slurm.run("bash", SBATCH, "study.yaml", **{**SLURM, "RAYBD_RUNS": ""})
    assert status != 0
    assert "RAYBD_RUNS" in err
    assert slurm.calls() == []
