"""A classifier on corrupted images: hidden patches, noise, blur, exposure, geometry, compression; the drop and its interval.

Of a classifier its own head is tested; of an encoder a linear probe on all training labels, which has seen clean images only. Of
vision transformers patches are hidden in two ways: painted over (``patches``), and dropped from the sequence (``dropped_tokens``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scotoma.data.encoder_header import EncoderInfo
from scotoma.evaluators import linear
from scotoma.evaluators.base import Context, Row, probabilities_of
from scotoma.metrics.bootstrap import number_groups
from scotoma.metrics.classification import check_cases, divide, score
from scotoma.metrics.intervals import estimate, leave_out
from scotoma.metrics.summaries import HEADLINE
from scotoma.metrics.support import support_of
from scotoma.models.encoders import forward_visible, is_vit
from scotoma.models.precision import full_precision
from scotoma.rng import KeyedRNG
from scotoma.transforms.augmentation import normalise_, resize
from scotoma.transforms.corruptions.base import SEVERITIES, find_corruptions, hide_patches, order_of_patches

PROTOCOL = 2
TRAINS = False  # of a classifier nothing is trained; an encoder's training rows are checked where its probe is fitted
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SEED = 0
PATCH = 16  # side of a hidden patch, pixels, where the network has none of its own
Condition = tuple[str, float]  # name, severity or share; ("clean", 0)
CLEAN: Condition = ("clean", 0)


@torch.no_grad()
@full_precision()
def evaluate(context: Context) -> list[Row]:
    """The metric under each corruption and severity, its relative drop, and the mean drop of each corruption and of all."""
    y, groups = context.target.y[context.test], context.split.units[context.test]
    weights, codes = leave_out(groups, len(y)), number_groups(groups)[1]
    p = _probabilities(context)
    found = {c: np.asarray(score(HEADLINE, y, of_condition, weights)) for c, of_condition in p.items()}
    cases = check_cases(y, p[CLEAN])
    support = support_of(HEADLINE, cases, codes, cases.columns(HEADLINE), float(found[CLEAN][0]))
    rows: list[Row] = []
    drops: dict[str, list[np.ndarray]] = {}
    for (name, severity), values in found.items():
        key = {"corruption": name, "severity": severity, "n": len(y)}
        drop = 1 - divide(values, found[CLEAN])
        rows.append({"metric": HEADLINE, **key, **estimate(values, HEADLINE, support)})
        if name != CLEAN[0]:
            rows.append({"metric": f"{HEADLINE}_relative_drop", **key, **estimate(drop, "difference", support)})
            drops.setdefault(name, []).append(drop)
    means = {name: np.mean(of_name, 0) for name, of_name in drops.items()}
    means["all"] = np.mean([mean for name, mean in means.items() if name not in ("patches", "dropped_tokens")], 0)
    return rows + [
        {"metric": f"mean_{HEADLINE}_relative_drop", "corruption": k, "n": len(y), **estimate(v, "difference", support)}
        for k, v in means.items()
    ]


def _probabilities(context: Context, batch_size: int = 256) -> dict[Condition, np.ndarray]:
    """(n, C) probabilities of the test rows under each condition."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = context.encoder.to(device).to(memory_format=torch.channels_last).eval()
    head = linear.head(context).to(device)
    numbers = context.dataset.table["row"].to_numpy()[context.test]
    found: dict[Condition, list[Tensor]] = {}
    clean = linear.probabilities(context)[context.test]  # as every other evaluator has them, to the last digit
    for start in range(0, len(numbers), batch_size):
        rows = numbers[start : start + batch_size]
        x = resize(torch.from_numpy(context.store.batch(rows)).to(device), context.info.image_size)
        rng = KeyedRNG(SEED, 0, torch.from_numpy(rows).to(device))
        for condition, images, keep in _conditions(x, context.info, rng, patch=_patch(encoder), drop=is_vit(encoder)):
            found.setdefault(condition, []).append(head(_features(encoder, context.info, images, keep)))
    return {CLEAN: clean} | {c: probabilities_of(context, torch.cat(logits)) for c, logits in found.items()}


def _patch(encoder: nn.Module) -> int:
    vit: Any = encoder
    return int(vit.patch_embed.patch_size[0]) if is_vit(encoder) else PATCH


def _features(encoder: nn.Module, info: EncoderInfo, images: Tensor, keep: Tensor | None) -> Tensor:
    """(B, D) features of (B, C, H, W) images in [0, 1]; of a vision transformer of the patches ``keep`` alone."""
    x = normalise_(images.clone(), info.mean, info.std).contiguous(memory_format=torch.channels_last)
    vit: Any = encoder
    found: Tensor = encoder(x) if keep is None else vit.forward_head(forward_visible(vit, x, keep))
    return found


def _conditions(
    x: Tensor, info: EncoderInfo, rng: KeyedRNG, patch: int, drop: bool
) -> Iterator[tuple[Condition, Tensor, Tensor | None]]:
    """Each condition but the clean one with its images, and the patches that are kept where some are dropped."""
    for name, corrupt in find_corruptions(info.modality).items():
        for severity in SEVERITIES:
            yield (name, severity), corrupt(x, severity, rng.of(name)), None
    cells = max(1, x.shape[2] // patch)
    order = order_of_patches(cells**2, rng)
    fill = torch.tensor(info.mean, device=x.device)
    for share in SHARES if cells > 1 else ():
        count = min(max(1, round(share * cells**2)), cells**2 - 1)  # of few patches one at least, and never all
        yield ("patches", share), hide_patches(x, order[:, :count], cells, fill), None
        if drop:
            yield ("dropped_tokens", share), x, order[:, count:].sort(1).values


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: clean images, and the mean drop over all corruptions."""
    return row["corruption"] in (CLEAN[0], "all")
