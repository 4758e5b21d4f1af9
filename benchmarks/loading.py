"""Reading batches from the store, and making views, on one core: images a second; run it alone on the machine.

python benchmarks/loading.py     writes benchmarks/results/loading.json

Reading: batches of 128 grey images of 224 px in random order from a store of 4,096 that the system holds in memory, until they
lie in an array of their own. Views: two views of 96 px, cropped from the store's 125 px, of grey images, with SimCLR's defaults,
beside lightly's SimCLRTransform of the same images as PIL images; each with one thread.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from PIL import Image

from scotoma.data.store.store import MARGIN, Store
from scotoma.methods.parts.inputs import Inputs
from scotoma.rng import KeyedRNG
from scotoma.run_folder import hardware, versions

OUT = Path(__file__).parent / "results" / "loading.json"
BATCH, COUNT = 128, 4096


def rate(work: Callable[[int], None], images: int, rounds: int) -> float:
    """Images a second, the median over rounds."""
    seconds = []
    for k in range(rounds + 2):
        began = time.perf_counter()
        work(k)
        seconds.append(time.perf_counter() - began)
    return images / float(np.median(seconds[2:]))


def reading() -> float:
    """From the store."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pixels.npy", rng.integers(0, 256, (COUNT, 224, 224, 1), dtype=np.uint8))
        store = Store(Path(folder), 224, 1)
        order = rng.permutation(COUNT)
        store.batch(order)

        def read(k: int) -> None:
            store.batch(order[(k % 32) * BATCH : (k % 32 + 1) * BATCH])

        return rate(read, BATCH, 60)


def views() -> dict[str, float]:
    """Two views an image, of both libraries."""
    from lightly.transforms import SimCLRTransform

    side = round(96 * MARGIN)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 1, side, side), dtype=np.uint8)
    images, rows = torch.from_numpy(pixels), torch.arange(BATCH)
    augment = Inputs(96, 1, (0.4,), (0.2,)).augmentation(scale=(0.2, 1.0), jitter=0.4, blur=0.5)

    def ours(k: int) -> None:
        rng = KeyedRNG(0, k, rows)
        augment(images, rng.of("first"))
        augment(images, rng.of("second"))

    transform = SimCLRTransform(input_size=96)
    pil_images = [Image.fromarray(p[0]).convert("RGB") for p in pixels]

    def theirs(k: int) -> None:
        for image in pil_images:
            transform(image)

    return {"scotoma": rate(ours, BATCH, 20), "lightly": rate(theirs, BATCH, 3)}


def main() -> None:
    """Measure and write."""
    torch.set_num_threads(1)
    both = views()
    found = {"reading": reading(), "views": both, "views_ratio": both["scotoma"] / both["lightly"]}
    print(json.dumps(found))
    OUT.write_text(json.dumps({**found, "hardware": hardware(), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
