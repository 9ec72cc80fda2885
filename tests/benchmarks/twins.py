"""The never-poisoned twin that several attacks of a benchmark share, kept in a file."""

from pathlib import Path

from raybd.attacks import Workshop
from raybd.models import Classifier
from raybd.weights import load_into, load_weights, save_weights, state_of


def kept_twin(bench: Workshop, seed: int, file: Path) -> Classifier:
    """Return the twin of `seed`, from `file` or trained now and kept there; the attacks of `bench` begin with it."""
    if file.is_file():
        model = bench.fresh_model(seed)
        load_into(model, load_weights(file))
        bench.twins[seed] = model.eval()
    else:
        save_weights(state_of(bench.twin(seed)), file)
    return bench.twin(seed)
