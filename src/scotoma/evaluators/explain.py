"""Explanations of a classifier, scored: are they faithful, do they find the lesion, do they depend on the weights, do they agree.

Of a classifier its own head is explained; of an encoder a linear probe on all training labels. Explained is what it predicts for
an image: its most probable class, or the most probable of several 0/1 targets. Scores stand beside those of a random map.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scotoma.data.io import alignment
from scotoma.data.io.read import ImageError, square_labels
from scotoma.data.store.builder import list_frames
from scotoma.errors import UsageError, notice
from scotoma.evaluators import linear
from scotoma.evaluators.base import Context, Row, class_name, decisions_of, probabilities_of
from scotoma.explain import dicom_secondary_capture
from scotoma.explain import faithfulness as faith
from scotoma.explain.attributions.base import Attribution, Classifier, centre, find_attributions
from scotoma.metrics.intervals import of_images
from scotoma.models.encoders import build, width
from scotoma.models.precision import full_precision
from scotoma.rng import KeyedRNG
from scotoma.run_folder import Run
from scotoma.transforms.augmentation import normalise_, resize
from scotoma.visualization import overlays

PROTOCOL = 4
TRAINS = False  # of a classifier nothing is trained; an encoder's training rows are checked where its probe is fitted
CASES = 64  # images that are explained, at most
BATCH = 16  # images that a method explains together
SHOWN = 4  # images of each group that `figures` draws
FOLDER = "explanations"  # of the overlays, among the run's figures
GROUPS = {
    "right_confident": "right and sure",
    "right_unsure": "right but unsure",
    "wrong_confident": "wrong and sure",
    "wrong_unsure": "wrong and unsure",
}
SEED = 0
FRESH_WEIGHTS = 181003292  # seed of the randomised copy: of no run, whose random encoder would be that copy
RANDOM_MAP = "random map"


@dataclass(frozen=True)
class ExplainedImages:
    """Images and what the classifier predicts for them.

    Args:
        rows: (n,) row ids.
        units: (n,) over which intervals are.
        images: (n, C, S, S) float32, normalised, on the classifier's device.
        target: (n,) int64, the column that is explained, there too.
        probability: (n,) of the target.
        is_positive: (n,) bool, whether the classifier decides for it: always, but for 0/1 targets below their threshold.
        truth: (n,) of the target: 1, 0 or NaN.
        masks: (n, S, S) bool, there too; empty where there is none, or where the finding is not both present and seen.
        is_masked: whether the table has masks at all.
    """

    rows: np.ndarray
    units: np.ndarray
    images: Tensor
    target: Tensor
    probability: np.ndarray
    is_positive: np.ndarray
    truth: np.ndarray
    masks: Tensor
    is_masked: bool


def evaluate(context: Context) -> list[Row]:
    """Rows of every explanation that the network takes.

    ``deletion`` (lower is better), ``insertion``; where the table has masks, for positives that were seen, ``pointing_game`` and
    ``mask_iou``, ``pointing_game_exact`` without its tolerance, and ``pointing_game_random_weights`` of the same method on a
    network with new weights; ``sanity_correlation`` of the two networks' maps and ``sanity_passed``, the share of images in which
    the map depends on the weights: ``n`` of both leaves out images of which either network's map is constant (Grad-CAM where
    nothing speaks for the class), as it ranks no pixel; ``agreement`` with each ``other`` method, over images of which both maps
    rank pixels.

    Raises:
        UsageError: identity is to be kept, but a prepared store does not state whose images these are.
    """
    if context.keep_identity and "image_path" not in context.dataset.table.columns:
        raise UsageError("--keep_identity reads the DICOM files: name the images themselves, not a prepared store")
    classifier = _classifier(context)
    cases = gather(context, classifier, choose_rows(context))
    methods = find_attributions(classifier, cases.images[:1])
    maps, fresh = (explain(c, cases, methods) for c in (classifier, _fresh(context, classifier)))
    rng = KeyedRNG(SEED, 0, torch.from_numpy(cases.rows).to(cases.images.device))
    shape = cases.masks.shape[1:]
    noise = rng.uniform("ties", *shape)
    found: list[Row] = []
    for name, of_name in {**maps, RANDOM_MAP: rng.uniform("random map", *shape)}.items():
        found += _scores(context, classifier, cases, name, faith.order(of_name, noise))
    for name, of_name in fresh.items():
        found += _localisation(cases, name, faith.order(of_name, noise), {"pointing_game_random_weights": faith.pointing_game})
    # absolute values, so that maps with and without a sign can be compared: where, not for or against
    ranked, ranked_fresh = ({k: faith.ranks(m.abs().cpu().numpy()) for k, m in of.items()} for of in (maps, fresh))
    for name in methods:
        alike = faith.rank_correlation(ranked[name], ranked_fresh[name])
        passed = np.where(np.isnan(alike), np.nan, faith.depends_on_weights(alike))
        found.append(_row("sanity_correlation", name, alike, cases.units))
        found += [_row("sanity_passed", name, passed, cases.units)] if found[-1]["n"] else []
    for (name, other), values in faith.agreement(ranked).items():
        found.append({**_row("agreement", name, values, cases.units), "other": other})
    return found


def choose_rows(context: Context, count: int = CASES) -> np.ndarray:
    """Positions of test rows to explain, in ascending order.

    At most ``count``, of each class (of several 0/1 targets: any positive, none) equally many as far as they go: rare findings are
    what explanations are looked at for. They are drawn by row id: the same ones whatever the table's order.
    """
    test, y = context.test, context.target.y[context.test]
    kind = np.nansum(y, 1) > 0 if context.target.multilabel else y
    key = KeyedRNG(SEED, 0, torch.from_numpy(_row_ids(context, test))).uniform("cases").numpy()
    turn = np.zeros(len(test), np.int64)
    for k in np.unique(kind):
        of_kind = np.flatnonzero(kind == k)
        turn[of_kind[np.argsort(key[of_kind])]] = np.arange(len(of_kind))
    return np.sort(test[np.lexsort((key, turn))[:count]])


@torch.no_grad()
def gather(context: Context, classifier: Classifier, positions: np.ndarray) -> ExplainedImages:
    """The images at these positions of the table, and what the classifier predicts for them."""
    info, y, rows = context.info, context.target.y[positions], _row_ids(context, positions)
    device = next(classifier.head.parameters()).device
    images = resize(torch.from_numpy(context.store.batch(rows)).to(device), info.image_size)
    images = normalise_(images, info.mean, info.std)
    p = np.concatenate([_probabilities(context, classifier, part) for part in images.split(BATCH)])
    column, values = p.argmax(1), p.max(1)
    target = torch.from_numpy(column).to(device)
    if context.target.multilabel:
        each = np.arange(len(y))
        truth, is_positive = y[each, column].astype(float), decisions_of(context, p)[each, column]
    else:
        truth, is_positive = (y == column).astype(float), np.ones(len(y), bool)
    # of two classes the second is the finding; of more, whichever has a mask
    positive = (truth == 1) & is_positive & ((column == 1) | context.target.multilabel | (len(context.target.classes) > 2))
    masks = torch.from_numpy(_masks(context, positions, positive)).to(device)
    is_masked = "mask_path" in context.dataset.table.columns
    return ExplainedImages(rows, context.split.units[positions], images, target, values, is_positive, truth, masks, is_masked)


def explain(classifier: Classifier, cases: ExplainedImages, methods: dict[str, Attribution]) -> dict[str, Tensor]:
    """(n, S, S) maps of each method."""
    parts = list(zip(cases.images.split(BATCH), cases.target.split(BATCH), strict=True))
    return {name: torch.cat([method(classifier, x, k) for x, k in parts]) for name, method in methods.items()}


def figures(context: Context, run: Run) -> None:
    """Draw maps over images: a sheet for each group of ``GROUPS``, and among the figures a folder of overlays, one per file.

    Overlays of images that came as DICOM are written as DICOM too (Secondary Capture).
    """
    folder = run.path / "figures" / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    for stale in (run.path / "figures").glob(f"{FOLDER}-*"):
        stale.unlink()
    cases = choose_shown(context, choose_rows(context))
    overlays.save(cases, folder)
    _captures(context, cases, folder)
    for group, words in GROUPS.items():
        of_group = [case for case in cases if case.group == group]
        if of_group:
            mean = "" if context.info.in_chans in (1, 3) else "Beneath the maps lies the mean of the image's channels, in grey. "
            caption = (
                f"Test images of which the classifier was {words}, in a row each: the image, then what of it each method "
                "finds to speak for the class beneath (with its probability, and the true class where that is another). Orange "
                "speaks for it and purple against, where a method can tell; else yellow is more. A map that does not change with "
                f"the network's weights explains nothing: see the scores. {mean}Not for diagnostic use."
            )
            run.figure(f"{FOLDER}-{group}", overlays.sheet(of_group), f"Explanations: {words}", caption, "explanations")


def choose_shown(context: Context, positions: np.ndarray) -> list[overlays.Case]:
    """Of these test rows those that the classifier got right or wrong the surest and the least sure, up to ``SHOWN`` each."""
    classifier = _classifier(context)
    every = gather(context, classifier, positions)
    groups = _groups(every)
    names = [name for name, members in groups.items() for _ in members]
    if not names:
        return []
    chosen = positions[np.array([i for members in groups.values() for i in members])]
    cases = gather(context, classifier, chosen)
    mean, std = (cases.images.new_tensor(v).view(1, -1, 1, 1) for v in (context.info.mean, context.info.std))
    images = _ground(cases.images * std + mean)
    maps = {k: m.cpu().numpy() for k, m in explain(classifier, cases, find_attributions(classifier, cases.images[:1])).items()}
    labels = [class_name(context.target, k) for k in cases.target.tolist()]
    truths = [
        _truth(context, i, k) if name.startswith("wrong") else ""
        for i, k, name in zip(chosen, cases.target.tolist(), names, strict=True)
    ]
    return [
        overlays.Case(
            row, names[i], labels[i], float(cases.probability[i]), images[i], {k: m[i] for k, m in maps.items()}, truths[i]
        )
        for i, row in enumerate(cases.rows.tolist())
    ]


def _ground(images: Tensor) -> np.ndarray:
    """What maps lie over, in [0, 1]: (n, H, W, 3) of images of three channels, else the channels' mean (n, H, W)."""
    shown = images.clamp(0, 1).permute(0, 2, 3, 1) if images.shape[1] == 3 else images.mean(1).clamp(0, 1)
    return np.asarray(shown.cpu().numpy())


