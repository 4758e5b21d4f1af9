from __future__ import annotations

import base64
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from helpers.report_runs import BASE, Page, auroc, loss_curve, make_study, study_rows, write
from helpers.report_runs import row as row_of

from scotoma import cli
from scotoma.errors import UsageError
from scotoma.reporting.build import build
from scotoma.reporting.naming import NO_FLAGS, name_of_method


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def html(study):
    return build([study]).read_text()


@pytest.fixture(scope="module")
def text(html):
    return Page(html).text


def page_of(*folders):
    return build(list(folders)).read_text()


def test_the_page_needs_nothing_from_outside(html):
    page = Page(html)
    assert len(page.addresses) > 10
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert not {"script", "iframe", "object", "embed", "video"} & set(page.tags)
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", html):
        drawing = base64.b64decode(svg).decode()
        assert "<script" not in drawing and not re.search(r"href=\"(?!#)", drawing)


def test_contents_lead_to_the_sections_in_order(html):
    page = Page(html)
    sections = ["configuration", "data", "results", "classes", "calibration", "features", "pretraining", "limits", "repeat"]
    assert [a[1:] for a in page.addresses if a.startswith("#")] == sections
    assert [i for i in page.ids if i != "summary"] == sections


def test_every_value_of_the_table_stands_on_the_page(text):
    for row in study_rows():
        if row["metric"] == "auroc" and "class" not in row and row["seed"] is None:
            assert f"{row['value']:.3f}" in text and (row["low"] is None or f"[{row['low']:.3f}, {row['high']:.3f}]" in text)
        if row["metric"] == "auroc_difference":
            assert f"{row['value']:+.3f}".replace("-", "\u2212") in text
    assert "0.111" not in text  # a single draw gives way to the mean over draws
    assert "p < 0.001, Holm = 0.012" in text
    assert "4,960" in text and "12 min 34 s" in text and "1.50 GiB" in text and "11.2 million" in text
    assert "3 files could not be read" in text
    assert "1,984 (40 %)" in text  # pituitary: 4 of 10 training images


def test_the_dagger_marks_the_highest_of_each_column(html):
    assert [float(v) for v in re.findall(r"<td>([\d.]+)<sup>†", html)] == [0.772, 0.926, 0.973, 0.988]


def test_the_summary_gives_verdicts_of_both_kinds_equal_weight(html, text):
    text = text.replace("\u00a0", " ").replace("\u2212", "-")
    assert len(re.findall(r'<li><span class="verdict">', html)) == 4
    for words in (
        "What follows holds for 1,370 test images, with 10 % of the labels (n = 496 labelled",
        "This one pretraining of SimCLR, linear classifier on the frozen encoder: better than random weights. Macro AUROC 0.912 "
        "(95 % interval 0.892 to 0.932) with pretraining, 0.821 without (difference +0.091, 95 % interval +0.076 to +0.106, "
        "Holm-corrected p = 0.012). Shares of labels tried: better at 4 of 4, no difference shown at 0",
        "MAE, linear classifier on the frozen encoder: worse than random weights; no better than pixels alone (0.852). Macro",
        "worse at 1. At other shares it is no better than pixels alone (at 1 %, 50 %, 100 %).",
        "This one pretraining of MAE, fine-tuned network: did not beat random weights; not shown to be better than pixels alone "
        "(0.852). Macro AUROC 0.889 (95 % interval 0.869 to 0.909) with pretraining, 0.878 without (difference +0.011, 95 % "
        "interval -0.004 to +0.026, Holm-corrected p = 1.000).",
        "Shares of labels tried: better at 1 of 4, no difference shown at 2, worse at 1.",
    ):
        assert words in text, words


def test_header_facts_above_chance_are_a_warning(tmp_path, text):
    assert "Possible confounding" in text
    rows = [*auroc("mae", "linear", (0.7, 0.8, 0.85, 0.9)), *auroc("control", "header", (0.5, 0.5, 0.51, 0.519))]
    assert "Possible confounding" not in page_of(write(tmp_path / "clean", rows))


