"""Runs what compose.yaml would, its commands and settings, without Docker: python -m tests.deploy.one_host WORK.

Services find each other by name on fixed ports, so this wants namespaces of its own: `unshare --net --mount --pid
--fork --mount-proc`. In place of MinIO, which comes from no package registry, stands moto's S3 server.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.manifests import ROOT, Deploy

POSTGRES = Path("/usr/lib/postgresql/15/bin")
DEPLOY = Deploy(folder=ROOT / "deploy")
SERVICES = DEPLOY.compose["services"]
PLAIN = ("HOME", "LANG", "OMP_NUM_THREADS", "PYTHONPATH", "RAY_TMPDIR")


def password(name: str) -> str:
    """As awkward as `databases.sh` promises to bear."""
    return f"{name.lower()}-'\"$x" if "DB" in name else f"{name.lower().replace('_', '')}0123456789"


def environment(service: str) -> dict[str, str]:
    """What Compose would hand to `service` once .env is filled."""
    given = {
        name: re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: password(found[1]), value)
        for name, value in SERVICES[service]["environment"].items()
    }
    if "MLFLOW_AUTH_CONFIG_PATH" in given:
        given["MLFLOW_AUTH_CONFIG_PATH"] = str(DEPLOY.folder / "mlflow" / "basic_auth.ini")  # mounted there by Compose
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**{name: os.environ[name] for name in PLAIN if name in os.environ}, "PATH": path, **given}


@contextmanager
def running(command: list[str], work: Path, name: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with (work / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=work, **options)
        try:
            yield child
        finally:
            child.terminate()
            child.wait(timeout=60)


def until(ready: Callable[[], bool], child: subprocess.Popen[bytes], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{child.args} did not come up")
        time.sleep(0.5)


def succeeds(command: list[Any], **options: Any) -> bool:
    return subprocess.run(list(map(str, command)), capture_output=True, check=False, **options).returncode == 0


def status(url: str, *, user: str | None = None, host: str | None = None) -> int:
    request = urllib.request.Request(url)
    if user:
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def postgres(work: Path, stack: ExitStack) -> None:
    data, as_postgres = work / "postgres", ["runuser", "--user", "postgres", "--"]
    data.mkdir()
    subprocess.run(["chown", "postgres", data], check=True)
    auth = ["--auth-local=trust", "--auth-host=scram-sha-256", "--username=postgres"]
    subprocess.run(
        [*as_postgres, POSTGRES / "initdb", *auth, "-D", data], check=True, stdout=subprocess.DEVNULL, cwd="/"
    )
    serve = [*as_postgres, str(POSTGRES / "postgres"), "-D", str(data), "-k", str(data), "-h", "127.0.0.1"]
    child = stack.enter_context(running(serve, work, "postgres"))
    until(lambda: succeeds(SERVICES["postgres"]["healthcheck"]["test"][1:]), child)
    script = ["bash", DEPLOY.folder / "compose" / "databases.sh"]
    subprocess.run(script, check=True, env={**environment("postgres"), "PGHOST": str(data)}, stdout=subprocess.DEVNULL)


def s3(work: Path, stack: ExitStack) -> None:
    serve = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "9000"]
    child = stack.enter_context(running(serve, work, "s3"))
    until(lambda: succeeds(["wget", "--quiet", "--output-document=-", "http://s3:9000/moto-api/"]), child)
    for _ in range(2):  # Compose runs it again on every start
        subprocess.run(SERVICES["bucket"]["command"], check=True, env=environment("bucket"))


def mlflow(work: Path, stack: ExitStack) -> dict[str, int]:
    child = stack.enter_context(running(SERVICES["mlflow"]["command"], work, "mlflow", env=environment("mlflow")))
    until(lambda: succeeds(SERVICES["mlflow"]["healthcheck"]["test"][1:]), child)
    page = "http://mlflow:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    admin = f"admin:{password('MLFLOW_ADMIN_PASSWORD')}"
    return {
        "nobody": status(page),
        "admin": status(page, user=admin),
        "another host": status(page, user=admin, host="elsewhere:5000"),
    }


def ray_node(work: Path, stack: ExitStack) -> dict[str, Any]:
    child = stack.enter_context(running(SERVICES["raybd"]["command"], work, "ray", env=environment("raybd")))
    health = ["sh", DEPLOY.folder / "healthcheck.sh"]
    until(lambda: "raylet" in names() and succeeds(health, env=environment("raybd")), child)
    stranger = {**environment("raybd"), "RAY_AUTH_TOKEN": "of-somebody-else-of-somebody-else"}
    return {"stranger's health": succeeds(health, env=stranger), "jobs": status("http://127.0.0.1:8265/api/jobs/")}


def names() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")]


def smoke(work: Path) -> list[str]:
    """What each run of the smoke test's study, shortened, said last; the second time there is nothing left to do."""
    study = DEPLOY.yaml("compose/studies/smoke.yaml")
    study["search"]["trials"] = 6
    (work / "smoke.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    job = [DEPLOY.folder / "entrypoint.py", work / "smoke.yaml"]
    said = []
    for _ in range(2):
        with (work / "job.log").open("ab") as log:
            subprocess.run(job, env=environment("raybd"), cwd=work, stdout=log, stderr=log, check=False)
        said.append((work / "job.log").read_text(encoding="utf-8").splitlines()[-1])
    return said


def main(work: Path) -> None:
    """Bring it all up in the order of `depends_on`, and print what was seen as JSON."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (work / "hosts").write_text(f"127.0.0.1 localhost {os.uname().nodename} {' '.join(SERVICES)}\n")
    subprocess.run(["mount", "--bind", work / "hosts", "/etc/hosts"], check=True)
    with ExitStack() as stack:
        postgres(work, stack)
        s3(work, stack)
        seen = {"mlflow": mlflow(work, stack), "ray": ray_node(work, stack), "smoke": smoke(work)}
        count = ["psql", "--host=postgres", "--username=mlflow", "--dbname=mlflow", "-Atc", "SELECT count(*) FROM runs"]
        seen["runs"] = int(subprocess.check_output(count, env=environment("mlflow")))
        other = ["psql", "--host=postgres", "--username=raybd", "--dbname=mlflow", "-c", "SELECT 1"]
        seen["raybd in mlflow's database"] = succeeds(other, env=environment("raybd"))
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