def _truth(context: Context, position: int, column: int) -> str:
    """The true class of an image, or of one of several 0/1 targets whether it is present."""
    target = context.target
    if target.multilabel:
        return "present" if target.y[position, column] == 1 else "absent"
    return class_name(target, int(target.y[position]))


def _captures(context: Context, cases: list[overlays.Case], folder: Path) -> None:
    """Secondary Captures of the cases that came as DICOM; where the patient is not known, the image's hash is the pseudonym."""
    table = context.dataset.table.set_index("row", drop=False)
    facts = context.store.facts
    for case in cases:
        if facts["format"].iloc[case.row] != "DICOM":
            continue
        of_row = table.loc[[case.row]]
        patient = of_row["patient"].iloc[0] if "patient" in of_row.columns else None
        patient = patient if isinstance(patient, str) else facts["content"].iloc[case.row]
        source, frame = list_frames(of_row)[0] if context.keep_identity else (None, None)
        pixels = {name: overlays.blend(case.image, values) for name, values in case.maps.items()}
        dicom_secondary_capture.write(folder, case.row, pixels, case.title, patient, source, frame)


def _classifier(context: Context) -> Classifier:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = context.once("explained head", lambda: linear.head(context))
    return _join_head(context, context.encoder, head).to(device).eval()