def test_hostile_names_are_text(tmp_path):
    bad = '<script>alert("1")</script>'
    rows = [*auroc(bad, "linear", (0.6, 0.7, 0.8, 0.9), encoder=bad, target=bad)]
    for name in (bad, r"$\frac{", "a&b"):
        key = {**BASE, "evaluator": "linear", "method": bad, "encoder": bad, "fraction": 0.1, "target": bad, "class": name}
        rows += [{**key, "metric": "auroc", "value": 0.7}, {**key, "metric": "confusion", "predicted": name, "value": 4}]
        rows += [{**key, "metric": "roc", "fpr": x, "value": x} for x in (0.0, 0.5, 1.0)]
        rows += [{"evaluator": "data", "metric": "images", "split": name, "class": name, "value": 2}]
    folder = write(tmp_path / "hostile", rows, {"data": bad, "target": bad, bad: bad}, metrics=loss_curve(1))
    write(folder / "x", (), {"command": "pretrain", "method": bad}, [("f", bad)], loss_curve(1))
    html = page_of(folder)
    assert "<script" not in html
    assert bad in Page(html).text and r"$\frac{" in Page(html).text


def test_sections_without_rows_are_left_out(tmp_path):
    folder = write(
        tmp_path / "mae", [{"evaluator": "pretrain", "method": "mae", "metric": "loss", "value": 0.4}], {"command": "pretrain"}
    )
    page = Page(page_of(folder))
    assert [i for i in page.ids if i != "summary"] == ["configuration", "pretraining", "limits", "repeat"]
    assert "cannot show what the pretraining was worth" in page.text and "img" not in page.tags
    maps = write(tmp_path / "maps", (), {"command": "finetune"}, [("maps", "explanations"), ("other", "elsewhere")], loss_curve(1))
    page = Page(page_of(maps))
    assert [i for i in page.ids if i != "summary"] == [
        "configuration",
        "results",
        "explanations",
        "pretraining",
        "limits",
        "repeat",
    ]
    assert "Training" in page.text and "Pretraining loss" not in page.text
    only = Page(
        page_of(write(tmp_path / "knn", [{**BASE, "evaluator": "knn", "method": "mae", "metric": "auroc", "value": 0.8125}]))
    )
    assert [i for i in only.ids if i != "summary"] == ["configuration", "results", "limits", "repeat"]
    assert "0.812" in only.text and "No comparison with random weights is among" in only.text and "as trained" in only.text


def test_loss_curves_are_found_beside_the_configuration_and_under_logs(tmp_path):
    for place in (".", "logs", "logs/version_0"):
        folder = write(tmp_path / place.replace("/", "-").replace(".", "beside"), (), {"command": "pretrain", "method": "mae"})
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "metrics.csv").write_text(loss_curve(1))
        assert sum(a.startswith("data:image/svg") for a in Page(page_of(folder)).addresses) == 2  # the loss, and the features


def test_draws_without_a_mean_are_averaged_without_an_interval(tmp_path):
    key = {**BASE, "evaluator": "linear", "method": "mae", "metric": "auroc", "fraction": 0.1}
    rows = [{**key, "seed": s, "value": v, "low": 0.5, "high": 0.99} for s, v in enumerate((0.7, 0.8, 0.96))]
    text = Page(page_of(write(tmp_path / "draws", rows))).text
    assert "0.820" in text and "0.990" not in text
    one = Page(page_of(write(tmp_path / "one", rows[:1]))).text
    assert "[0.500, 0.990]" in one


def test_rows_of_other_splits_are_no_test_results(tmp_path):
    key = {**BASE, "evaluator": "linear", "method": "mae", "metric": "auroc", "fraction": 0.1}
    text = Page(page_of(write(tmp_path / "val", [{**key, "value": 0.8}, {**key, "split": "val", "value": 0.9}]))).text
    before, _, after = text.partition("On the validation images")
    assert "0.800" in before and "0.900" not in before
    assert "0.900" in after and "0.800" not in after and "they are no test results" in after


