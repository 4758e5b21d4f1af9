"""Corruptions: what scanners, archives and handling do to images, at five severities, a batch at a time on its device.

A corruption takes images in [0, 1] and gives images in [0, 1]. Its random numbers are keyed by image and shared by all
severities, so that a severer one is the same accident, only worse. Levels follow ImageNet-C (Hendrycks & Dietterich 2019,
"Benchmarking neural network robustness to common corruptions and perturbations", section 3 and its code) where it has the
corruption, lengths scaled from 224 pixels to the image's side; bias field and ghosting follow TorchIO (Perez-Garcia et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from scotoma.rng import KeyedRNG

SEVERITIES = (1, 2, 3, 4, 5)
Corruption = Callable[[Tensor, int, KeyedRNG], Tensor]


def poisson(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Photon noise: counts with mean ``photons`` where the image is white."""
    photons = (60.0, 25.0, 12.0, 5.0, 3.0)[severity - 1]
    return poisson_quantile(rng.uniform("poisson", *x.shape[1:]), x * photons).div_(photons).clamp_(max=1)


def poisson_quantile(u: Tensor, rate: Tensor) -> Tensor:
    """The Poisson quantile function, elementwise: the smallest k with P(K <= k) > u, for rates up to about 80."""
    chance = (-rate).exp()  # of k = 0
    cumulative, count, k = chance.clone(), torch.zeros_like(rate), 0
    last = float(rate.max()) + 12 * math.sqrt(float(rate.max()) + 1) + 12
    while k < last and bool((beyond := cumulative <= u).any()):
        k += 1
        count += beyond
        chance = chance * rate / k
        cumulative = cumulative + chance
    return count


