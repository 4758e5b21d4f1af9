"""Experiments of the published systems, done again on public data; every step a run folder of its own, so resumable.

python benchmarks/evidence.py robustness    five ways to pretrain a ViT on children's chest X-rays, then corrupted test images
python benchmarks/evidence.py proxies       age, sex and view as proxies, autoencoders, and what balances classes, on few X-rays
python benchmarks/evidence.py explanations  do explanations find what a classifier sees? made-up X-rays
python benchmarks/evidence.py segmentation  lungs and retinal vessels by share of the masks, pretrained against random weights
python benchmarks/evidence.py next          does one image follow another in its study? and age and sex, on made-up X-rays

Options: ``--runs runs/evidence``; ``--steps N`` and ``--finetune_steps N`` for other lengths. Lengths are steps, not minutes (those
of ``robustness`` from benchmarks/paces.py, five minutes each): other work may go on beside. Writes
benchmarks/results/evidence_NAME.jsonl, from which docs/results/index.md has its tables.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cells
import pandas as pd

from scotoma.commands.evaluate import evaluate
from scotoma.commands.finetune import finetune
from scotoma.commands.prepare import prepare
from scotoma.commands.pretrain import pretrain
from scotoma.commands.study import study
from scotoma.run_folder import read_config, read_rows, status

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("SCOTOMA_DATA", ROOT.parent / "shared" / "data"))
Row = dict[str, Any]


def done(folder: Path) -> dict[str, Any]:
    """What a verb is told of a folder that an earlier attempt may have left."""
    return {"out": folder, "quiet": True, "resume": status(folder) == "running"}


def pretrained(folder: Path, **given: Any) -> Path:
    """A pretraining, unless it is there."""
    return folder if status(folder) == "finished" else pretrain(**given, **done(folder))


def untrained(folder: Path, pretrainings: dict[str, Path], **given: Any) -> dict[str, Path]:
    """The networks of pretrainings before their first step, as a study's controls: names of the pretrainings -> where it lies.

    ``given`` are their data. Pretrainings of which it is the same network bit by bit share it.
    """
    from scotoma.data.datamodule import gather
    from scotoma.studies import controls

    data_module = gather(**given, quiet=True)
    found: dict[str, list[str]] = {}
    for name, run in pretrainings.items():
        network, info = controls.build_untrained(read_config(run) | {"seed": controls.FIRST_SEED}, data_module)
        alike = found.setdefault(controls.digest(network.state_dict()), [])
        alike.append(name)
        if len(alike) == 1:
            controls.write(folder / name.replace(", ", "-").replace(" ", "-"), name, network, info)
    return {", ".join(names): folder / names[0].replace(", ", "-").replace(" ", "-") for names in found.values()}


def tuned(folder: Path, **given: Any) -> Path:
    """A fine-tuning, unless it is there."""
    return folder if status(folder) == "finished" else finetune(**given, **done(folder))


def tested(run: Path, names: list[str], **given: Any) -> list[Row]:
    """The test rows of these evaluators, unless they are there."""
    rows = [row for row in read_rows(run) if row.get("split") == "test"]
    missing = [name for name in names if name not in {row["evaluator"] for row in rows}]
    if missing:
        evaluate(run, evaluators=missing, quiet=True, **given)
    return [row for row in read_rows(run) if row.get("split") == "test"]


def write(name: str, rows: Iterable[Row]) -> None:
    """Keep rows."""
    cells.write(f"evidence_{name}", rows)


def robustness(options: argparse.Namespace, runs: Path) -> None:
    """CheXMSN's comparison: one network, minutes of pretraining alike; linear probes, tested on corrupted images."""
    data, network = str(DATA / "cxr_pneumonia" / "table.csv"), "vit_tiny_patch16"
    found: list[Row] = []
    ways: dict[str, Path] = {}
    for name in ("msn", "mae", "simsiam", "dino", "supervised"):
        steps, target = options.steps or steps_of(options, f"cxr_pneumonia/{name}"), ["subtype"] if name == "supervised" else None
        ways[name] = pretrained(
            runs / name, method=name, steps=steps, data=data, encoder=network, size=96, modality="xray", target=target
        )
    random = untrained(runs / "random", ways, data=data, size=96, modality_name="xray", target=["subtype"])
    for _, encoder, of in arms(random, ways):
        model = tuned(encoder.with_name(f"{encoder.name}-probe"), data=data, target=["subtype"], encoder=encoder, frozen=True)
        rows = tested(model, ["metrics", "robustness"], data=data)
        rows = [row for row in rows if row["evaluator"] == "robustness" or whole(row, "auroc")]
        found += [row | of for row in rows]
        write("robustness", found)