def test_every_label_of_a_multi_label_target_is_told(tmp_path):
    rows = []
    for k, target in enumerate(("edema", "effusion")):
        rows += [
            *auroc("mae", "linear", (0.6 + k / 10,) * 4, target=target),
            *auroc("random", "linear", (0.55,) * 4, target=target),
        ]
        rows += [
            {
                **BASE,
                "target": target,
                "evaluator": "linear",
                "method": "mae",
                "fraction": 1.0,
                "metric": "roc",
                "fpr": x,
                "value": x,
            }
            for x in (0.0, 1.0)
        ]
    page = Page(page_of(write(tmp_path / "multi", rows)))
    assert page.text.count("edema") == page.text.count("effusion") == 3  # in the summary, above the table, in its file name
    assert sum(a.startswith("data:image/svg") for a in page.addresses) == 2  # the curves, and the ROC curves
    assert "[0.580, 0.620]" in page.text and "[0.680, 0.720]" in page.text


def test_two_runs_are_told_apart(tmp_path):
    first = write(tmp_path / "short", [*auroc("mae", "linear", (0.61, 0.62, 0.63, 0.64)), *auroc("control", "pixels", (0.7,) * 4)])
    second = write(tmp_path / "long", [*auroc("mae", "linear", (0.71, 0.72, 0.73, 0.74)), *auroc("control", "pixels", (0.7,) * 4)])
    path = build([first, second], tmp_path / "both.html")
    text = Page(path.read_text()).text
    assert path == tmp_path / "both.html" and not (first / "report.html").exists()
    assert "MAE, short" in text and "MAE, long" in text and "0.620" in text and "0.720" in text
    assert "Pixels alone (32 px, PCA, logistic regression) 0.700" in text  # the same control twice is one control


def test_a_run_inside_a_named_run_is_read_once(study, tmp_path, text):
    both = Page(build([study, study / "pretrain" / "mae"], tmp_path / "both.html").read_text()).text
    assert text.count("Title of views_mae.") == both.count("Title of views_mae.") == 1


def test_the_commands_repeat_the_run(study, text):
    assert f"scotoma study --config {study}/config.yaml" in text
    assert (
        "scotoma study --data ../data/brain_tumor_mri/table.csv --encoder resnet18 --fractions 0.01,0.1,0.5,1.0 --image_size 128 "
        "--method.mask_ratio 0.6 --methods simclr,mae --seeds 3 --target label " in text + " "
    )
    assert "2.15.0" in text and "A synthetic processor" in text


METHODS = ["simclr", "mae?masking=block&mask_ratio=0.6"]
CONFIGURATIONS = [
    {"command": "study", "data": "phantom:200", "target": ["cardiomegaly"], "methods": METHODS, "fractions": [0.02, 1.0],
     "steps": dict.fromkeys(METHODS, 1), "minutes": None, "seeds": 3, "resolved": ["steps", "minutes", "epochs"]},
    {"command": "study", "data": "it's here.csv", "target": ["a, b", 'the "c"'], "methods": ["mae"], "pretrainings": 2, "seeds": 2,
     "label_lists": ["ten, twenty.txt", "thirty.txt"], "modes": ["linear"], "controls": ["random", "resnet18.a1_in1k"],
     "missing": ["n/a", "not, known", "-"], "separator": ",", "on": "007", "regression": False, "steps": 20},
    {"command": "finetune", "data": "scans", "target": ["diagnosis"], "classes": ["ill=viral, bacterial", "[none]", "?=a b"],
     "method_args": {"mixup": 0.5, "smoothing": 0.1}, "encoder": "null", "frozen": True, "learning_rate": 1e-05},
    {"command": "pretrain", "data": "scans", "method": "mae", "method_args": {"norm_pixels": False, "mask_ratio": 0.6},
     "encoder": "vit", "variant": "mae?mask_ratio=0.6", "epochs": 2, "scaled": {"batch_size": 64}},
    {"command": "evaluate", "run": "runs/a b", "data": "x.csv", "evaluators": ["linear", "metrics"], "target": ["mask_path"]},
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda c: f"{c['command']}_{len(c)}")
def test_the_command_that_is_spelled_out_is_accepted(config, tmp_path):
    """What a person pastes into a shell is parsed into the configuration that was printed."""
    html = page_of(write(tmp_path / "run", [{**BASE, "evaluator": "linear", "metric": "auroc", "value": 0.8}], config))
    text = re.sub("</?span[^>]*>", "", html)  # around flags, which no line breaks
    command = re.search(r"NEW_FOLDER\n\n(scotoma .*?)</pre>", text, re.DOTALL)[1]
    _, verb, *typed = shlex.split(unescape(command))
    values = cli._parse(verb, cli.function_of(verb), typed)
    records = {"command", "resolved", "variant", "scaled"}
    assert {k: values[k] for k in config.keys() - records} == {k: v for k, v in config.items() if k not in records}


