"""What all tests share: a cache and a key of their own, the real data where there are any, small images that can be learned."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
NO_SKIPS = "SCOTOMA_NO_SKIPS"  # set: real data and the peers that are compared with are here, so that a skipped test has failed
GreyFolder = Callable[..., Path]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip where none is expected is a failure."""
    report = yield
    if report.skipped and os.environ.get(NO_SKIPS) and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped where nothing may be ({NO_SKIPS}): {report.longrepr}"
    return report


@pytest.fixture(scope="session", autouse=True)
def _own_cache_and_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing a test does, in this process or one that it starts, touches the user's cache or key."""
    folder = tmp_path_factory.mktemp("installation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOTOMA_CACHE", str(folder / "cache"))
        patch.setenv("SCOTOMA_KEY_FILE", str(folder / "key"))
        patch.setenv("SCOTOMA_TRACEBACK", "1")  # an unforeseen error fails a test
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut_is_waited_for() -> Iterator[None]:
    """Forcing files onto the disk is half of what a small run costs, and no test can see whether it was done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _audits_look_for_text_in_few_images() -> Iterator[None]:
    """In three of a table, as the detector takes a third of a second for each."""

    importlib.import_module("scotoma.quality.audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["scotoma.quality.audit"], "MOST_DETECTED", 3)
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data: ``$SCOTOMA_DATA``, else ``../shared/data`` beside the repository."""
    root = Path(os.environ.get("SCOTOMA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; name their folder with SCOTOMA_DATA")
    return root


def grey_image(kind: int, rng: np.random.Generator, side: int = 40) -> np.ndarray:
    """(side, side) uint8 of smooth noise, with a bright disc in the left (kind 0), right (1), upper (2) or lower (3) half."""
    noise = Image.fromarray(rng.integers(30, 110, (6, 6), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    x, y = ((0.28, 0.5), (0.72, 0.5), (0.5, 0.28), (0.5, 0.72))[kind]
    rows, columns = np.mgrid[:side, :side] / side
    centre = np.array([y, x]) + rng.uniform(-0.06, 0.06, 2)
    disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < rng.uniform(0.16, 0.22) ** 2
    return np.clip(np.asarray(noise, float) + 110 * disc + rng.normal(0, 4, (side, side)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def clinic_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty images for training, two a patient and study, with a ``label`` and ``age`` of some and the ``sex`` of all."""
    folder, rng, lines = tmp_path_factory.mktemp("clinic"), np.random.default_rng(0), []
    for k in range(20):
        Image.fromarray(grey_image(k % 2, rng)).save(folder / f"{k}.png")
        patient, label = f"p{k // 2}", ("left", "right")[k % 2] if k % 5 else ""
        lines.append({"image_path": f"{k}.png", "patient": patient, "study": patient, "label": label,
                      "age": 30 + k if k % 3 else None, "sex": "FM"[k % 2], "split": "train"})  # fmt: skip
    pd.DataFrame(lines).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture
def grey_folder(tmp_path: Path) -> GreyFolder:
    """``grey_folder(count=8, classes=("left", "right"), splits=(), suffix=".png", side=40, seed=0, name="scans")``.

    Writes ``count`` images a class (and split) as ``[SPLIT/]CLASS/scan_K``; ``classes=()`` writes a flat folder. Up to four
    classes, told apart by where a bright disc lies.
    """

    def make(
        count: int = 8,
        classes: Sequence[str] = ("left", "right"),
        splits: Sequence[str] = (),
        suffix: str = ".png",
        side: int = 40,
        seed: int = 0,
        name: str = "scans",
    ) -> Path:
        rng, root, number = np.random.default_rng(seed), tmp_path / name, 0
        for split in splits or ("",):
            for kind, label in enumerate(classes or ("",)):
                folder = root / split / label
                folder.mkdir(parents=True, exist_ok=True)
                for _ in range(count):
                    Image.fromarray(grey_image(kind, rng, side)).save(folder / f"scan_{number}{suffix}")
                    number += 1
        return root

    return make


@pytest.fixture
def write_dicom() -> Callable[..., Path]:
    """``write_dicom(path, pixels, PatientID="...", ...)`` writes an 8-bit grey DICOM file with these header elements."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    def write(path: Path, pixels: np.ndarray, **elements: object) -> Path:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
        ds.Rows, ds.Columns = pixels.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 8
        ds.HighBit, ds.PixelRepresentation, ds.PixelData = 7, 0, pixels.tobytes()
        for name, value in elements.items():
            setattr(ds, name, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        return path

    return write
