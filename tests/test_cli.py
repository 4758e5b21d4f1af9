"""The command line: what is typed becomes the function's arguments; what is wrong becomes one line."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest

from scotoma import cli, plugins
from scotoma.cli import main
from scotoma.errors import RunError, UsageError
from scotoma.result import RunResult


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What a verb's function would be called with."""

    def parse(*arguments: str) -> dict[str, Any]:
        verb, *rest = arguments
        return cli._parse(verb, cli.function_of(verb), rest)

    return parse


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must fail: its exit code and the one line it says."""
    assert main(list(arguments)) == code
    said = capsys.readouterr()
    assert said.out == ""
    *notices, line = said.err.splitlines()
    assert line.startswith("scotoma: ") and not line.endswith(" ..."), said.err
    assert all(re.match(r"\w+: (label|left out)|scotoma: (importing|reading|preparing)[\w ]+\.\.\.$", text) for text in notices), (
        said.err
    )
    return line


def test_help_names_every_verb_and_exits_well(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("--help", "-h", "help"):
        assert main([argument]) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {verb} " in text for verb in cli.VERBS)
    assert main([]) == 2
    capsys.readouterr()
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "0.1.0\n"


def test_help_of_a_verb_shows_flags_as_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--method", "mae", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--method METHOD" in text
    assert "scotoma list methods" in text
    assert "--method.mask_ratio" in text
    assert "configuration file" not in text
    assert "--overwrite {" not in text
    assert "--target+" not in text
    assert re.search(r"--learning_rate X\s+peak learning rate; by default the method's \(above 0\)", text)
    assert main(["evaluate", "-h"]) == 0
    text = capsys.readouterr().out
    assert "--with NAMES" in text
    assert "--evaluators" not in text
    for verb in cli.VERBS.keys() - {"list"}:
        assert main([verb, "--help"]) == 0
        assert ("--where" if verb in ("find", "purge") else "--out") in capsys.readouterr().out


@pytest.mark.parametrize("kind", [*plugins.LISTED, "encoders"])
def test_lists_have_a_line_for_each(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    text = capsys.readouterr().out
    for name in plugins.names(kind) if kind != "encoders" else ():
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 2, f"{name} has no docstring"


def test_flags_positionals_lists_and_switches(called: Callable[..., dict[str, Any]]) -> None:
    values = called("prepare", "scans", "--out=store", "--size", "64", "--strict")
    assert (values["data"], values["out"], values["size"], values["strict"], values["quiet"]) == ("scans", "store", 64, True, False)
    assert called("prepare", "--strict", "false", "phantom:5", "--out", "s")["strict"] is False
    values = called(
        "evaluate", "runs/a", "--data", "d.csv", "--with", "knn,linear", "--fractions", ".01, 1", "--target", "a,b", "--seeds", "2"
    )
    assert (values["run"], values["evaluators"], values["fractions"]) == ("runs/a", ["knn", "linear"], [0.01, 1.0])
    assert (values["target"], values["seeds"]) == (["a", "b"], 2)
    assert called("prepare", "007", "--out", "12")["data"] == "007"
    assert called("prepare", "--data", "a: b", "--out", "12", "--on", "3")["on"] == "3"
    assert called("study", "--data", "d", "--classes", "0,1", "--target", "y", "--methods", "mae")["classes"] == ["0", "1"]
    assert called("study", "--data", "d", "--target", "1", "--methods", "mae,simclr")["target"] == ["1"]
    assert called("report", "runs/a", "runs/b")["runs"] == [Path("runs/a"), Path("runs/b")]
    values = called("evaluate", "d.csv", "--run", "runs/a")  # what has no flag takes the places that are left
    assert (values["run"], values["data"]) == ("runs/a", "d.csv")


def test_a_comma_in_quotes_is_no_end(called: Callable[..., dict[str, Any]]) -> None:
    assert called("audit", "d", "--missing", '"not done, or lost", 6" film')["missing"] == ["not done, or lost", '6" film']


def test_the_arguments_of_the_chosen_method(called: Callable[..., dict[str, Any]]) -> None:
    values = called("pretrain", "--data", "d", "--method=mae", "--method.mask_ratio", "0.6", "--minutes", "3")
    assert values["method"] == "mae"
    assert values["method_args"]["mask_ratio"] == 0.6
    assert (values["minutes"], values["steps"]) == (3.0, None)
    assert called("pretrain", "--data", "d")["method"] == "simclr"


def test_a_config_repeats_and_flags_override_it(tmp_path: Path, called: Callable[..., dict[str, Any]]) -> None:
    (tmp_path / "config.yaml").write_text(
        "command: pretrain\ndata: scans\nmethod: mae\nmethod_args: {mask_ratio: 0.4}\nsteps: 7\nminutes: null\n"
        "target: [a, b]\nstrict: true\n"
        "resolved: [steps]\nvariant: mae?mask_ratio=0.4\nversions: {numpy: '1'}\nhardware: {cores: 2}\n"
    )
    values = called("pretrain", "--config", str(tmp_path), "--seed", "3", "--steps", "9")
    expected = {"data": "scans", "method": "mae", "steps": 9, "minutes": None, "seed": 3, "target": ["a", "b"], "strict": True}
    assert {k: values[k] for k in expected} == expected
    assert values["method_args"]["mask_ratio"] == 0.4
    assert called("pretrain", "--config", str(tmp_path), "--method.mask_ratio", "0.5")["method_args"]["mask_ratio"] == 0.5


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("pretrian --data d", "unknown verb 'pretrian'; did you mean 'pretrain'?"),
        ("zzz", "one of demo, audit, prepare"),
        ("list method", "scotoma list attributions|corruptions|datasets|encoders|evaluators|methods"),
        ("pretrain --data phantom:20 --method simcl", "unknown method 'simcl'; did you mean 'simclr'?"),
        ("pretrain --data phantom:20 --sise 32", "unknown flag --sise; did you mean --size?"),
        ("pretrain --data phantom:20 --method mae --method.mask_ration 0.5", "did you mean --method.mask_ratio?"),
        ("pretrain --data phantom:20 --size big", "--size big: must be a whole number; see scotoma pretrain --help"),
        ("pretrain --data phantom:20 --batch_size many", "--batch_size many: must be a whole number or auto;"),
        ("pretrain --data phantom:20 --minutes ten", "--minutes ten: must be a number;"),
        ("pretrain --data phantom:20 --quiet=maybe", "--quiet maybe: must be true or false;"),
        ("pretrain --data phantom:20 --method.jitter a", "--method.jitter a: must be a number;"),
        ("study --data phantom:20 --fractions 0.1,x", "--fractions [0.1, 'x']: must be numbers with commas between;"),
        ("study --data phantom:20 --steps x", "--steps x: must be a whole number or {NAME: VALUE, ...};"),
        ("pretrain --data phantom:20 --size", "--size needs a value"),
        ("pretrain --data phantom:20 --batch_size=", "--batch_size '': must be a whole number or auto;"),
        ("pretrain phantom:20 more", "'more': a value without a flag"),
        ("pretrain --data phantom:20 more", "'more': a value without a flag"),
        ("report --runs a b", "'b': a value without a flag"),
        ("audit --data phantom:20 --target a --target b", "--target is there twice: name all after one, with commas between"),
        ("pretrain phantom:20 --readers soft", "--readers is called --annotators now"),
        ("pretrain", "name DATA"),
        ("pretrain --data phantom:20 --steps 3 --minutes 1", "one of --minutes, --epochs and --steps"),
        ("pretrain --data phantom:20 --steps 0", "--steps 0"),
        ("pretrain --data phantom:20 --steps 2 --modality xay", "xray"),
        ("pretrain --data phantom:20 --method supervised --steps 2", "--target"),
        ("pretrain --data {tmp}/absent --steps 2", "no such file or folder"),
        ("pretrain --data {tmp}/empty --steps 2", "no images"),
        ("pretrain --data phantom:x --steps 2", "phantom:N"),
        ("pretrain --data {tmp}/bad.csv --steps 2", "needs the column image_path"),
        ("pretrain --data phantom:20 --labels {tmp}/absent.csv --on a --steps 2", "no such file"),
        ("pretrain --data phantom:20 --on a --steps 2", "--labels"),
        ("pretrain --config {tmp}/typo.yaml", "unknown key 'sede' in the configuration; did you mean 'seed'?"),
        ("pretrain --config {tmp}/study.yaml", "the configuration of `scotoma study`"),
        ("pretrain --config {tmp}/absent.yaml", "no configuration there"),
        ("prepare --data phantom:5", "out"),
        ("finetune --data phantom:20 --target cardiomegaly --encoder {tmp}/absent", "absent"),
        ("finetune --data phantom:20 --target cardiomegaly --encoder x --label_fraction 0", "--label_fraction 0"),
        ("finetune --data phantom:20 --target cardiomegaly --encoder x --label_fraction 1.5", "--label_fraction 1.5"),
        ("evaluate {tmp}/absent --data phantom:20 --with knm", "unknown evaluator 'knm'; did you mean 'knn'?"),
        ("evaluate {tmp}/absent --data phantom:20 --fractions 0,1", "--fractions"),
        ("study --data phantom:20 --target cardiomegaly --methods simclr --fractions 2", "--fractions"),
        ("study --data phantom:20 --target cardiomegaly --methods simclr,simclr", "each method once"),
        ("study --data phantom:20 --target cardiomegaly --methods simclr --modes liner", "must be linear or finetune, with commas"),
        ("study --data phantom:20 --target cardiomegali --methods simclr", "did you mean 'cardiomegaly'?"),
        ("study --data {tmp}/one.csv --target dx --methods simclr", "one class (a)"),
        ("study --data {tmp}/gap.csv --target dx --methods simclr --size 16 --quiet", "class 'b' has no row in split test"),
        ("study --data {tmp}/leak.csv --target dx --methods simclr --size 16 --quiet", "1 patient stands on more than one side"),
        ("report {tmp}/absent", "absent"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_leaves_nothing(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"where": ["a"]}).to_csv("bad.csv", index=False)
    frame = pd.DataFrame(
        {"image_path": "phantom:0", "frame": range(6), "dx": ["a", "b"] * 3, "split": ["train"] * 4 + ["test"] * 2}
    )
    frame.assign(dx="a").to_csv("one.csv", index=False)
    frame.assign(dx=["a", "b", "a", "b", "a", "a"]).to_csv("gap.csv", index=False)
    frame.assign(patient=[1, 2, 3, 4, 5, 1]).to_csv("leak.csv", index=False)
    (tmp_path / "typo.yaml").write_text("data: phantom:20\nsede: 1\n")
    (tmp_path / "study.yaml").write_text("command: study\ndata: phantom:20\n")
    monkeypatch.setattr("scotoma.data.datamodule.threading", SimpleNamespace(Thread=Mock))  # the imports that run beside decoding
    before = sorted(p.name for p in tmp_path.iterdir())
    assert said in refused(capsys, *command.format(tmp=tmp_path).split())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_failed_run_exits_with_1_and_one_line(grey_folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    root = grey_folder(2)
    (root / "left" / "scan_0.png").write_bytes(b"")
    command = ("prepare", str(root), "--out", str(tmp_path / "store"), "--size", "16", "--quiet")
    assert "1 of 4 images" in refused(capsys, *command, "--strict", code=1)
    assert not (tmp_path / "store").exists()
    assert main(list(command)) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'store'}\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("two\nlines"), 2, "scotoma: two lines"),
        (RunError("full"), 1, "scotoma: full"),
        (OSError(28, "No space left on device", "/x"), 1, "scotoma: [Errno 28] No space left on device: '/x'"),
        (KeyboardInterrupt(), 130, "scotoma: stopped"),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert main(["demo"]) == code
    assert capsys.readouterr().err == said + "\n"


@pytest.mark.parametrize("told", ["flag", "equals", "config", "default"])
def test_a_stopped_training_says_how_it_goes_on_where_it_can(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where a finished run was put back, or nothing is left, it says nothing of it."""

    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", stop)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / ("runs/finetune" if told == "default" else "tuned")
    (tmp_path / "c.yaml").write_text(f"command: finetune\nout: {out}\n")
    flags = {"flag": ["--out", str(out)], "equals": [f"--out={out}"], "config": ["--config", "c.yaml"], "default": []}[told]
    for state, said in ((None, ""), ("running", "; use --resume to continue"), ("replacing", ""), ("finished", "")):
        if state:
            out.mkdir(parents=True, exist_ok=True)
            (out / "config.yaml").write_text("command: finetune")
            (out / "status.json").write_text(f'{{"state": "{state}"}}')
        assert main(["finetune", *flags]) == 130
        assert capsys.readouterr().err == f"scotoma: stopped{said}\n"