def test_a_switch_of_a_verb_is_off_where_it_is_not_named():
    for verb in (v for v in cli.VERBS if v != "list"):
        for name, parameter in inspect.signature(cli.function_of(verb)).parameters.items():
            assert parameter.default is not True or name in NO_FLAGS, (verb, name)


def test_an_unfinished_run_says_so(tmp_path, text):
    folder = write(tmp_path / "half", auroc("mae", "linear", (0.61, 0.62, 0.63, 0.64)))
    (folder / "status.json").write_text('{"state": "running"}')
    assert "The run half is not finished" in Page(page_of(folder)).text and "not finished" not in text


def test_the_same_rows_give_the_same_page_and_nothing_else_is_left(study, html):
    path = build([study])
    assert path == study / "report.html" and path.read_text() == html and not list(study.glob("*.new"))


@pytest.mark.parametrize(
    ("make", "words"), [("absent", "no run folder"), ("bare", "no run folder"), ("empty", "no results"), ("bad", "damaged")]
)
def test_what_is_no_run_is_an_error(tmp_path, make, words):
    folder = tmp_path / make
    if make == "bare":
        folder.mkdir()
    elif make != "absent":
        write(folder)
    if make == "bad":
        (folder / "rows.jsonl").write_text("{not json}\n")
    with pytest.raises(UsageError, match=words):
        build([folder])
    assert not (folder / "report.html").exists()


def test_no_runs_is_an_error():
    with pytest.raises(UsageError, match="at least one"):
        build([])


