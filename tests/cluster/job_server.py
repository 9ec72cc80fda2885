"""Stands in for Ray's job server, in this process, and keeps what it was sent."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Server:
    """Ray's job server, as far as raybd uses it."""

    def __init__(self) -> None:
        self.jobs: list[SimpleNamespace] = []
        self.sent: list[dict[str, Any]] = []
        self.files: list[str] = []
        self.stopped: list[str] = []
        self.log = ""
        self.asked: str | None = None
        self.fault: Exception | None = None

    def __call__(self, address: str) -> "Server":
        self.asked = os.environ["RAY_API_SERVER_ADDRESS"]
        if self.fault is not None:
            raise self.fault
        return self

    def add(self, name: str, status: str = "RUNNING", code: int | None = None, **more: Any) -> None:
        known = {"metadata": {}, "message": "", "start_time": 1000 * len(self.jobs), "end_time": None}
        self.jobs.append(SimpleNamespace(submission_id=name, status=status, driver_exit_code=code, **known | more))

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def get_job_info(self, name: str) -> SimpleNamespace:
        return next(job for job in self.jobs if job.submission_id == name)

    def get_job_logs(self, name: str) -> str:
        return self.log

    async def tail_job_logs(self, name: str) -> Any:
        for line in self.log.splitlines(keepends=True):
            yield line

    def stop_job(self, name: str) -> bool:
        self.stopped.append(name)
        self.get_job_info(name).status = "STOPPED"
        return True

    def submit_job(self, **job: Any) -> str:
        folder = Path(job["runtime_env"]["working_dir"])
        self.files = sorted(path.name for path in folder.rglob("*"))
        self.sent.append(job)
        self.add(job["submission_id"], metadata=job["metadata"])
        return job["submission_id"]
