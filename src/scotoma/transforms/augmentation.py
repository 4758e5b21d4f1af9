"""Views: random numbers keyed by image, then one fused warp and one intensity change for the whole batch.

``KeyedRNG`` gives every image its own random numbers, a pure function of (seed, epoch, row): the same image gets the same view
in whatever batch, order or process it comes. ``Augmentation`` samples a view's parameters from them and applies them to the
batch on its device. ``plain`` is the view without chance that evaluation, prediction and the report use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scotoma.data.modalities import Modality
from scotoma.errors import UsageError
from scotoma.rng import KeyedRNG

MOST_GAMMA = 0.4  # jitter of gamma
NO_BLUR = 0.01  # standard deviation in pixels that leaves an image as it is, to the bit


@dataclass(frozen=True)
class Augmentation:
    """A random view: what is sampled for each image, and how strongly.

    Args:
        size: side of the view, pixels.
        mean: mean a channel of the data's pixels in [0, 1], subtracted last.
        std: standard deviation a channel, divided by last.
        kind: which changes the modality allows.
        scale: smallest and largest share of the image's area that a crop keeps.
        ratio: smallest and largest width over height of a crop.
        jitter: largest change of brightness (added, in units of the full range, halved), contrast and gamma (factors 1 +- jitter);
            in [0, 1). Gamma, which the papers' colour jitter has not, changes no more than at 0.4: at SimCLR's 0.8 it would be
            from 0.2 to 5 and leave many images nearly black or white.
        blur: probability of blurring a view.
        blur_sigma: smallest and largest standard deviation of the blur, pixels of the view.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Modality
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float = 0.4
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 1.5)

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < 1:
            raise UsageError(f"jitter {self.jitter}: must be at least 0 and below 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise UsageError(f"min_scale {self.scale[0]}: must be above 0 and at most 1")

    def __call__(self, images: Tensor, rng: KeyedRNG) -> Tensor:
        """(B, C, H, W) uint8 -> (B, C, size, size) float32, normalised."""
        return self.apply(images, self.sample(rng))

    def sample(self, rng: KeyedRNG) -> dict[str, Tensor]:
        """The parameters of one view for each image: ``theta`` (B, 2, 3) and the intensity changes, each (B,) or (B, 3)."""
        log_ratio = (math.log(self.ratio[0]), math.log(self.ratio[1]))
        area, aspect = (
            rng.uniform("area", low=self.scale[0], high=self.scale[1]),
            rng.uniform("aspect", low=log_ratio[0], high=log_ratio[1]).exp(),
        )
        width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
        x, y = rng.uniform("x", low=-1, high=1) * (1 - width), rng.uniform("y", low=-1, high=1) * (1 - height)
        angle = rng.uniform("angle", low=-1, high=1) * math.radians(self.kind.rotation)
        mirror = torch.where(rng.uniform("mirror") < 0.5, -1.0, 1.0) if self.kind.mirror else torch.ones_like(x)
        flip = torch.where(rng.uniform("flip") < 0.5, -1.0, 1.0) if self.kind.flip else torch.ones_like(x)
        # output coordinates -> input coordinates: mirror, scale to the crop, rotate about its centre, move
        theta = torch.stack(
            [
                torch.stack([angle.cos() * width * mirror, -angle.sin() * height * flip, x], 1),
                torch.stack([angle.sin() * width * mirror, angle.cos() * height * flip, y], 1),
            ],
            1,
        )
        j, g = self.jitter, min(self.jitter, MOST_GAMMA)
        return {
            "theta": theta,
            "brightness": rng.uniform("brightness", low=-j / 2, high=j / 2),
            "contrast": rng.uniform("contrast", low=1 - j, high=1 + j),
            "gamma": rng.uniform("gamma", low=math.log(1 - g), high=-math.log(1 - g)).exp(),
            "hue": rng.uniform("hue", 3, low=1 - self.kind.hue, high=1 + self.kind.hue),
            "sigma": rng.uniform("sigma", low=self.blur_sigma[0], high=self.blur_sigma[1]) * (rng.uniform("blurred") < self.blur),
        }

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        """Apply sampled parameters to a batch: one warp, the intensity changes, blur, normalisation."""
        channels = images.shape[1]
        x = images.to(torch.float32, memory_format=torch.contiguous_format)  # grid_sample is slow on other layouts
        x = F.grid_sample(x, places(params["theta"], self.size), mode="bilinear", padding_mode="zeros", align_corners=False).div_(
            255
        )
        if self.jitter:
            x.log_().mul_(params["gamma"].view(-1, 1, 1, 1)).exp_()  # x ** gamma, in a third of the time
            middle = x.mean((1, 2, 3), keepdim=True)
            contrast = params["contrast"].view(-1, 1, 1, 1)
            # contrast about the image's own mean, so that it does not change the brightness as well
            x.mul_(contrast).add_(middle * (1 - contrast) + params["brightness"].view(-1, 1, 1, 1)).clamp_(0, 1)
        if self.kind.hue and channels == 3:
            x.mul_(params["hue"].view(-1, 3, 1, 1)).clamp_(max=1)
        if self.blur:
            x = _blur(x, params["sigma"])
        return normalise_(x, self.mean, self.std)

    def apply_to_labels(self, labels: Tensor, params: dict[str, Tensor]) -> Tensor:
        """The warp of sampled parameters on label maps: nearest values, 0 beyond the image.

        Args:
            labels: (B, 1, H, W) uint8, laid out as the images.
            params: of `sample`.

        Returns:
            (B, 1, size, size) float32 of the same values.
        """
        grid = places(params["theta"], self.size)
        return F.grid_sample(labels.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)


def places(theta: Tensor, size: int) -> Tensor:
    """Where each pixel of a square view lies in its image: ``F.affine_grid`` with pixels' centres, in a fraction of its time.

    Args:
        theta: (B, 2, 3), from the view's coordinates in [-1, 1] to the image's.
        size: side of the view, pixels.

    Returns:
        (B, size, size, 2).
    """
    centres = (2 * torch.arange(size, device=theta.device, dtype=theta.dtype) + 1) / size - 1
    along, down = theta[:, :, 0, None] * centres, theta[:, :, 1, None] * centres + theta[:, :, 2, None]  # (B, 2, size) each
    found = theta.new_empty(len(theta), size, size, 2)
    for axis in (0, 1):
        found[..., axis] = along[:, axis, None, :] + down[:, axis, :, None]
    return found


def _blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation of its own for each image (0 leaves it): two one-dimensional convolutions."""
    chosen = _to_blur(sigma)
    part = x[chosen]
    if not len(part):
        return x
    n, channels, height, width = part.shape
    radius = 3
    taps = torch.arange(-radius, radius + 1, device=x.device)
    width_of = sigma[chosen, None].clamp(min=NO_BLUR)
    kernel = torch.softmax(-(taps**2) / (2 * width_of**2), 1).repeat_interleave(channels, 0)
    flat = F.pad(part.reshape(1, n * channels, height, width), [radius] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=n * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * channels)
    x[chosen] = flat.view(n, channels, height, width)
    return x


def _to_blur(sigma: Tensor) -> Tensor | slice:
    """Those images that need it; not on a GPU, for which the processor would have to wait to know which they are."""
    return sigma > 0 if sigma.device.type == "cpu" else slice(None)


def normalise_(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Subtract the mean and divide by the deviation of each channel, in place."""
    shape = (1, -1, 1, 1)
    return x.sub_(x.new_tensor(mean).view(shape)).div_(x.new_tensor(std).view(shape))


def resize(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) uint8 -> (B, C, size, size) float32 in [0, 1]: the whole image, resized with antialiasing."""
    x = images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if x.shape[-2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return x


def plain(images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The view without chance: the whole image, resized, normalised.

    Args:
        images: (B, C, H, W) uint8.
        size: side of the result, pixels.
        mean: mean a channel, of pixels in [0, 1].
        std: standard deviation a channel.

    Returns:
        (B, C, size, size) float32.
    """
    return normalise_(resize(images, size), mean, std)
