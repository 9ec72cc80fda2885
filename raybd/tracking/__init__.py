"""The only room that knows MLflow: runs, models, the registry, and the outbox for when the server is down."""

from raybd.tracking.client import Unreachable
from raybd.tracking.outbox import Delivered
from raybd.tracking.registry import Version, check_names, fetch
from raybd.tracking.runs import Tracker, sync

__all__ = ["Delivered", "Tracker", "Unreachable", "Version", "check_names", "fetch", "sync"]
