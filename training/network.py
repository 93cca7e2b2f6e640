"""The network: a 3D U-Net of 1.0 million weights with added instead of joined skips, for processors without a graphics card."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128)
"""Channels at each resolution, each half of the one before."""


class _Block(nn.Sequential):  # type: ignore[misc]  # torch is no dependency, so it has no types here
    """Convolution, normalisation over groups of channels within the patch, leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.LeakyReLU(0.01, inplace=True),
        )


class UNet(nn.Module):  # type: ignore[misc]
    """Class scores of every voxel of a patch.

    Parameters
    ----------
    channels : int
        Of the input.
    classes : int
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_Block(channels, WIDTHS[0]), _Block(WIDTHS[0], WIDTHS[0]))
        self.down = nn.ModuleList(
            nn.Sequential(_Block(fine, coarse, stride=2), _Block(coarse, coarse)) for fine, coarse in pairwise(WIDTHS)
        )
        self.project = nn.ModuleList(nn.Conv3d(coarse, fine, 1) for fine, coarse in pairwise(WIDTHS))
        self.up = nn.ModuleList(_Block(width, width) for width in WIDTHS[:-1])
        self.head = nn.Conv3d(WIDTHS[0], classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Scores (N, classes, Z, Y, X) of an image (N, channels, Z, Y, X) whose edges are multiples of eight."""
        levels = [self.stem(image)]
        for down in self.down:
            levels.append(down(levels[-1]))
        value = levels.pop()
        for level in reversed(range(len(levels))):
            coarse = nn.functional.interpolate(self.project[level](value), scale_factor=2.0, mode="nearest")
            value = self.up[level](coarse + levels[level])
        scores: Tensor = self.head(value)
        return scores