def chest_xrays(runs: Path) -> str:
    """The table of covid_chestxray with another split, the same for all ways: its own has six identical images on two sides."""
    from scotoma.data.datamodule import gather

    folder, file = DATA / "covid_chestxray", runs / "covid_chestxray.csv"
    table = pd.read_csv(folder / "table.csv", dtype=str).drop(columns="split")
    for column in ("image_path", "mask_path"):
        table[column] = [str(folder / path) if isinstance(path, str) else None for path in table[column]]
    runs.mkdir(parents=True, exist_ok=True)
    table.to_csv(file, index=False)
    drawn = gather(data=str(file), size=96, target=["covid"], classes=["0", "1"], modality_name="xray", quiet=True)
    sides = dict(zip(drawn.dataset.table["image_path"], drawn.split.of, strict=True))
    table["split"] = table["image_path"].map(sides)
    table.to_csv(file, index=False)
    return str(file)


def proxies(options: argparse.Namespace, runs: Path) -> None:
    """S4's: what age, sex and view, a reconstruction, and classes made to count alike are worth on a few hundred X-rays."""
    data = chest_xrays(runs)
    given: dict[str, Any] = {"data": data, "encoder": "resnet18", "size": 96, "modality": "xray"}
    ways: dict[str, dict[str, Any]] = {
        "proxies age, sex, view": {"method": "proxy", "method_args": {"columns": ("age", "sex", "view")}},
        "autoencoder": {"method": "autoencoder"},
        "autoencoder with classifier": {"method": "autoencoder", "method_args": {"classifier_weight": 1.0}, "target": ["covid"]},
    }
    found: list[Row] = []
    trained = {
        way: pretrained(runs / way.replace(", ", "-").replace(" ", "-"), **given, steps=options.steps or 400, **how)
        for way, how in ways.items()
    }
    of_data = {"data": data, "size": 96, "modality_name": "xray", "target": ["covid"], "classes": ["0", "1"]}
    for way, encoder, of in arms(untrained(runs / "random", trained, **of_data), trained):
        for balance in ("none", "weights", "oversample", "undersample"):
            model = tuned(
                encoder.with_name(f"{encoder.name}-{balance}"), data=data, target=["covid"], encoder=encoder, balance=balance,
                steps=options.finetune_steps or 100, classes=["0", "1"],
            )  # fmt: skip
            rows = tested(model, ["metrics", "operating", "subgroups"], data=data)
            found += [{**row, "way": way, "balance": balance, **of} for row in rows if shown(row)]
            write("proxies", found)


def arms(random: dict[str, Path], trained: dict[str, Path]) -> Iterator[tuple[str, Path, Row]]:
    """What is compared: its name, its encoder, and of random weights the pretrainings whose network they were."""
    for of, encoder in random.items():
        yield f"random weights of {of}", encoder, {"control_of": of}
    for way, encoder in trained.items():
        yield way, encoder, {}


def shown(row: Row) -> bool:
    """Whether the table of ``proxies`` has this row."""
    if row["evaluator"] == "subgroups":
        return row["metric"] == "auroc" and row["column"] in ("view", "sex")
    wanted = {"metrics": ("auroc", "f1", "mcc"), "operating": ("sensitivity", "specificity")}
    return row["metric"] in wanted.get(row["evaluator"], ()) and (row["evaluator"] == "operating" or not row.get("class"))


def explanations(options: argparse.Namespace, runs: Path) -> None:
    """A classifier that sees the fluid in made-up X-rays: which explanations point at it, and do they hang on its weights?

    Trained on images of 128 px, then of 256: at 128 the fluid is a few pixels wide, and the last feature map 4 x 4 cells.
    Nodules, of which one in three images has one, stay unseen after 1,500 steps of the same network (AUROC 0.48).
    """
    data = "phantom:3000"
    encoder = pretrained(
        runs / "supervised", data=data, method="supervised", encoder="resnet18", size=128, target=["effusion"],
        steps=options.steps or 2000,
    )  # fmt: skip
    model = tuned(
        runs / "model-256", data=data, target=["effusion"], encoder=encoder, size=256, steps=options.finetune_steps or 400
    )  # fmt: skip
    rows = tested(model, ["metrics", "explain"], data=data)
    write("explanations", (r for r in rows if r["evaluator"] == "explain" or whole(r, "auroc")))


