"""Preparing images, files to an array of small squares: Scotoma's store beside MONAI's and torchvision's loaders, in one run.

python benchmarks/preparing.py [--images 1600] [--side 512] [--size 96] [--rounds 2] [--formats jpeg,png]

The files are chest X-ray phantoms drawn at ``--side`` pixels, each turned and mirrored in eight ways: JPEG (quality 90), PNG (8
bits), DICOM of 12 bits (raw, and JPEG 2000 lossless). Every program ends with uint8 images of one size in memory (Scotoma: on
disk, with hashes and header facts), with as many processes as there are cores; each starts its processes anew, as a user's run
does. Imports are not counted. Programs alternate; the table holds medians over rounds, and is kept by side and format: of
images of four times the wanted size Scotoma decodes a part.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scotoma.data import sources
from scotoma.data.phantom import phantom
from scotoma.data.store import store
from scotoma.run_folder import hardware, versions

WORKERS = len(os.sched_getaffinity(0))
RESULTS = Path(__file__).parent / "results" / "preparing.json"
KINDS = {"jpeg": ".jpg", "png": ".png", "dicom": ".dcm", "dicom_jpeg2000": ".dcm"}


def draw(images: int, side: int) -> list[np.ndarray]:
    """Phantoms, eight of each drawing: (side, side) uint8."""
    drawn = [phantom.render("phantom:0", k, side) for k in range(-(-images // 8))]
    return [np.ascontiguousarray(np.rot90(p, k % 4)[:: 1 if k < 4 else -1]) for p in drawn for k in range(8)][:images]


def write_files(folder: Path, kind: str, images: list[np.ndarray]) -> list[Path]:
    """Images in one format, in a folder of one class."""
    (folder / "all").mkdir(parents=True)
    paths = []
    for k, pixels in enumerate(images):
        paths.append(folder / "all" / f"{k:05d}{KINDS[kind]}")
        if kind in ("jpeg", "png"):
            Image.fromarray(pixels).save(paths[-1], quality=90)  # of which PNG knows nothing
        else:
            write_dicom(paths[-1], pixels, compressed=kind == "dicom_jpeg2000")
    return paths


def write_dicom(path: Path, pixels: np.ndarray, compressed: bool) -> None:
    """A CR file of 12 bits."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = "CR", "MONOCHROME2", 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    if compressed:
        ds.compress(JPEG2000Lossless)
    ds.save_as(path, enforce_file_format=True)


def scotoma_store(folder: Path, paths: list[Path], size: int) -> int:
    """``scotoma prepare``'s own work."""
    with tempfile.TemporaryDirectory() as out:
        _, made = store.prepare(sources.load(folder), size, 1, Path(out) / "store", workers=WORKERS, quiet=True)
        return len(made)


def monai_loader(folder: Path, paths: list[Path], size: int) -> int:
    """LoadImage and Resize in MONAI's Dataset and torch's DataLoader."""
    from monai.data import Dataset
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensity

    side = store.side_for(size)
    steps = Compose(
        [LoadImage(image_only=True), EnsureChannelFirst(), Resize((side, side)), ScaleIntensity(0, 255, dtype=np.uint8)]
    )
    return sum(len(batch) for batch in loader(Dataset([str(p) for p in paths], steps)))


def torchvision_loader(folder: Path, paths: list[Path], size: int) -> int:
    """ImageFolder with Resize."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Grayscale, PILToTensor, Resize

    side = store.side_for(size)
    steps = Compose([Grayscale(), Resize((side, side)), PILToTensor()])
    return sum(len(batch) for batch, _ in loader(ImageFolder(str(folder), steps)))


def loader(dataset: object) -> torch.utils.data.DataLoader:
    """One process a core."""
    return torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=WORKERS)  # type: ignore[arg-type]


def main() -> None:
    """Alternate, take medians, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 1600), ("side", 512), ("size", 96), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--formats", default=",".join(KINDS))
    options = parser.parse_args()
    found = {}
    drawn = draw(options.images, options.side)
    for kind in options.formats.split(","):
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            paths = write_files(folder, kind, drawn)
            megabytes = sum(p.stat().st_size for p in paths) / 1e6
            programs: dict[str, Callable[[Path, list[Path], int], int]] = {"scotoma": scotoma_store, "monai": monai_loader}
            if kind in ("jpeg", "png"):
                programs["torchvision"] = torchvision_loader
            seconds: dict[str, list[float]] = {name: [] for name in programs}
            for round_ in range(options.rounds + 1):
                for name, program in programs.items():
                    began = time.perf_counter()
                    assert program(folder, paths, options.size) == options.images
                    if round_:  # the first imports what each program needs
                        seconds[name].append(time.perf_counter() - began)
        rates = {name: options.images / float(np.median(s)) for name, s in seconds.items()}
        best = max(rate for name, rate in rates.items() if name != "scotoma")
        found[kind] = {
            "images": options.images,
            "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
            "megabytes_per_second": {name: round(rate * megabytes / options.images, 1) for name, rate in rates.items()},
            "ratio_to_the_better": round(rates["scotoma"] / best, 2),
        }
        print(kind, found[kind], flush=True)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept.setdefault(f"{options.side} px", {}).update(found)
    RESULTS.write_text(json.dumps({**kept, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
