"""Arguments are checked by their types, from Python as from the command line."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pandas as pd
import pytest

import scotoma
from scotoma import cli
from scotoma.arguments import RANGES, DataArgs, check_arguments, configuration
from scotoma.errors import UsageError, notice


@check_arguments
def verb(
    data: Any,
    target: list[str],
    fractions: list[float] | None = None,
    steps: int | dict[str, int] | None = None,
    rate: float = 0.1,
    size: int | Literal["auto"] = 96,
    rule: str = "youden",
    out: str | Path = "runs",
    evaluators: list[str] | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """A verb."""
    return dict(locals())


def test_a_single_value_is_a_list_of_one_and_no_list_of_letters() -> None:
    assert verb("d", "label")["target"] == ["label"]
    assert verb("d", "label", 0.1)["fractions"] == [0.1]
    for several in (("a", "b"), ["a", "b"], pd.Index(["a", "b"]), np.array(["a", "b"]), pd.Series(["a", "b"])):
        assert verb("d", several)["target"] == ["a", "b"]
    assert [type(n) for n in verb("d", "x", np.array([0.5, 1]))["fractions"]] == [float, float]


def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    found = verb("d", "x", steps=np.int64(7), rate=np.float32(0.5), size=64.0, rule=0.95, quiet=np.True_)
    assert (found["steps"], found["rate"], found["size"], found["rule"], found["quiet"]) == (7, 0.5, 64, "0.95", True)
    assert type(found["steps"]) is int
    assert type(found["quiet"]) is bool
    assert verb("d", "x", steps={"mae": 3})["steps"] == {"mae": 3}
    nil = np.array  # of no dimension
    found = verb("d", nil("x"), nil(0.5), steps=nil(7), size=np.str_("auto"), rule=np.float32(0.1), quiet=nil(True))
    assert found == verb("d", ["x"], [0.5], steps=7, size="auto", rule="0.1", quiet=True)
    assert type(found["size"]) is str
    assert verb("d", "x", size="auto")["size"] == "auto"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("target", pd.DataFrame({"a": [1]}), "target=a DataFrame: must be names with commas between"),
        ("target", None, "target=None: must be names with commas between"),
        ("fractions", "many", "fractions='many': must be numbers with commas between"),
        ("rate", "high", "rate='high': must be a number"),
        ("rate", True, "rate=True: must be a number"),
        ("size", 1.5, "size=1.5: must be a whole number or auto"),
        ("size", "large", "size='large': must be a whole number or auto"),
        ("quiet", "yes", "quiet='yes': must be true or false"),
        ("quiet", np.array([True, False]), "quiet=a ndarray: must be true or false"),
        ("rate", 10**400, f"rate={10**400}: must be a number"),
        ("evaluators", {"a": 1}, "evaluators=a dict: must be names with commas between"),
        ("out", 5j, "out=5j: must be text or a path"),
    ],
)
def test_another_type_is_one_line(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        verb(**({"data": "d", "target": "x"} | {name: value}))
    assert str(caught.value) == message


def test_every_public_function_checks_its_arguments(tmp_path: Path) -> None:
    required = {"target": "label", "methods": "simclr", "encoder": "e", "run": "r", "data": "d", "patient": "p"}
    with pytest.raises(UsageError, match=r"must be .*path"):
        scotoma.report(["a"], out=5j)
    for name in (n for n in scotoma.__all__ if n not in ("__version__", "report")):
        function = getattr(scotoma, name)
        given = {k: v for k, v in (required | {"out": tmp_path / "new"}).items() if k in function.__annotations__}
        with pytest.raises(UsageError, match="must be true or false"):
            function(**given, quiet="perhaps")
    assert not (tmp_path / "new").exists()


def test_a_name_stands_for_a_list_of_it_in_earnest(tmp_path: Path, clinic_table: Path) -> None:
    with pytest.raises(UsageError, match="has no column 'lable'; did you mean 'label'"):
        scotoma.split(clinic_table, tmp_path / "split.csv", target="lable")
    with pytest.raises(UsageError, match="simclrr"):
        scotoma.study(clinic_table, target="label", methods="simclrr", out=tmp_path / "study")


def test_a_number_is_finite() -> None:
    @check_arguments
    def verb(rate: float = 1.0, shares: list[float] | None = None) -> float:
        return rate

    assert verb(rate=2) == 2
    for given in ({"rate": float("nan")}, {"rate": float("inf")}, {"shares": [0.5, float("nan")]}):
        with pytest.raises(UsageError, match=r"^(rate|shares)=.*: must be (a number|numbers)"):
            verb(**given)


@check_arguments
def trains(source: DataArgs, target: list[str], out: str | Path = "runs", quiet: bool = False) -> dict[str, Any]:
    """Train.

    Args:
        source: see `DataArgs`.
        target: what to predict.
        out: the run folder.
        quiet: no progress bars.
    """
    return {"configuration": configuration(locals()), "source": source}


def test_the_arguments_about_data_are_flat_and_documented() -> None:
    found = trains("scans.csv", "label", labels=Path("l.csv"), classes="a", seed=3)
    assert found["source"] == DataArgs(data="scans.csv", labels="l.csv", classes=["a"], seed=3)
    expected = {"data": "scans.csv", "labels": "l.csv", "on": None, "annotators": None, "missing": None, "separator": None}
    assert found["configuration"] == expected | {
        "classes": ["a"], "seed": 3, "strict": False, "allow_leakage": False, "target": ["label"]
    }  # fmt: skip
    assert trains(pd.DataFrame({"a": [1, 2]}), "x")["configuration"]["data"] == "a DataFrame of 2 rows"
    parameters = inspect.signature(trains).parameters
    assert list(parameters)[:4] == ["data", "target", "out", "quiet"]
    assert parameters["seed"].default == 0
    assert parameters["data"].default is inspect.Parameter.empty
    documented = [line.split(":")[0].strip() for line in str(trains.__doc__).split("Args:")[1].splitlines() if ":" in line]
    assert set(parameters) <= set(documented)
    with pytest.raises(UsageError, match="annotators='mean': must be majority or soft"):
        trains("d", "x", annotators="mean")


def test_an_old_name_of_an_argument_is_taken_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert trains("d", "x", readers="soft")["source"].annotators == "soft"
    assert (
        capsys.readouterr().err
        == "scotoma: the argument readers is called annotators now; the old name goes with the next version\n"
    )


def test_choices_are_those_of_the_modules_that_use_them() -> None:
    from scotoma.data.io import base, read
    from scotoma.data.labels.annotators import WAYS
    from scotoma.data.modalities import MODALITIES
    from scotoma.training.schedule import BALANCES, SCHEDULES

    def choices(function: Any, name: str) -> tuple[str, ...]:
        hint = inspect.signature(function).parameters[name].annotation
        either = [hint, *get_args(hint)]
        return tuple(v for one in either if get_origin(one) is Literal for v in get_args(one))

    assert choices(scotoma.finetune, "schedule") == SCHEDULES
    assert choices(scotoma.finetune, "balance") == BALANCES
    assert choices(scotoma.finetune, "annotators") == tuple(WAYS)
    assert choices(scotoma.study, "modality") == ("auto", *MODALITIES)
    assert choices(scotoma.prepare, "axis") == tuple(read.AXES)
    assert choices(scotoma.prepare, "equalize") == tuple(base.EQUALIZE)


def test_messages_name_arguments_in_python_and_flags_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"^`label_fraction` 2\.0: must be above 0 and at most 1$"):
        scotoma.finetune("phantom:20", "cardiomegaly", "nowhere", label_fraction=2.0)
    command = ["finetune", "phantom:20", "--target", "cardiomegaly", "--encoder", "nowhere", "--label_fraction", "2", "--quiet"]
    assert cli.main(command) == 2
    assert capsys.readouterr().err == "scotoma: --label_fraction 2.0: must be above 0 and at most 1\n"
    with pytest.raises(UsageError, match=r"^`label_fraction`"):  # the command leaves nothing behind
        scotoma.finetune("phantom:20", "cardiomegaly", "nowhere", label_fraction=2.0)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("fractions", [0.1, 0.0], "--fractions 0.0: must be above 0 and at most 1"), ("fractions", 1.5, "--fractions 1.5"),
    ("steps", 0, "--steps 0: must be above 0"), ("steps", {"mae": 5, "dino": -1}, "--steps -1: must be above 0"),
    ("size", 15, "--size 15: must be at least 16"), ("size", "auto", None), ("fractions", [0.01, 1], None), ("steps", None, None),
])  # fmt: skip
def test_ranges_are_checked_once_for_every_verb(name: str, value: Any, message: str | None) -> None:
    if message is None:
        assert verb("x", "y", **{name: value})
    else:
        with pytest.raises(UsageError, match=message.replace(f"--{name}", f"`{name}`")):
            verb("x", "y", **{name: value})


def test_every_range_is_of_an_argument_and_every_number_has_one() -> None:
    free = {"seed", "offset", "weights"}  # any number
    numbers = {
        name
        for found in (scotoma_verb.__annotations__ for scotoma_verb in map(cli.function_of, cli.VERBS.keys() - {"list"}))
        for name, hint in found.items()
        if {int, float} & {hint, *get_args(hint)} or any({int, float} & set(get_args(one)) for one in get_args(hint))
    }
    assert {name.rpartition(".")[2] for name in RANGES} <= numbers
    assert numbers - set(RANGES) <= free | {"channels", "shares"}  # choices, and three that sum to one


def test_an_unknown_argument_is_named_with_the_function_and_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"^verb\(\): got an unexpected keyword argument 'step'; did you mean 'steps'\?$"):
        verb("x", "y", step=1)


def test_a_thread_of_the_command_names_flags_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def work(**_: object) -> None:
        thread = threading.Thread(target=lambda: notice("t", "see --missing"))
        thread.start()
        thread.join()

    monkeypatch.setattr(cli, "_run", lambda *_: work() or 0)
    assert cli.main(["audit"]) == 0 and capsys.readouterr().err == "t: see --missing\n"
    work()
    assert capsys.readouterr().err == "t: see `missing`\n"