def segmentation(options: argparse.Namespace, runs: Path) -> None:
    """Lungs at 128 px, vessels at 512 px: Dice by share of the masks, pretrained on the same images against random weights."""
    common: dict[str, Any] = {"target": ["mask_path"], "encoder": "resnet18", "fractions": [0.1, 0.5, 1.0], "quiet": True}
    sets: dict[str, dict[str, Any]] = {
        "lungs": {
            "data": chest_xrays(runs), "methods": ["simclr"], "size": 128, "modality": "xray",
            "seeds": 3, "steps": options.steps or 400, "finetune_steps": options.finetune_steps or 150, "finetune_batch_size": 16,
            "finetune_learning_rate": 1e-3,
        },
        # parts of the image in pretraining, so that vessels are as wide in it as in fine-tuning, which sees the whole
        "vessels": {
            "data": runs / "vessels-store", "methods": ["simclr?min_scale=0.05"], "size": 128, "modality": "fundus",
            "seeds": 1, "steps": options.steps or 400, "finetune_steps": options.finetune_steps or 200, "finetune_batch_size": 4,
            "finetune_learning_rate": 1e-3, "finetune_size": 512,
        },
    }  # fmt: skip
    found: list[Row] = []
    for name, given in sets.items():
        if name == "vessels" and not (runs / "vessels-store" / "table.parquet").exists():
            prepare(str(DATA / "retina_vessels" / "table.csv"), runs / "vessels-store", size=512, quiet=True)
        folder = runs / name
        if status(folder) != "finished":
            study(**common, **given, out=folder, resume=status(folder) == "running")
        found += [{**row, "data": name} for row in read_rows(folder) if row["evaluator"] == "segmentation" and not row.get("class")]
        write("segmentation", found)
    store, encoder = str(runs / "vessels-store"), next((runs / "vessels" / "pretrain").glob("simclr*"))
    longer = tuned(
        runs / "vessels-longer", data=store, target=["mask_path"], encoder=encoder, size=512, steps=options.finetune_steps or 600,
        batch_size=4, learning_rate=1e-3,
    )  # fmt: skip
    found += [{**row, "fraction": 1.0, "data": "vessels, 600 steps"} for row in tested(longer, ["segmentation"], data=store)]
    write("segmentation", (row for row in found if row["evaluator"] == "segmentation" and not row.get("class")))


def following(options: argparse.Namespace, runs: Path) -> None:
    """Made-up X-rays: masked modelling, also told whether one visit's image follows another of the patient, and age and sex."""
    from scotoma.data.phantom import phantom

    table = phantom.table(3000)
    table["study"] = table["patient"]  # a patient's visits in turn
    vit, resnet = "vit_tiny_patch16", "resnet18"
    ways: list[tuple[str, str, dict[str, Any]]] = [
        (vit, "simmim", {"method": "simmim", "method_args": {"mask_unit": 16}}),
        (vit, "simmim with next", {"method": "simmim", "method_args": {"mask_unit": 16, "next_task": True}}),
        (vit, "proxies age, sex", {"method": "proxy", "method_args": {"columns": ("age", "sex")}}),
        (resnet, "proxies age, sex", {"method": "proxy", "method_args": {"columns": ("age", "sex")}}),
        (resnet, "proxies age, sex, view", {"method": "proxy", "method_args": {"columns": ("age", "sex", "view")}}),
    ]
    found: list[Row] = []
    given: dict[str, Any] = {"data": table, "size": 64}
    for network in (vit, resnet):
        trained: dict[str, Path] = {}
        for _, way, how in (one for one in ways if one[0] == network):
            folder = runs / f"{network}-{way}".replace(", ", "-").replace(" ", "-")
            trained[way] = pretrained(folder, **given, encoder=network, modality="grey", steps=options.steps or 600, **how)
        for way, encoder, of in arms(untrained(runs / f"{network}-random", trained, **given, modality_name="grey"), trained):
            out = encoder.with_name(f"{encoder.name}-probe")
            if status(out) != "finished":
                evaluate(
                    encoder, data=table, evaluators=["linear"], target=["cardiomegaly"], out=out, fractions=[0.1, 1.0], seeds=5,
                    quiet=True,
                )  # fmt: skip
            rows = [row for row in read_rows(out) if whole(row, "auroc") and row.get("seed") is None]
            found += [{**row, "way": way, **of} for row in rows]
            write("next", found)


def steps_of(options: argparse.Namespace, key: str) -> int:
    """The steps that were measured alone (benchmarks/paces.py)."""
    return int(json.loads(Path(options.paces).read_text())[key])


def whole(row: Row, metric: str) -> bool:
    """Whether a row is a metric over all classes."""
    return row["metric"] == metric and row.get("class") is None


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=sorted(EXPERIMENTS))
    parser.add_argument("--runs", default="runs/evidence")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--finetune_steps", type=int)
    parser.add_argument("--paces", default=RESULTS / "paces.json", type=Path)
    options = parser.parse_args()
    EXPERIMENTS[options.experiment](options, Path(options.runs) / options.experiment)


EXPERIMENTS = {
    "robustness": robustness,
    "proxies": proxies,
    "explanations": explanations,
    "segmentation": segmentation,
    "next": following,
}

if __name__ == "__main__":
    main()
