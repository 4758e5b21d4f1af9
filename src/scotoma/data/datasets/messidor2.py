"""Messidor-2: 1,748 fundus photographs of 874 examinations, retinopathy and macular oedema graded by three retina specialists.

``label`` is the adjudicated grade (0 none to 4 proliferative), missing where the photograph could not be graded.
``messidor-2.csv`` of the images' publisher states which two are the eyes of one patient; without it they cannot be kept
together.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scotoma.data.dataset import Dataset
from scotoma.data.datasets import base

if TYPE_CHECKING:
    import pandas as pd

SOURCE = (
    "images: ADCIS, https://www.adcis.net/en/third-party/messidor2/; grades: "
    "https://www.kaggle.com/datasets/google-brain/messidor2-dr-grades"
)
TERMS = "images: on request by form; research and education, acknowledgement, no redistribution; grades: see their page"
LAYOUT = """messidor_data.csv: image_id, adjudicated_dr_grade, adjudicated_dme, adjudicated_gradable
messidor-2.csv: left;right (may be absent)
IMAGES/20051020_43808_0100_PP.png"""
FOLDERS = ("IMAGES", "images", "Messidor-2", "messidor-2/preprocess")


def load(root: Path) -> Dataset:
    """Load the photographs with their grades, patient and side.

    Args:
        root: the folder that holds the tables and ``IMAGES``.

    Raises:
        UsageError: the table of grades, a column or every image is absent.
    """
    import pandas as pd

    grades = base.read(
        base.find(root, LAYOUT, "messidor_data.csv"),
        ("image_id", "adjudicated_dr_grade", "adjudicated_dme", "adjudicated_gradable"),
    )
    frame = pd.DataFrame(
        {
            "image_path": base.by_name(grades["image_id"], root, FOLDERS),
            "label": grades["adjudicated_dr_grade"],
            "macular_oedema": grades["adjudicated_dme"],
            "gradable": grades["adjudicated_gradable"],
        }
    )
    pairs = base.optional(root, "messidor-2.csv")
    if pairs is None:
        print(
            f"messidor2: no messidor-2.csv in {root}; the two eyes of a patient may fall on two sides of a split", file=sys.stderr
        )
    else:
        eyes = _eyes(pairs).reindex(grades["image_id"].map(base.stem))
        frame["patient"], frame["laterality"] = eyes["patient"].to_numpy(), eyes["laterality"].to_numpy()
    return base.dataset("messidor2", frame, root, LAYOUT)


def _eyes(path: Path) -> pd.DataFrame:
    """Patient (named by the left photograph) and side of each photograph's stem."""
    import pandas as pd

    lines = [line.split(";") for line in path.read_text().splitlines()[1:] if line.strip(" ;")]
    rows = [
        (base.stem(name.strip()), base.stem((line[0] or line[1]).strip()), side)
        for line in lines
        for name, side in zip(line, "LR", strict=False)
        if name.strip()
    ]
    return pd.DataFrame(rows, columns=["stem", "patient", "laterality"]).drop_duplicates("stem").set_index("stem")