def test_an_unforeseen_error_is_a_line_that_quotes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise ValueError("could not convert MUELLER^HANS")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(ValueError, match="MUELLER"):  # as in all tests
        main(["demo"])
    monkeypatch.delenv("SCOTOMA_TRACEBACK")
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("scotoma: a fault of Scotoma itself, ValueError in ")
    assert "MUELLER" not in said
    assert len(said.splitlines()) == 1


def test_what_comes_out_ends_with_its_path_and_is_that_alone_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    cli._print_result(RunResult("runs/a").ending("validation: auroc 0.8"), quiet=False)
    assert capsys.readouterr().out == "validation: auroc 0.8\nruns/a\n"
    for result, quiet in ((RunResult("runs/a").ending("validation: auroc 0.8"), True), (RunResult("runs/a"), False)):
        cli._print_result(result, quiet)
        assert capsys.readouterr().out == "runs/a\n"


def test_plugins_are_found_by_name() -> None:
    assert {"mae", "simclr", "supervised"} <= set(plugins.names("methods"))
    assert "base" not in plugins.names("methods")
    assert plugins.method("mae").__module__ == "scotoma.methods.mae"
    with pytest.raises(UsageError, match="unknown evaluator 'lineer'; did you mean 'linear'"):
        plugins.module("evaluators", "lineer")


