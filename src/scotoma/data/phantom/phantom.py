"""Synthetic chest radiographs with known truth: any image can be drawn alone, from a seed and an index.

Who is on an image and what they have is drawn here, the image itself by :mod:`scotoma.data.phantom.radiograph`, all from
counter-based generators keyed by (seed, kind of draw, patient or index).

What depends on what, so that shortcuts can be looked for: apparent heart size on the view (AP magnifies), view on age
and effusion, effusion on cardiomegaly, true heart size on age; a line or tube is mostly found on AP films. Nodule and
pneumothorax depend on nothing but chance; fluid may hide a nodule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from scotoma.data.phantom.radiograph import MASKS, ORDER, PATIENT, VISIT, Painter, Person, generator

if TYPE_CHECKING:
    import pandas as pd

    from scotoma.data.phantom.radiograph import Mask

LABELS = ("cardiomegaly", "nodule", "effusion", "pneumothorax")
_COLUMNS = ("patient", "study", "age", "sex", "view", "ctr", *LABELS)
# Six images hold three patients with one, two and three studies, in one of six orders: an index finds its patient
# without counting.
_BLOCK = 6
_ORDERS = tuple(tuple((k, v) for k, n in enumerate(sizes) for v in range(n)) for sizes in permutations((1, 2, 3)))


@dataclass(frozen=True)
class Phantom:
    """One image and everything that is true of it.

    Attributes:
        pixels: (side, side) uint8, MONOCHROME2: bright is dense.
        truth: ``age`` (years), ``sex`` ("F" / "M"), ``view`` ("AP" / "PA"), ``ctr``, the four 0/1 ``LABELS``,
            ``patient``, ``study``. ``ctr`` is the true cardiothoracic ratio: widest heart over widest inner thorax,
            without magnification. A PA film shows it as it is; an AP film shows the heart 1.10 to 1.22 times
            as wide. ``cardiomegaly`` is ``ctr > 0.5``, so on an AP film a heart may look enlarged and not be.
        masks: (side, side) uint8 0/1, as painted. ``heart`` is the silhouette, magnified on AP films; ``lungs`` the
            lung fields beside heart and mediastinum and above the diaphragm, with whatever fluid or air fills them;
            ``lesion`` the union of nodule, fluid and free air, empty where there is none.
    """

    pixels: Mask
    truth: dict[str, object]
    masks: dict[str, Mask]


def truth(seed: int, index: int) -> dict[str, object]:
    """The truth of one image, without painting it; keys as in :class:`Phantom`.

    Raises:
        ValueError: A negative seed or index.
    """
    return _facts(seed, _person(seed, index))


def draw(seed: int, index: int, side: int = 128) -> Phantom:
    """Paint image ``index`` of the endless series ``seed``, ``side`` pixels square.

    The same arguments give the same image whatever else was drawn. Truth and anatomy do not depend on ``side``;
    quantum noise does.

    Raises:
        ValueError: A negative seed or index.
    """
    person = _person(seed, index)
    pixels, masks = Painter(seed, index, person, side).paint()
    return Phantom(pixels, _facts(seed, person), masks)


def table(n: int, seed: int = 0) -> pd.DataFrame:
    """Rows 0 to ``n`` - 1 of series ``seed``: one row per image, its truth, and paths that :func:`image` resolves."""
    import pandas as pd

    rows = pd.DataFrame([truth(seed, index) for index in range(n)], columns=[*_COLUMNS])
    rows.insert(0, "image_path", f"phantom:{seed}")
    rows.insert(1, "frame", range(n))
    return rows.assign(mask_path=f"phantom:{seed}#lesion")


def render(path: str, frame: int, side: int = 128) -> Mask:
    """The pixels of ``phantom:SEED`` or a mask of ``phantom:SEED#heart`` (``#lungs``, ``#lesion``) at index ``frame``.

    Raises:
        ValueError: ``path`` has another form, or ``frame`` is negative.
    """
    found = re.fullmatch(r"phantom:(\d+)(?:#(\w+))?", path)
    if found is None or found[2] not in (None, *MASKS):
        raise ValueError(f"not a phantom: {path!r}; write phantom:SEED or phantom:SEED#MASK ({', '.join(MASKS)})")
    phantom = draw(int(found[1]), frame, side)
    return phantom.pixels if found[2] is None else phantom.masks[found[2]]


def _person(seed: int, index: int) -> Person:
    if seed < 0 or index < 0:
        raise ValueError(f"a phantom's seed and index are 0 or more, not {seed} and {index}")
    block, place = divmod(index, _BLOCK)
    slot, visit = _ORDERS[int(generator(seed, ORDER, block).random() * len(_ORDERS))][place]
    number = 3 * block + slot
    rng = generator(seed, PATIENT, number)
    sex, adult, interval, nodule, effusion, pneumothorax = rng.random(6).tolist()
    big, spread = rng.standard_normal(2).tolist()
    age0 = min(max(18 + 74 * (0.35 * adult + 0.65 * (0.5 + 0.24 * spread)), 18), 92)
    mean_ctr = 0.472 + 0.0007 * (age0 - 55) + 0.050 * big

    rng = generator(seed, VISIT, index)
    view, has_nodule, has_effusion, has_pneumothorax = rng.random(4).tolist()
    ctr = round(min(max(mean_ctr + 0.012 * rng.standard_normal(), 0.36), 0.66), 4)
    age = int(age0 + visit * 1.2 * interval)
    # A patient is prone to a finding or not, and a prone one shows it in most studies: findings come and go.
    fluid = effusion < (0.44 if ctr > 0.5 else 0.21) and has_effusion < 0.72
    return Person(
        number=number,
        visit=visit,
        age=age,
        female=sex < 0.48,
        ap=view < 0.22 + 0.004 * max(age - 50, 0) + 0.25 * fluid,
        ctr=ctr,
        nodule=nodule < 0.40 and has_nodule < 0.75,
        effusion=fluid,
        pneumothorax=pneumothorax < 0.20 and has_pneumothorax < 0.60,
    )


def _facts(seed: int, person: Person) -> dict[str, object]:
    patient = f"phantom{seed}-{person.number:06d}"
    return {
        "age": person.age,
        "sex": "F" if person.female else "M",
        "view": "AP" if person.ap else "PA",
        "ctr": person.ctr,
        "cardiomegaly": int(person.ctr > 0.5),
        "nodule": int(person.nodule),
        "effusion": int(person.effusion),
        "pneumothorax": int(person.pneumothorax),
        "patient": patient,
        "study": f"{patient}-{person.visit + 1}",
    }
