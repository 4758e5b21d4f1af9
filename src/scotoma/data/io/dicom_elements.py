"""The elements of a DICOM file, read once it is known that what its data set inflates to has bounds."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scotoma.data.io.base import MAX_PIXELS, ImageError

DEFLATED = "1.2.840.10008.1.2.1.99"  # the transfer syntax whose whole data set is deflated, behind the meta information
MOST_INFLATED = 2 * MAX_PIXELS  # bytes: the largest image of 16 bits
_CHUNK = 2**20


def read(path: str, tags: Sequence[Any], pixels: bool = False) -> Any:
    """The data set of a DICOM file, or of one that may be: of a file of anything else it is as good as empty.

    Args:
        path: a regular file.
        tags: the only elements that are parsed.
        pixels: read on where the pixels begin.

    Raises:
        ImageError: a deflated data set is broken, or inflates to more than ``MOST_INFLATED``. Other exceptions come from pydicom.
    """
    from pydicom import dcmread

    _check_inflated(path)
    return dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=list(tags))


def _check_inflated(path: str) -> None:
    """Inflate a deflated data set piece by piece, keeping nothing: pydicom inflates all of it at once, whatever is requested."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    with Path(path).open("rb") as file:
        read_preamble(file, force=True)
        if _read_file_meta_info(file).get("TransferSyntaxUID") != DEFLATED:
            return
        inflate, length = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflate.eof and (piece := inflate.unconsumed_tail or file.read(_CHUNK)):
            try:
                length += len(inflate.decompress(piece, _CHUNK))
            except zlib.error as error:
                raise ImageError(f"its deflated data set is broken ({error})") from error
            if max(length, file.tell()) > MOST_INFLATED:
                break
        length = max(length, Path(path).stat().st_size)
    if length <= MOST_INFLATED and not inflate.eof:
        raise ImageError("its deflated data set is truncated")
    if length > MOST_INFLATED:
        raise ImageError(
            f"its deflated data set inflates to more than the {MOST_INFLATED >> 20} MiB allowed: save it in another transfer syntax"
        )
