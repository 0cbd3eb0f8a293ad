"""A network with the interface of ours, small enough to train in a test."""

import torch
from torch import nn


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
