"""The only room that knows MLflow: runs, models, the registry, and the outbox for when the server is down."""

from raybd.tracking.client import Unreachable, open_uri
from raybd.tracking.outbox import Delivered
from raybd.tracking.registry import Version, check_names, fetch, free_alias, plain_name
from raybd.tracking.runs import Tracker, sync
from raybd.tracking.tracing import Untraceable, check_traceable

__all__ = [
    "Delivered",
    "Tracker",
    "Unreachable",
    "Untraceable",
    "Version",
    "check_names",
    "check_traceable",
    "fetch",
    "free_alias",
    "open_uri",
    "plain_name",
    "sync",
]