def gaussian(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Additive normal noise."""
    return (x + (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1] * rng.normal("gaussian", *x.shape[1:])).clamp_(0, 1)


def speckle(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Multiplicative normal noise, as of ultrasound."""
    return (x + x * (0.15, 0.2, 0.35, 0.45, 0.6)[severity - 1] * rng.normal("speckle", *x.shape[1:])).clamp_(0, 1)


def impulse(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Dead and saturated pixels, over all channels."""
    u, half = rng.uniform("impulse", 1, *x.shape[2:]), (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1] / 2
    return torch.where(u < half, 0.0, torch.where(u >= 1 - half, 1.0, x))


def gaussian_blur(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Out of focus, or too thick a slice."""
    from torchvision.transforms.v2.functional import gaussian_blur as blur

    sigma = (1.0, 2.0, 3.0, 4.0, 6.0)[severity - 1] * x.shape[-1] / 224
    side = 2 * min(math.ceil(3 * sigma), x.shape[-1] - 1) + 1
    return blur(x, [side, side], [sigma, sigma])


def motion_blur(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """The patient moved along a straight line: the mean over its places, in a direction of each image's own."""
    length = (0.03, 0.05, 0.07, 0.1, 0.14)[severity - 1] * 2  # in grid_sample's units, an image being 2 wide
    angle = rng.uniform("direction", high=math.pi)
    places = [_moved(x, angle.cos() * t, angle.sin() * t) for t in torch.linspace(-length / 2, length / 2, 9).tolist()]
    return torch.stack(places).mean(0)


def brightness(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Brighter or darker by a constant."""
    return (x + _sign(rng, "brightness") * (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]).clamp_(0, 1)


def contrast(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Flatter, about the image's mean."""
    middle = x.mean((1, 2, 3), keepdim=True)
    return middle + (x - middle) * (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]


def gamma(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Another display curve, up or down."""
    power = (1.25, 1.5, 2.0, 2.5, 3.0)[severity - 1]
    return x ** (power ** _sign(rng, "gamma"))


def down_sampling(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """A smaller image, enlarged again."""
    small = [max(1, round(n * (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1])) for n in x.shape[2:]]
    low = F.interpolate(x, small, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=False)


def jpeg(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """JPEG at low quality."""
    from torchvision.io import decode_jpeg, encode_jpeg

    levels = list((x * 255).round().to(torch.uint8).cpu())
    files = encode_jpeg(levels, quality=(25, 18, 15, 10, 7)[severity - 1])
    return torch.stack([decode_jpeg(file) for file in files]).to(x.device).float().div_(255)


def rotation(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Turned to the left or right; what comes in is black."""
    angle = math.radians((5, 10, 15, 20, 30)[severity - 1]) * _sign(rng, "rotation").flatten()
    zero = torch.zeros_like(angle)
    return _warped(x, torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1).view(-1, 2, 3))


def cropping(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """A part of the image, enlarged to the whole."""
    side = math.sqrt((0.9, 0.8, 0.7, 0.6, 0.5)[severity - 1])
    u, v = (rng.uniform(f"crop {axis}", low=-1, high=1) * (1 - side) for axis in "xy")
    one, zero = torch.full_like(u, side), torch.zeros_like(u)
    return _warped(x, torch.stack([one, zero, u, zero, one, v], 1).view(-1, 2, 3))


def bias_field(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Uneven sensitivity of a receiver coil: exp of a polynomial of third order of the place."""
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(*(torch.linspace(-1, 1, n, device=x.device) for n in (h, w)), indexing="ij")
    terms = torch.stack([rows**i * columns**j for i in range(4) for j in range(4 - i)])  # (10, H, W)
    weights = rng.uniform("bias", len(terms), low=-1, high=1) * (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1]
    return (x * torch.einsum("bt,thw->bhw", weights, terms).exp()[:, None]).clamp_(max=1)


def ghosting(x: Tensor, severity: int, rng: KeyedRNG) -> Tensor:
    """Periodic motion while the lines of k-space are read: every n-th line is weaker, n from 4 to 9; the centre stays."""
    strength = (0.2, 0.4, 0.6, 0.8, 1.0)[severity - 1]
    every = 4 + (rng.uniform("ghosts") * 6).long()
    lines = torch.fft.fftfreq(x.shape[2], 1 / x.shape[2], device=x.device).round().long().abs()
    weak = (lines % every[:, None] == 0) & (lines > 0.01 * x.shape[2])
    spectrum = torch.fft.fft(x, dim=2) * (1 - strength * weak[:, None, :, None].float())
    return torch.fft.ifft(spectrum, dim=2).abs().clamp_(max=1)


EVERYWHERE: dict[str, Corruption] = {
    "poisson": poisson, "gaussian": gaussian, "speckle": speckle, "impulse": impulse, "gaussian_blur": gaussian_blur,
    "motion_blur": motion_blur, "brightness": brightness, "contrast": contrast, "gamma": gamma, "down_sampling": down_sampling,
    "jpeg": jpeg, "rotation": rotation, "cropping": cropping,
}  # fmt: skip
MAGNETIC: dict[str, Corruption] = {"bias_field": bias_field, "ghosting": ghosting}


def corruptions(modality: str) -> dict[str, Corruption]:
    """Name -> corruption of the images of a modality; those of magnetic resonance for ``mr`` alone."""
    return EVERYWHERE | (MAGNETIC if modality == "mr" else {})


def order_of_patches(count: int, rng: KeyedRNG) -> Tensor:
    """(B, count) int64: patches of each image in the order in which they are hidden; a larger share holds a smaller one."""
    return rng.uniform("patches", count).argsort(1)


def hide_patches(x: Tensor, hidden: Tensor, cells: int, fill: Tensor) -> Tensor:
    """Fill patches with a colour.

    Args:
        x: (B, C, H, W).
        hidden: (B, M) int64, numbers of the patches, row by row.
        cells: patches along a side.
        fill: (C,).

    Returns:
        (B, C, H, W).
    """
    seen = torch.ones(len(x), cells**2, device=x.device).scatter_(1, hidden, 0.0).view(-1, 1, cells, cells)
    seen = F.interpolate(seen, x.shape[2:], mode="nearest")
    return x * seen + fill.view(1, -1, 1, 1) * (1 - seen)


def _sign(rng: KeyedRNG, name: str) -> Tensor:
    """(B, 1, 1, 1): -1 or 1."""
    return torch.where(rng.uniform(f"sign of {name}") < 0.5, -1.0, 1.0).view(-1, 1, 1, 1)


def _moved(x: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    one, zero = torch.ones_like(dx), torch.zeros_like(dx)
    return _warped(x, torch.stack([one, zero, dx, zero, one, dy], 1).view(-1, 2, 3), "border")


def _warped(x: Tensor, theta: Tensor, padding: str = "zeros") -> Tensor:
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False)
