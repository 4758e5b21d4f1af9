"""Run folders written by hand, for tests of the page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from scotoma.reporting.build import build

FRACTIONS = (0.01, 0.1, 0.5, 1.0)
LABELS = {0.01: 50, 0.1: 496, 0.5: 2480, 1.0: 4960}
CLASSES = ("glioma", "meningioma", "notumor", "pituitary")
BASE = {"target": "label", "split": "test", "n": 1370, "protocol": 1}


class Page(HTMLParser):
    """Text, ids, and every address that a browser would follow or fetch."""

    def __init__(self, html):
        super().__init__()
        self.words, self.addresses, self.ids, self.tags = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_data(self, data):
        self.words.append(data)


def write(folder, rows=(), config=None, figures=(), metrics=None):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"command": "study", **(config or {})}))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "status.json").write_text('{"state": "finished"}')
    for name, section in figures:
        (folder / "figures").mkdir(exist_ok=True)
        Image.fromarray((np.indices((120, 400)).sum(0) % 251).astype("uint8")).save(folder / "figures" / f"{name}.png")
        words = {"title": f"Title of {name}", "caption": f"Caption of {name}.", "section": section}
        (folder / "figures" / f"{name}.json").write_text(json.dumps(words))
    if metrics:
        (folder / "metrics.csv").write_text(metrics)
    return folder


def auroc(method, evaluator, values, **more):
    """Means over three draws, an interval of 0.02 on either side, and one single draw that the page must not show."""
    for fraction, value in zip(FRACTIONS, values, strict=True):
        row = {
            **BASE,
            "evaluator": evaluator,
            "metric": "auroc",
            "method": method,
            "fraction": fraction,
            "labels": LABELS[fraction],
        }
        yield {**row, "value": value, "low": value - 0.02, "high": min(1, value + 0.02), "seed": None, "draws": 3, **more}
        yield {**row, "value": 0.111, "seed": 0, **more}


def difference(method, evaluator, values, half=0.015):
    for fraction, value in zip(FRACTIONS, values, strict=True):
        row = {
            **BASE,
            "evaluator": evaluator,
            "metric": "auroc_difference",
            "method": method,
            "reference": "random",
            "encoder": "resnet18",
        }
        yield {
            **row,
            "fraction": fraction,
            "value": value,
            "low": value - half,
            "high": value + half,
            "p_value": 0.0004 if abs(value) > half else 0.31,
            "p_holm": 0.012 if abs(value) > half else 1.0,
        }


def study_rows():
    net = {"encoder": "resnet18"}
    for split, n in (("train", 4960), ("val", 689), ("test", 1370)):
        yield {"evaluator": "data", "metric": "images", "split": split, "value": n}
        yield {"evaluator": "data", "metric": "patients", "split": split, "value": n // 4}
        for k, name in enumerate(CLASSES):
            yield {"evaluator": "data", "metric": "images", "split": split, "class": name, "value": n * (k + 1) // 10}
    yield {"evaluator": "data", "metric": "unreadable", "value": 3}
    yield from auroc("simclr", "linear", (0.761, 0.912, 0.945, 0.957), **net)
    yield from auroc("mae", "linear", (0.702, 0.803, 0.871, 0.902), **net)
    yield from auroc("random", "linear", (0.691, 0.821, 0.862, 0.883), **net)
    yield from auroc("simclr", "finetune", (0.772, 0.926, 0.973, 0.988), **net)
    yield from auroc("mae", "finetune", (0.741, 0.889, 0.961, 0.984), **net)
    yield from auroc("random", "finetune", (0.701, 0.878, 0.959, 0.983), **net)
    yield from auroc("control", "pixels", (0.733, 0.852, 0.916, 0.934))
    yield from auroc("control", "header", (0.512, 0.543, 0.557, 0.561))
    yield from auroc("control", "majority", (0.5, 0.5, 0.5, 0.5), low=None, high=None)
    yield from difference("simclr", "linear", (0.070, 0.091, 0.083, 0.074))
    yield from difference("mae", "linear", (0.011, -0.018, 0.009, 0.019))
    yield from difference("simclr", "finetune", (0.071, 0.048, 0.014, 0.005))
    yield from difference("mae", "finetune", (0.040, 0.011, 0.002, 0.001))
    rng = np.random.default_rng(0)
    everyone = [(e, m, s) for e in ("linear", "finetune") for m, s in (("simclr", 5), ("mae", 3.2), ("random", 2.5))]
    for evaluator, method, strength in [*everyone, ("pixels", "control", 3)]:
        for fraction in (0.1, 1.0):
            key = {**BASE, "evaluator": evaluator, "method": method, "fraction": fraction, "draws": 3, "seed": None}
            key |= {"encoder": "resnet18"} if evaluator != "pixels" else {}
            for k, name in enumerate(CLASSES):
                shift = strength + 0.4 * k + 2 * fraction
                yield {
                    **key,
                    "metric": "auroc",
                    "class": name,
                    "value": 0.8 + k / 100,
                    "low": 0.78 + k / 100,
                    "high": 0.83 + k / 100,
                }
                for x in np.round(np.linspace(0, 1, 51), 2):
                    yield {**key, "metric": "roc", "class": name, "fpr": float(x), "value": float(x ** (1 / shift))}
                spread = rng.dirichlet(np.ones(4) + 5 * strength * np.eye(4)[k]) * 137 * (k + 1)
                for other, count in zip(CLASSES, spread, strict=True):
                    yield {**key, "metric": "confusion", "class": name, "predicted": other, "value": float(count)}
            for metric, value in (
                ("balanced_accuracy", 0.71),
                ("average_precision", 0.74),
                ("f1", 0.70),
                ("brier", 0.31),
                ("ece", 0.062),
            ):
                yield {**key, "metric": metric, "value": value, "low": value * 0.95, "high": value * 1.05}
    for method, seconds in (("simclr", 754.2), ("mae", 611.0)):
        costs = {
            "images_seen": 148800,
            "images_per_second": 197.3,
            "seconds": seconds,
            "peak_memory_bytes": 1.5 * 2**30,
            "steps": 2325,
        }
        for metric, value in (
            costs | {"loss": 0.412, "feature_spread": 0.93, "effective_rank": 41.2, "parameters": 11170240}
        ).items():
            yield {"evaluator": "pretrain", "method": method, "metric": metric, "value": value}


def loss_curve(high):
    lines = ["step,loss,lr,images_per_second,feature_spread,effective_rank"]
    rng = np.random.default_rng(1)
    for step in range(10, 2330, 10):
        watched = f"{1 - np.exp(-step / 300):.3f},{60 * (1 - np.exp(-step / 500)):.2f}" if step % 120 == 0 else ","
        lines.append(f"{step},{high * (0.3 + np.exp(-step / 500)) + rng.normal(0, 0.05):.4f},0.001,197.1,{watched}")
    return "\n".join(lines) + "\n"


def make_study(parent):
    config = {
        "data": "../data/brain_tumor_mri/table.csv", "target": "label", "methods": ["simclr", "mae"], "fractions": list(FRACTIONS),
        "seeds": 3, "encoder": "resnet18", "image_size": 128, "method_args": {"mask_ratio": 0.6}, "out": "runs/brain",
        "minutes": None, "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "hardware": {"processor": "A synthetic processor", "cores": 2},
    }  # fmt: skip
    folder = write(parent / "brain", study_rows(), config, [("tsne", "features"), ("classes", "data")])
    for method, high in (("simclr", 6), ("mae", 1)):
        inner = {"command": "pretrain", "method": method, "encoder": "resnet18"}
        write(folder / "pretrain" / method, (), inner, [(f"views_{method}", "pretraining")], loss_curve(high))
    return folder


COMMON = {**BASE, "method": "simclr", "encoder": "resnet18"}


def row(evaluator: str, metric: str, value: float | None, half: float = 0.02, **more: object) -> dict[str, object]:
    ends = {} if value is None else {"low": value - half, "high": value + half}
    return {**COMMON, "evaluator": evaluator, "metric": metric, "value": value, **ends, **more}


def page(tmp_path: Path, rows: list[dict[str, object]]) -> Page:
    folder = write(tmp_path / "run", rows, {"command": "evaluate", "run": "x"})
    return Page(build([folder]).read_text())


def operating(name: str = "1", **more: object) -> list[dict[str, object]]:
    """A finding whose threshold is 0.3, of sensitivity 0.8 and specificity 0.9."""
    common = {"class": name, **more}
    rows = [
        row("operating", m, v, threshold=0.3, **common)
        for m, v in (("sensitivity", 0.8), ("specificity", 0.9), ("ppv", 0.611), ("npv", 0.922), ("f1", 0.7))
    ]
    for share in (0.01, 0.1):
        rows.append(
            row("operating", "ppv", 0.8 * share / (0.8 * share + 0.1 * (1 - share)), threshold=0.3, prevalence=share, **common)
        )
    for confidence, value, count in ((0.1, 0.05, 80), (0.9, 0.7, 20)):
        rows.append(row("operating", "reliability", value, confidence=confidence, count=count, **common))
    rows += [row("operating", f"calibration_{m}", v, **common) for m, v in (("slope", 0.612), ("in_the_large", -0.234))]
    for metric, before, after, half in (("brier", 0.2, 0.15, 0.01), ("log_loss", 0.5, 0.49, 0.05)):
        rows += [row("operating", metric, v, recalibrated=again, **common) for again, v in ((False, before), (True, after))]
        rows.append(row("operating", f"{metric}_change", after - before, half=half, **common))
    for t in (0.1, 0.5, 0.9):
        rows += [row("operating", m, 0.1 - t / 20, threshold=t, **common) for m in ("net_benefit", "net_benefit_all")]
    return rows


SAID = {
    "timm_name": "resnet18", "in_chans": 1, "image_size": 64, "mean": [0.5], "std": [0.25], "seed": 7, "data": "abc123",
    "pixels": {"side": 96, "display": {"windows": [[40, 80]], "equalize": "none"}}, "method": {"name": "simclr"},
    "targets": ["effusion"], "classes": ["0", "1"],
}  # fmt: skip
CONFIG = {
    "command": "finetune", "data": "phantom:200", "target": ["effusion"], "encoder": "runs/pre", "balance": "weights",
    "patience": 3, "monitor": "auroc", "label_fraction": 0.5, "annotators": "majority", "versions": {"torch": "2.15.0"},
}  # fmt: skip


def network(path: Path, said: object) -> None:
    """A safetensors file without a tensor, whose header states this."""
    text = json.dumps({"__metadata__": {"scotoma": json.dumps(said)}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def finetuned(folder: Path) -> Path:
    rows = [{"evaluator": "data", "metric": m, "split": "test", "value": v} for m, v in (("images", 60), ("patients", 20))]
    rows.append({"evaluator": "data", "metric": "unreadable", "value": 2})
    rows.append(row("finetune", "parameters", 11170240.0, split="train"))
    rows += [row("metrics", "auroc", 0.871, target="effusion", n=60), *({**r, "target": "effusion"} for r in operating())]
    rows.append(row("subgroups", "auroc", 0.6, column="sex", subgroup="X", patients=4, small=True))
    rows.append(row("subgroups", "auroc_gap", 0.2, column="sex", highest="F", lowest="M"))
    rows += [row("explain", "sanity_passed", v, explanation=e) for e, v in (("grad_cam", 1.0), ("saliency_map", 0.0))]
    write(folder, rows, CONFIG)
    network(folder / "model.safetensors", SAID)
    return folder