def test_a_preset_gives_the_arguments_of_the_method_that_are_not_typed() -> None:
    """The parser's defaults are not given by anyone: a preset's arguments came to nothing on the command line."""
    from scotoma.cli import _parse

    function = importlib.import_module("scotoma.commands.pretrain").pretrain
    for typed, expected in (
        ([], {}),
        (["--method.mask_ratio", "0.5"], {"mask_ratio": 0.5}),
        (["--method.norm_pixels=false"], {"norm_pixels": False}),
    ):
        values = _parse("pretrain", function, ["--data", "x", "--method", "mae", "--preset", "reference", *typed])
        assert values["method_args"] == expected


@pytest.mark.parametrize("text", ["null", "~", "007", "1E5", "1_000", "yes", "None", "", "[a", "a: b"])
def test_what_is_typed_for_a_text_stays_text(called: Callable[..., dict[str, Any]], text: str) -> None:
    """``scotoma purge null`` asked for a patient, and ``--out null`` was no folder."""
    assert called("purge", text)["patient"] == text
    assert called("find", text)["patient"] == text
    for flag in ("labels", "on", "out", "data"):
        given = {"data": "d", "out": "o", flag: text}
        assert str(called("prepare", *(f"--{k}={v}" for k, v in given.items()))[flag]) == text
    assert called("finetune", "--data", "d", "--target", "t", "--encoder", "e", "--out", text)["out"] == text
    if text and "[" not in text:
        assert called("prepare", "d", "--out", "o", "--columns", text)["columns"] == [text]
        assert called("audit", "d", "--target", f"{text},null")["target"] == [text, "null"]
        assert called("audit", "d", "--target", f"[{text},~]")["target"] == [text, "~"]
        assert called("find", "x", "--where", text)["where"] == [text]