def _join_head(context: Context, encoder: nn.Module, head: nn.Linear) -> Classifier:
    return Classifier(encoder, head if context.target.multilabel else centre(head))


def _fresh(context: Context, classifier: Classifier) -> Classifier:
    """The same architecture with new random weights, of encoder and head."""
    device = next(classifier.head.parameters()).device
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(FRESH_WEIGHTS)
        encoder = build(context.info)
        found = _join_head(context, encoder, nn.Linear(width(encoder), classifier.head.out_features))
    return found.to(device).eval()


def _row_ids(context: Context, positions: np.ndarray) -> np.ndarray:
    return context.dataset.table["row"].to_numpy(np.int64)[positions]


def _probabilities(context: Context, classifier: nn.Module, images: Tensor) -> np.ndarray:
    """(B, K)."""
    with torch.no_grad(), full_precision():
        return probabilities_of(context, classifier(images))


def _masks(context: Context, positions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(n, S, S) bool: masks laid out as the images are; empty where none is wanted, given or readable."""
    side, table = context.info.image_size, context.dataset.table.iloc[positions]
    found = np.zeros((len(positions), side, side), bool)
    if "mask_path" not in table.columns:
        return found
    given = wanted & table["mask_path"].notna().to_numpy()
    of = table.loc[given, "image_path"] if "image_path" in table.columns else [None] * int(given.sum())
    masks = list_frames(table.assign(image_path=table["mask_path"])[given])
    reasons = []
    for i, (path, frame), image in zip(np.flatnonzero(given), masks, of, strict=True):
        try:
            found[i] = square_labels(alignment.read(path, frame, image)[0], side)[:, :, 0] > 0
        except ImageError as error:
            reasons.append(alignment.remove_names(str(error), path, image))
    if reasons:
        notice(context.dataset.name, f"{len(reasons)} masks cannot be used and are left out (first: {reasons[0]})")
    return found


Score = Callable[[Tensor, Tensor], Tensor]


def _scores(context: Context, classifier: Classifier, cases: ExplainedImages, name: str, pixels: Tensor) -> list[Row]:
    """Faithfulness of an order of pixels (n, S S), and where there are masks whether it finds them."""

    def probability(images: Tensor) -> Tensor:
        p = torch.from_numpy(_probabilities(context, classifier, images)).to(cases.target.device)
        return p.gather(1, cases.target[:, None])[:, 0]

    x = cases.images
    pairs = {"deletion": (x, torch.zeros_like(x)), "insertion": (faith.blur(x), x)}
    areas = {metric: faith.area(faith.curve(probability, *pair, pixels)) for metric, pair in pairs.items()}
    found = [_row(metric, name, values.cpu().numpy(), cases.units) for metric, values in areas.items()]
    exact = partial(faith.pointing_game, tolerance=0)
    located: dict[str, Score] = {"pointing_game": faith.pointing_game, "pointing_game_exact": exact, "mask_iou": faith.mask_iou}
    return found + _localisation(cases, name, pixels, located)


def _localisation(cases: ExplainedImages, name: str, pixels: Tensor, scores: dict[str, Score]) -> list[Row]:
    present = cases.masks.flatten(1).any(1)
    if not bool(present.any()):  # of a table with masks it is said that none could be used
        nothing = np.full(len(cases.units), np.nan)
        return [{**_row(k, name, nothing, cases.units), "few": True} for k in scores if cases.is_masked]
    units = cases.units[present.cpu().numpy()]
    return [_row(k, name, f(pixels[present], cases.masks[present]).cpu().numpy(), units) for k, f in scores.items()]


def _row(metric: str, name: str, values: np.ndarray, units: np.ndarray) -> Row:
    """The mean over images with its interval over patients; images without a value are left out."""
    is_share = metric.startswith("pointing_game") or metric == "sanity_passed"
    return {"metric": metric, "explanation": name} | of_images("frequency" if is_share else "mean", values, units)


def _groups(cases: ExplainedImages) -> dict[str, list[int]]:
    """Numbers of the cases to show; where a half has fewer than twice as many as are shown, none is in two groups."""
    right = np.where(np.isnan(cases.truth), np.nan, cases.is_positive == (cases.truth == 1))
    confidence = np.where(cases.is_positive, cases.probability, 1 - cases.probability)
    found: dict[str, list[int]] = {}
    for name, value in (("right", 1), ("wrong", 0)):
        members = np.flatnonzero(right == value)
        members = members[np.argsort(-confidence[members], kind="stable")].tolist()
        half = (len(members) + 1) // 2
        found |= {f"{name}_confident": members[:half][:SHOWN], f"{name}_unsure": members[half:][::-1][:SHOWN]}
    return found


def is_headline(row: Row) -> bool:
    """Whether a row stands in the short table: is a method faithful, and does it depend on the weights?"""
    return row["metric"] in ("deletion", "sanity_passed")
