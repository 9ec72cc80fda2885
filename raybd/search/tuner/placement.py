"""Where trials and jobs go among the machines: apart from each other, or onto as few machines as hold them."""

from collections.abc import Mapping
from typing import Any, Literal

from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybd.search.tuner.machines import fits, machines

Placement = Literal["spread", "pack"]


def trial_resources(cpus: int, gpus: float, placement: Placement) -> Any:
    """Return what Tune is to ask of the cluster for each trial.

    A trial is a placement group of one bundle, and Ray puts each group where the most is free, whatever strategy the
    group has: PACK and SPREAD are about the bundles within one. What packs trials is a machine that each prefers.
    """
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    if placement == "spread":
        return tune.PlacementGroupFactory([bundle], strategy="SPREAD")
    return tune.PlacementGroupFactory([bundle], strategy="STRICT_PACK", _soft_target_node_id=_largest(cpus, gpus))


def actor_options(cpus: int, gpus: float, placement: Placement) -> Mapping[str, Any]:
    """Return how an actor for jobs and calls is placed."""
    if placement == "spread":
        return {"scheduling_strategy": "SPREAD"}
    preferred = NodeAffinitySchedulingStrategy(_largest(cpus, gpus), soft=True, _spill_on_unavailable=True)
    return {"scheduling_strategy": preferred}


def _largest(cpus: int, gpus: float) -> str:
    """The machine that holds the most trials; the first by name among equals, so that all of them prefer the same."""
    room = {name: fits(has, cpus, gpus) for name, has in machines().items()}
    return str(min(room, key=lambda name: (-room[name], name)))
