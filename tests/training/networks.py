"""Networks small enough to train in a test: one with the interface of ours, and a thin backbone for ours."""

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet


class TinyNet(nn.Module):
    """Two branches: ``(logits, features)`` in training, ``(B, 12)`` in evaluation."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.reduce = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4)])
        self.necks = nn.ModuleList([nn.BatchNorm1d(8), nn.BatchNorm1d(4)])
        self.classifiers = nn.ModuleList([nn.Linear(8, num_classes), nn.Linear(4, num_classes)])

    def forward(self, x):
        x = self.body(x)
        features = tuple(layer(x) for layer in self.reduce)
        after = [neck(feature) for neck, feature in zip(self.necks, features, strict=True)]
        if not self.training:
            return torch.cat(after, dim=1)
        return tuple(layer(feature) for layer, feature in zip(self.classifiers, after, strict=True)), features


class ThinResNet(ResNet):
    """torchvision's ResNet-18 with one block a stage and an eighth of the channels: 0.1 MB, not 45."""

    def __init__(self, weights=None):
        assert weights is None
        super().__init__(BasicBlock, [1, 1, 1, 1], num_classes=1)
        self.inplanes = 8
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        for stage in range(4):
            width = 8 << stage
            setattr(self, f"layer{stage + 1}", self._make_layer(BasicBlock, width, 1, stride=1 if stage == 0 else 2))
        self.fc = nn.Linear(64, 1)
