"""raybd searches for the settings that remove a backdoor from an image classifier, and shows the evidence.

    import raybd

    study = raybd.load_study("study.yaml")
    raybd.pipeline.run(study)

`raybd.pipeline` holds the verbs of the command line as functions. Nothing heavy is imported until it is used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ON_DEMAND = {
    "pipeline": "raybd.pipeline",
    "load_study": "raybd.settings",
    "parse_study": "raybd.settings",
    "BadInput": "raybd.registry",
}


def __getattr__(name: str) -> Any:
    # The verbs are not names of this package itself: `raybd.search` is the package that searches.
    if name not in _ON_DEMAND:
        raise AttributeError(f"module 'raybd' has no attribute {name!r}")
    module = importlib.import_module(_ON_DEMAND[name])
    return module if _ON_DEMAND[name] == f"raybd.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_DEMAND])