def test_torch_is_never_imported(study):
    code = (
        "import sys, pathlib; from scotoma.reporting.build import build; build([pathlib.Path(sys.argv[1])]); "
        "print([m for m in ('torch', 'lightning', 'timm', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(study)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_method_with_arguments_is_called_by_words():
    assert name_of_method("mae?masking=block&mask_ratio=0.6") == "MAE (masking block, mask ratio 0.6)"
    assert name_of_method("simclr") == "SimCLR" and name_of_method("/weights/mine.safetensors") == "/weights/mine.safetensors"


@pytest.mark.parametrize("name", ["figures/x.png", "figures/x.json", "figures", "rows.jsonl", "metrics.csv", "config.yaml", "pipe"])
def test_what_is_a_link_out_of_the_run_is_refused(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", auroc("simclr", "linear", (0.6, 0.7, 0.8, 0.9)), {"command": "evaluate", "data": "x.csv"})
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "x.png").write_bytes(b"png")
    (folder / "figures" / "x.json").write_text("{}")
    (folder / "metrics.csv").write_text("step,loss\n1,2\n")
    build([folder])
    (folder / "report.html").unlink()
    if name == "pipe":
        (folder / "figures" / "x.png").unlink()
        os.mkfifo(folder / "figures" / "x.png")
    else:
        shutil.move(folder / name, tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is no file of this run folder but a link out of it"):
        build([folder])
    assert not (folder / "report.html").exists()


def test_a_run_folder_that_is_itself_a_link_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", auroc("simclr", "linear", (0.6, 0.7, 0.8, 0.9)), {"command": "evaluate", "data": "x.csv"})
    (tmp_path / "link").symlink_to(folder)
    assert build([tmp_path / "link"]).exists()


@pytest.mark.parametrize(("other", "warned"), [
    ("{'version': 1, 'steps': 10, 'head': 'zero'}", False), ("{'version': 1, 'steps': 20, 'head': 'zero'}", True),
    ("{'version': 2, 'steps': 10, 'head': 'probe'}", True),
])  # fmt: skip
def test_other_settings_are_warned_of_and_a_study_design_is_not(other: str, warned: bool, tmp_path: Path) -> None:
    """Fine-tuning of random weights starts at a zero head, of pretrained ones at a probe: in one study, by design."""
    rows = list(study_rows())
    for row in rows:
        if row["evaluator"] == "finetune":
            row["protocol"] = other if row.get("method") == "random" else "{'version': 1, 'steps': 10, 'head': 'probe'}"
    assert any(row.get("protocol") == other for row in rows)
    text = Page(build([write(tmp_path / "run", rows)]).read_text()).text
    assert ("Numbers that may not be compared" in text) == warned
    assert ("a zero head with random ones" in text) == ("zero" in other)


def test_every_pretraining_of_a_study_has_its_costs_and_its_curve(tmp_path: Path) -> None:
    """Of a method that was pretrained twice, and of one that was pretrained anew for each draw of labels."""

    def cost(method: str, loss: float, **where: object) -> dict[str, object]:
        common = {"evaluator": "pretrain", "method": method, "encoder": "resnet18", "split": "train"}
        return {**common, "metric": "loss", "value": loss, **where}

    of_draws = [(0.1, 0, 0.31), (0.1, 1, 0.32), (1.0, 0, 0.33), (1.0, 1, 0.34), (0.5, 1, 0.35)]
    rows = [cost("simclr", 4.5, pretraining=1), cost("simclr", 4.6, pretraining=2)]
    rows += [cost("supervised", loss, fraction=f, seed=s) for f, s, loss in of_draws]
    write(tmp_path / "run", rows, {"methods": ["simclr", "supervised"]})
    shown = [("views", "pretraining")]
    for name, own in (("simclr", rows[0]), ("simclr-p1", rows[1])):
        bare = {k: v for k, v in own.items() if k != "pretraining"}
        config = {"command": "pretrain", "method": "simclr", "variant": "simclr", "encoder": "resnet18"}
        write(tmp_path / "run" / "pretrain" / name, [bare], config, shown, "step,loss\n1,5\n2,4.5\n")
    found = Page(page_of(tmp_path / "run"))
    for words in (
        "SimCLR, pretraining 1 SimCLR, pretraining 2 Supervised, 10 % of labels, draw 1 Training loss at the end 4.5 4.6 0.31",
        "Supervised, 10 % of labels, draw 2 Supervised, 100 % of labels, draw 1",
        "Training loss at the end 0.32 0.33 0.34 0.35",
    ):
        assert words in found.text.replace("\u00a0", " "), (words, found.text)
    table = pd.read_csv(tmp_path / "run" / "tables" / "pretraining_costs.csv")
    assert table["value"].tolist() == [4.5, 4.6, 0.31, 0.32, 0.33, 0.34, 0.35]
    assert sum(a.startswith("data:image/png") for a in found.addresses) == 1, "the views of one method are shown once"


@pytest.mark.parametrize(("fractions", "drawn"), [([1.0], False), (None, False), ([0.1, 1.0], True)])
def test_an_evaluation_on_all_labels_states_no_label_draws(fractions: list[float] | None, drawn: bool, tmp_path: Path) -> None:
    config = {"command": "evaluate", "seeds": 3, "fractions": fractions}
    found = Page(page_of(write(tmp_path / "run", [row_of("metrics", "auroc", 0.8)], config)))
    assert ("Label draws 3" in found.text) == drawn


@pytest.mark.parametrize("processes", [1, 2])
def test_one_process_is_no_line_of_the_costs(processes: int, tmp_path: Path) -> None:
    rows = [{"evaluator": "pretrain", "method": "simclr", "metric": m, "value": v, "split": "train"}
            for m, v in (("loss", 4.5), ("processes", processes))]  # fmt: skip
    found = Page(page_of(write(tmp_path / "run", rows, {"command": "pretrain", "method": "simclr"})))
    assert ("Processes that trained together 2" in found.text) == (processes == 2) and "together 1" not in found.text
