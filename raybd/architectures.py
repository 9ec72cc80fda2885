"""Networks by name, for small images: plain convolutional, small ResNet, PreAct-ResNet18, torchvision ResNets."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or wide_in != wide_out:
            projection = nn.Conv2d(wide_in, wide_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(wide_out))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class _PreActBlock(nn.Module):
    """The block with normalisation and activation first (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, 1, 1, bias=False)
        changes = stride != 1 or wide_in != wide_out
        self.shortcut = nn.Conv2d(wide_in, wide_out, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.norm1(x))
        short = x if self.shortcut is None else self.shortcut(active)
        inner = self.conv1(active)
        return self.conv2(functional.relu(self.norm2(inner))) + short  # type: ignore[no-any-return]


def small_resnet(classes: int, channels: int, width: int = 16, blocks: int = 1) -> nn.Module:
    """Return a three-stage ResNet for images of 8x8 to 32x32; 0.08 M parameters as it is, 0.3 M at width 32."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    wide = width
    for stage in range(3):
        for block in range(blocks):
            out = width * 2**stage
            layers.append(_Block(wide, out, 2 if stage and not block else 1))
            wide = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, classes))


def small_convnet(classes: int, channels: int, width: int = 24, dropout: float = 0.2) -> nn.Module:
    """Return two convolutions, each with batch norm and max-pooling, for images of 8x8 to 32x32; 0.01 M parameters."""
    stages = [
        layer
        for wide_in, wide_out in ((channels, width), (width, 2 * width))
        for layer in (nn.Conv2d(wide_in, wide_out, 3, 1, 1), nn.BatchNorm2d(wide_out), nn.ReLU(), nn.MaxPool2d(2))
    ]
    head = [nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8 * width, classes)]
    return nn.Sequential(*stages, *head)


def preact_resnet18(classes: int, channels: int) -> nn.Module:
    """Return PreAct-ResNet18 for 32x32 images, the benchmark network of the field (11 M parameters)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 64, 3, 1, 1, bias=False)]
    wide = 64
    for stage in range(4):
        for block in range(2):
            out = 64 * 2**stage
            layers.append(_PreActBlock(wide, out, 2 if stage and not block else 1))
            wide = out
    pool = [nn.BatchNorm2d(wide), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pool, nn.Linear(wide, classes))


def _torchvision_resnet(name: str) -> Callable[..., nn.Module]:
    """A torchvision ResNet whose stem keeps small images: 3x3 at stride 1, no max-pooling."""

    def build(classes: int, channels: int) -> nn.Module:
        """Return a torchvision ResNet whose stem keeps small images: 3x3 at stride 1, no max-pooling."""
        from torchvision import models  # here, because it takes seconds to import and few studies need it

        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        model.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
        return model

    return build


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "small_convnet": small_convnet,
    "small_resnet": small_resnet,
    "preact_resnet18": preact_resnet18,
    "resnet18": _torchvision_resnet("resnet18"),
    "resnet34": _torchvision_resnet("resnet34"),
    "resnet50": _torchvision_resnet("resnet50"),
}
