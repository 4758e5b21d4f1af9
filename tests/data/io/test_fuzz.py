"""Broken files: each is refused in one line or gives an array; none crashes, hangs or takes all memory.

Mutations (bytes flipped, inserted, cut out, set to extremes; truncations) are drawn from a seed and read in a child process with
limits on its memory and on the time of one file, so that what a decoder in C does is seen too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from imagecodecs import jpeg8_encode
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

CHILD = """
import faulthandler, os, resource, signal, sys, time
from pathlib import Path
import numpy as np
# Their size is not the files' fault.
import nibabel, tifffile, PIL.Image, pydicom.pixels, imagecodecs, openjpeg, jpeg_ls
from scotoma.data.io import read

folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 3 * 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
seeds = sorted((folder / "seeds").iterdir())

def mutated(data, rng):
    data = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 4, 16]))):
        # Half of the changes fall on the first bytes, where headers are.
        end = len(data) if rng.random() < 0.5 else min(len(data), 400)
        at = int(rng.integers(max(1, end)))
        kind = int(rng.integers(6))
        if kind == 0:
            data[at : at + 1] = bytes([data[at] ^ (1 << int(rng.integers(8)))]) if at < len(data) else b""
        elif kind == 1:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 2:
            data[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 3:
            del data[at : at + int(rng.integers(1, 9))]
        elif kind == 4:
            width = int(rng.choice([2, 4]))
            fill, last = ((b"\\xff", b"\\xff"), (b"\\x00", b"\\x00"), (b"\\xff", b"\\x7f"))[int(rng.integers(3))]
            data[at : at + width] = fill * (width - 1) + last
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)

def stop(*_):
    print("HANG", number, path.name, flush=True)
    faulthandler.dump_traceback()
    os._exit(3)

signal.signal(signal.SIGPROF, stop)
faulthandler.enable()
refused = 0
for number in range(first, last):
    rng = np.random.default_rng(number)
    seed = seeds[number % len(seeds)]
    path = folder / ("now-" + seed.name)
    path.write_bytes(mutated(seed.read_bytes(), rng))
    print("READ", number, path.name, flush=True)
    signal.setitimer(signal.ITIMER_PROF, 10)  # of the processor's time: the machine may be busy
    for action in (lambda p, frame: read.read(p, frame, 8 if number // len(seeds) % 2 else None), read.read_labels):
        try:
            frame = int(rng.integers(2)) if rng.random() < 0.5 else None
            found = action(str(path) + ("#x" if path.suffix == ".npz" else ""), frame)
            pixels = found if isinstance(found, np.ndarray) else found.pixels
            assert pixels.ndim in (2, 3) and pixels.size > 0, pixels.shape
            levels = (pixels & 255).astype(np.uint8) if pixels.dtype == np.int32 else read.to_uint8(pixels)
            read.square(levels, 32, 1)
        except read.ImageError as error:
            refused += 1
            assert "\\n" not in str(error) and str(folder) not in str(error), str(error)
    signal.setitimer(signal.ITIMER_PROF, 0)
print("DONE", refused, flush=True)
"""


def write_seeds(folder: Path) -> None:
    """A small whole file of each format and compression."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    grey = np.add.outer(np.arange(40) * 3, np.arange(48) * 2).astype(np.uint8) + rng.integers(0, 9, (40, 48), dtype=np.uint8)
    deep = grey.astype(np.uint16) * 16
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "colour.png")
    Image.fromarray(grey).convert("P").save(folder / "palette.png")
    Image.fromarray(grey).save(folder / "grey.jpg")
    Image.fromarray(np.stack([grey] * 3, -1)).save(folder / "colour.jpg", progressive=True)
    Image.fromarray(deep).save(folder / "deep.tif")
    Image.fromarray(grey).save(folder / "packed.tif", compression="tiff_lzw")
    Image.fromarray(grey).save(folder / "grey.bmp")
    np.savez_compressed(folder / "packed.npz", x=np.stack([grey] * 3))
    np.savez(folder / "plain.npz", x=np.stack([deep] * 3))
    volume = nibabel.Nifti1Image(np.stack([deep.astype(np.int16)] * 4, -1), np.diag([1, 2, 3, 1]))
    nibabel.save(volume, folder / "plain.nii")
    nibabel.save(volume, folder / "packed.nii.gz")
    nibabel.save(nibabel.Nifti2Image(np.stack([deep.astype(np.int16)] * 4, -1), np.eye(4)), folder / "second.nii")
    for name, syntax in (
        ("raw", None),
        ("rle", RLELossless),
        ("jpegls", JPEGLSLossless),
        ("jpeg2000", JPEG2000Lossless),
        ("lossless", JPEGLosslessSV1),
    ):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3.4"
        ds.Modality, ds.PatientAge, ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope = "CT", "050Y", 900, 1000, 1
        ds.RescaleIntercept, ds.PixelSpacing, ds.PixelPaddingValue = -10, [1, 2], 0
        ds.Rows, ds.Columns = deep.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = deep.tobytes()
        if syntax == JPEGLosslessSV1:
            ds.file_meta.TransferSyntaxUID = syntax
            ds.PixelData = encapsulate([jpeg8_encode(deep, lossless=True, bitspersample=12)])
            ds["PixelData"].is_undefined_length = True
        elif syntax:
            compress(ds, syntax, encoding_plugin="")
        dcmwrite(folder / f"{name}.dcm", ds, enforce_file_format=True)


def fuzz(folder: Path, first: int, last: int) -> int:
    """How many of these mutations were refused; fails where one did anything but be refused or give an array."""
    if not (folder / "seeds").exists():
        write_seeds(folder / "seeds")
    command = [sys.executable, "-c", CHILD, str(folder), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    lines = done.stdout.strip().splitlines() or ["nothing"]
    assert done.returncode == 0, f"{lines[-1]}: exit {done.returncode}\n{done.stderr[-3000:]}"
    assert lines[-1].startswith("DONE")
    assert len(lines) == last - first + 1
    return int(lines[-1].split()[1])


def test_five_hundred_broken_files_are_refused_or_give_an_array(tmp_path: Path) -> None:
    refused = fuzz(tmp_path, 0, 500)
    assert 250 < refused < 950  # of 500 files, each read twice: the mutations neither miss all nor break all


@pytest.mark.long
def test_twenty_thousand_broken_files_are_refused_or_give_an_array(tmp_path: Path) -> None:
    for first in range(500, 20_500, 2_000):
        fuzz(tmp_path, first, first + 2_000)


def test_the_child_is_stopped_where_a_decoder_takes_all_memory(tmp_path: Path) -> None:
    greedy = CHILD.replace("read.square(", "np.ones(2**33, np.uint8); read.square(")
    write_seeds(tmp_path / "seeds")
    done = subprocess.run([sys.executable, "-c", greedy, str(tmp_path), "0", "20"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