def test_list_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert main(["list", flag]) == 0
        assert capsys.readouterr().out.startswith(
            "usage: scotoma list attributions|corruptions|datasets|encoders|evaluators|methods [--markdown]\n"
        )


def test_each_part_of_a_run_is_announced_as_it_begins_unless_it_is_to_be_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pretrain", "phantom:20", "--steps", "2", "--size", "32", "--encoder", "resnet10t"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    parts = [line for line in capsys.readouterr().err.splitlines() if line.endswith(" ...")]
    stages = ("importing torch", "reading the table", "preparing the store", "building the network", "training, 2 steps")
    assert parts == [f"scotoma: {stage} ..." for stage in stages]
    assert main([*command, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_misspelt_flag_is_refused_before_anything_is_imported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "phantom:20", "--sise", "32"]) == 2
    assert capsys.readouterr().err == "scotoma: unknown flag --sise; did you mean --size?\n"


def test_what_is_missing_is_named_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "finetune") == "scotoma: name DATA and --target; see scotoma finetune --help"
    assert refused(capsys, "evaluate", "runs/a") == "scotoma: name DATA; see scotoma evaluate --help"


def test_a_switch_has_its_flag_even_where_another_verb_takes_such_an_argument_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert "a value without a flag" in refused(capsys, "purge", "patient", "more")
    assert main(["purge", "--help"]) == 0
    text = capsys.readouterr().out
    assert "\n  --runs  " in text and text.startswith("usage: scotoma purge [PATIENT] [options]")
