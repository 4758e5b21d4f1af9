"""Headers of encoder files."""

from scotoma.data.encoder_header import EncoderInfo
from scotoma.models import encoders


def info_of(name: str, channels: int = 1, size: int = 32) -> EncoderInfo:
    """The header of a network of this name."""
    timm_name, kwargs = encoders.resolve(name, size)
    return EncoderInfo(timm_name, kwargs, channels, size, (0.4,) * channels, (0.2,) * channels)
