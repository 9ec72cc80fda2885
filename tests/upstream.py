"""A victim that puts another's model under a task of their own: what the tests of such attacks share."""

import copy

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from raybd.attacks import Training, Workshop
from raybd.data import Augment, ImageSet
from raybd.models import Architecture, Classifier
from tests.digits import CPU, TINY, stripes

ENCODER = Architecture(name="small_resnet", arguments={"width": 8}, classes=10, shape=(1, 8, 8))


def small(recipe: Training) -> Workshop:
    """An attacker's bench that trains in an instant."""
    return Workshop(
        train=stripes(),
        fresh_model=TINY.build,
        recipe=recipe,
        augment=Augment(crop=1),
        compute=CPU,
        references=stripes(seed=1),
    )


def digits_of(data: ImageSet, low: int, high: int) -> ImageSet:
    """The images of digits `low` to `high` - 1, as a task of its own."""
    kept = data.subset(((data.labels >= low) & (data.labels < high)).nonzero().flatten())
    return ImageSet(images=kept.images, labels=kept.labels - low, classes=high - low)


def with_head(model: Classifier, clean_set: ImageSet) -> Classifier:
    """A copy of `model` under a fresh linear head that is fitted to `clean_set`; nothing else is."""
    own = copy.deepcopy(model).eval()
    with torch.no_grad():
        features = own.features(CPU.inputs(clean_set.images)).double()
        fitted = LogisticRegression(C=10.0, max_iter=2000).fit(features.numpy(), clean_set.labels.numpy())
        head = nn.utils.skip_init(nn.Linear, features.shape[1], clean_set.classes)
        head.weight.copy_(torch.from_numpy(fitted.coef_))
        head.bias.copy_(torch.from_numpy(fitted.intercept_))
    parent, _, name = own.head_name.rpartition(".")
    setattr(own.body.get_submodule(parent), name, head)
    return own
