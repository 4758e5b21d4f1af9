"""The model card and what it is made of: configurations, rows, and what networks say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.report_runs import CONFIG, SAID, auroc, finetuned, make_study, network, row, write

from scotoma.reporting.build import build
from scotoma.reporting.model_card import keep_edited
from scotoma.reporting.provenance import header, networks, pixels
from scotoma.reporting.reading import read


def test_the_card_says_what_the_run_knows_and_asks_for_the_rest(tmp_path: Path) -> None:
    folder = finetuned(tmp_path / "run")
    build([folder])
    card = (folder / "model_card.md").read_text()
    for words in (
        "# Model card: phantom:200",
        "resnet18 (SimCLR), input 64 x 64 x 1, which distinguishes 0, 1. resnet18 11.2 million parameters.",
        "| run/model.safetensors | resnet18 | simclr | 64 | 7 | abc123 |",
        "Test 60 images of 20 patients. Unreadable files left out: 2.",
        "Stored at 96 pixels a side, aspect kept by padding; resized to 64 pixels, grey; display windows [[40, 80]]; normalised by",
        "torch 2.15.0",
        "Training started from the encoder “pre”.",
        "Shares of the labels used: 50 %.",
        "Validation rows were checked by auroc; 3 checks without improvement ended the training.",
        "| effusion | SimCLR | Trained classifier | AUROC | 0.871 | 95 % interval 0.851 to 0.891 | 60 |",
        "called positive: effusion from 0.300",
        "sex: AUROC gap 0.200 (95 % interval 0.180 to 0.220), highest for F, lowest for M. Too small to judge: sex X.",
        "2 methods of explanation. Failed the randomisation test: saliency map.",
        "- TO FILL: who made the labels, how, and how far annotators agree",
        "- TO FILL: licence of the model",
        "this is no medical device",
    ):
        assert words in card, words


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "a classifier"),
        ({"target": ["mask_path"], "decoder": "unet"}, "a segmenter"),
        ({"target": ["age"], "regression": True}, "a model of numbers"),
    ],
)
def test_card_and_checklist_call_a_model_what_it_is(config: dict[str, object], words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", [row("finetune", "parameters", 1e6, split="train")], CONFIG | config)
    network(folder / "model.safetensors", SAID)
    build([folder])
    assert f"an encoder pretrained on unlabelled images, and {words} on it." in (folder / "model_card.md").read_text()
    target = (CONFIG | config)["target"]
    assert f"of {words} of {target[0]}." in (folder / "checklist.md").read_text()  # type: ignore[index]


def test_a_study_and_a_bare_run_have_a_card_too(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    build([study])
    card = (study / "model_card.md").read_text()
    assert "A classifier started from each encoder, pretrained by SimCLR, MAE." in card and "0.957" in card and "0.912" not in card
    assert "- By patient: none is in two sets." in card and "Not tested: show no maps as evidence." in card
    bare = write(tmp_path / "bare", [{"evaluator": "pretrain", "metric": "loss", "value": 1.0}], {"command": "pretrain"})
    build([bare])
    assert "Not tested: no result on test images" in (bare / "model_card.md").read_text()
    hostile = write(tmp_path / "hostile", auroc("<script>|", "linear", (0.6, 0.7, 0.8, 0.9)), {"data": "<b>\n# x"})
    build([hostile])
    text = (hostile / "model_card.md").read_text()
    assert "<script" not in text and "<b>" not in text and "\n# x" not in text


def test_what_a_person_wrote_is_kept(tmp_path: Path) -> None:
    folder = finetuned(tmp_path / "run")
    build([folder])
    card = folder / "model_card.md"
    before = card.read_text()
    build([folder])
    assert card.read_text() == before and not (folder / "model_card.new.md").exists()
    edited = before.replace("TO FILL: licence of the model", "CC BY 4.0")
    card.write_text(edited)
    build([folder])
    assert card.read_text() == edited and (folder / "model_card.new.md").read_text() == before
    assert keep_edited(tmp_path / "new.md", "# a\n").name == "new.md" and keep_edited(tmp_path / "new.md", "# b\n").name == "new.md"
    (tmp_path / "own.md").write_text("by hand, without a mark\n")
    assert keep_edited(tmp_path / "own.md", "# a\n").name == "own.new.md"


def test_networks_say_how_they_were_made(tmp_path: Path) -> None:
    folder = finetuned(tmp_path / "run")
    assert networks(read([folder])) == [("run/model.safetensors", SAID)]
    for name, content in (("absent", None), ("short", b"ab"), ("plain", b"\x02" + bytes(7) + b"{}"), ("huge", b"\xff" * 40)):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert header(tmp_path / name) == {}, name
    assert pixels({"image_size": 96, "in_chans": 3}) == "Resized to 96 pixels, 3 channels."


def test_names_bring_no_links_and_no_images_into_markdown(tmp_path: Path) -> None:
    hostile = "![x](http://tracker.example/p.png) [y](javascript:1) <img src=x> |"
    folder = write(tmp_path / "run", auroc(hostile, "linear", (0.6, 0.7, 0.8, 0.9)), {"data": hostile, "target": [hostile]})
    build([folder])
    for name in ("model_card.md", "checklist.md"):
        text = (folder / name).read_text()
        assert "](" not in text and "<img" not in text, name
