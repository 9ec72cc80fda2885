"""A study on a Ray cluster, as one of its jobs: submitted, looked at, stopped."""

from raybd.cluster.jobs import INTERRUPTED, SUBMITTED, Job, Submitted, follow, status, stop, submit
from raybd.cluster.parcel import Parcel, pack

__all__ = ["INTERRUPTED", "SUBMITTED", "Job", "Parcel", "Submitted", "follow", "pack", "status", "stop", "submit"]
