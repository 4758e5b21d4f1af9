"""Guided Grad-CAM: Grad-CAM times guided backpropagation (Selvaraju et al. 2017, section 3.2); signed.

Guided backpropagation is Springenberg et al.'s (2014, arXiv 1412.6806). For convolutional networks whose nonlinearities are
ReLU modules.
"""

from __future__ import annotations

import warnings

from captum.attr import GuidedGradCam
from torch import Tensor, nn

from scotoma.explain.attributions import grad_cam
from scotoma.explain.attributions.base import Classifier, leaf
from scotoma.models import encoders

ORDER = 6
NOT_RELU = (nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Hardswish, nn.ReLU6, nn.Softplus, nn.Tanh)


def attribute(classifier: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """(B, H, W) maps of ``target`` (B,)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Setting backward hooks")  # captum's, which it takes off again
        found = GuidedGradCam(classifier, classifier.map).attribute(leaf(images), target=target, interpolate_mode="bilinear")
    return found.detach().sum(1)


def is_available(classifier: Classifier, images: Tensor) -> bool:
    """Whether Grad-CAM is, for a convolutional network whose nonlinearities are ReLU modules."""
    kinds = [type(m) for m in classifier.encoder.modules()]
    convolutional = not encoders.is_vit(classifier.encoder)
    return convolutional and nn.ReLU in kinds and not set(kinds) & set(NOT_RELU) and grad_cam.is_available(classifier, images)
