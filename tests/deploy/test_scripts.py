"""The scripts of deploy/ are run, with stand-ins for raybd (on PYTHONPATH), Ray, Slurm and pip (on PATH)."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from raybd.cluster.jobs import STOP_SECONDS
from tests.deploy.manifests import ROOT, Deploy

DEPLOY = Deploy(folder=ROOT / "deploy")
ENTRYPOINT = ROOT / "deploy" / "entrypoint.py"
HEALTH = ROOT / "deploy" / "healthcheck.sh"
SBATCH = ROOT / "deploy" / "slurm" / "raybd.sbatch"
SLOW_RAYBD = """
import signal, time
asked = []
def end(number, frame):
    asked.append(number)
    if len(asked) > 1:
        sys.exit(1)  # at once, as raybd does
signal.signal(signal.SIGTERM, end)
open(os.environ["LOG"] + ".started", "w").close()
deadline = time.monotonic() + 30
while not asked and time.monotonic() < deadline:
    time.sleep(0.02)
time.sleep(0.5)  # what was finished is kept
sys.exit(130)
"""


class Machine:
    """A PATH of small programs, and a raybd, that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.lib, self.log = folder / "bin", folder / "lib", folder / "log"
        self.bin.mkdir()
        (self.lib / "raybd").mkdir(parents=True)
        (self.lib / "raybd" / "__init__.py").touch()
        self.log.touch()
        (self.bin / "raybd-job").symlink_to(ENTRYPOINT)

    def raybd(self, body: str) -> None:
        """A raybd whose command line does what `body`, in Python, says."""
        log = "open(os.environ['LOG'], 'a').write(' '.join([prog_name, *args]) + '\\n')"
        lines = ["import os, sys", "def app(args, prog_name):", f"    {log}", f"    exec({body!r}, globals())"]
        (self.lib / "raybd" / "cli.py").write_text("\n".join(lines), encoding="utf-8")

    def program(self, name: str, body: str = "exit 0") -> None:
        path = self.bin / name
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> "$LOG"\n{body}\n', encoding="utf-8")
        path.chmod(0o755)

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.bin}:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "PYTHONPATH": str(self.lib), "LOG": str(self.log), **environment}
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
    machine.raybd(f"sys.exit({code})")
    status, err = machine.run(ENTRYPOINT, "a study.yaml", "--runs", "/runs")
    assert status == ends
    assert f"exit {code}: " in err
    assert said in err
    assert machine.calls() == ["raybd run a study.yaml --runs /runs"]


def below(pid: int) -> list[int]:
    """The processes below one, as psutil's `children(recursive=True)` finds them for Ray."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
    return [*children, *(other for child in children for other in below(child))]


@pytest.mark.parametrize("by", ["Ray", "others"])
def test_a_request_to_end_reaches_raybd_once_whoever_sends_it(machine: Machine, by: str) -> None:
    """Ray's job server runs the entrypoint in a shell, and signals that and everything below it; others signal one."""
    machine.raybd(SLOW_RAYBD)
    command = ["sh", "-c", DEPLOY.job["spec"]["entrypoint"]] if by == "Ray" else ["raybd-job", "study.yaml"]
    process = machine.start(*command)
    machine.wait_for("started")
    for pid in [process.pid, *(below(process.pid) if by == "Ray" else [])]:
        os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "exit 130" in err


def test_a_stopped_job_has_a_minute_to_end_in_order() -> None:
    """Ray's supervisor has the job's own runtime environment, and reads from it how long it waits before it kills."""
    environment = yaml.safe_load(DEPLOY.job["spec"]["runtimeEnvYAML"])
    assert environment == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}}


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
    slurm.raybd(f"sys.exit({code})")
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
    slurm.raybd(SLOW_RAYBD)
    process = slurm.start("bash", SBATCH, "study.yaml", **SLURM)
    slurm.wait_for("started")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert "scontrol requeue 4242" in slurm.calls()
    assert alive(slurm) == []


def test_a_slurm_job_leaves_the_place_of_its_run_folder_to_the_study_unless_told(slurm: Machine) -> None:
    slurm.raybd("sys.exit(0)")
    status, err = slurm.run("bash", SBATCH, "study.yaml", **{**SLURM, "RAYBD_RUNS": ""})
    assert status == 0, err
    assert "raybd run study.yaml" in slurm.calls()


def install(machine: Machine, **arguments: str) -> tuple[int, str]:
    """Run the Dockerfile's choice of torch with these build arguments, and a pip and a Python that only take notes."""
    (choice,) = re.findall(r"^RUN (case .*?esac)$", DEPLOY.text("Dockerfile"), flags=re.MULTILINE | re.DOTALL)
    machine.program("pip")
    return machine.run("sh", "-c", choice, **{"TORCH_WHEELS": "", **arguments})


def test_the_image_with_cuda_needs_no_argument_and_the_one_without_says_what_it_needs(machine: Machine) -> None:
    assert install(machine, VARIANT="cuda") == (0, "")
    assert machine.calls() == []
    status, err = install(machine, VARIANT="cpu")
    assert status != 0
    assert "TORCH_WHEELS" in err
    assert machine.calls() == []
    status, err = install(machine, VARIANT="rocm")
    assert status != 0
    assert "rocm" in err


def test_the_image_without_cuda_takes_the_pinned_torch_from_the_wheels_that_it_is_told(machine: Machine) -> None:
    wheels = "https://wheels.example/torch.whl https://wheels.example/torchvision.whl"
    assert install(machine, VARIANT="cpu", TORCH_WHEELS=wheels)[0] == 0
    (call,) = machine.calls()
    assert call.startswith("pip install")
    assert "--constraint constraints.txt" in call
    assert call.endswith(f" {wheels}")
