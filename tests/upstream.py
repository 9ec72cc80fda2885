"""A victim that puts another's model under a task of their own: what the tests of such attacks share."""

import copy

from torch import nn

from raybd import schedules
from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.seeds import IsolatedRandom
from raybd.training import finished, fit
from tests.digits import CPU


def digits_of(data: ImageSet, low: int, high: int) -> ImageSet:
    """The images of digits `low` to `high` - 1, as a task of its own."""
    kept = data.subset(((data.labels >= low) & (data.labels < high)).nonzero().flatten())
    return ImageSet(images=kept.images, labels=kept.labels - low, classes=high - low)


def with_head(model: Classifier, clean_set: ImageSet, steps: int = 250) -> Classifier:
    """A copy of `model` under a fresh linear head that is trained on `clean_set`; nothing else is."""
    own = copy.deepcopy(model)
    parent, _, name = own.head_name.rpartition(".")
    with IsolatedRandom(0):
        setattr(own.body.get_submodule(parent), name, nn.Linear(own.head.in_features, clean_set.classes))
    epochs = fit(
        own,
        clean_set,
        steps=steps,
        batch_size=64,
        schedule=schedules.cosine(0.3, steps),
        momentum=0.9,
        weight_decay=0.0,
        augment=Augment(),
        compute=CPU,
        seed=0,
        part=own.head,
    )
    finished(epochs)
    return own.eval()
