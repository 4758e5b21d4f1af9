"""``scotoma VERB --help``: a page with flags as they are typed, and a line for each."""

from __future__ import annotations

import inspect

import pytest

from scotoma import cli
from scotoma.arguments import flag_name, positional_arguments


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main([verb, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", sorted(cli.VERBS.keys() - {"list"}))
def test_every_argument_has_a_line_with_a_noun_phrase(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(verb, capsys)
    usage, _, page = text.partition("\n\n")
    parameters = inspect.signature(cli.function_of(verb)).parameters
    for name, parameter in parameters.items():
        if name in ("method_args",):
            continue
        flag = name.upper() if name in positional_arguments(parameters) else f"--{flag_name(name)}"
        lines = page.splitlines()
        at = [i for i, line in enumerate(lines) if line.startswith(f"  {flag} ") or line == f"  {flag}"]
        assert len(at) == 1, flag
        text_of = lines[at[0]][28:].strip() or lines[at[0] + 1].strip()
        assert text_of and not text_of.startswith("of "), flag
        if parameter.default is inspect.Parameter.empty:
            assert flag in usage and page.index("required:") < page.index(f"\n  {flag}") < page.index("options:")
    assert "(type:" not in text and max(map(len, text.splitlines())) <= 100


def test_values_of_an_argument_stand_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("finetune", capsys)
    assert "--schedule {cosine,constant,one_cycle,plateau}" in text
    assert "--steps N " in text and "(100 if no length is given) (above 0)" in " ".join(text.split())
    assert "--learning_rate X " in text and "(default: 0.0005, at least 0)" in text
    assert "\n  --frozen  " in text  # a switch takes no value
    assert "arguments of --method supervised:" in text
    assert "--batch_size N|auto" in help_of("pretrain", capsys)
    assert "(default: 0)" in text  # of the seed: nought is a default, too


def test_a_list_of_defaults_is_shown_as_it_is_typed() -> None:
    from scotoma.help_page import _shown

    assert _shown([1, 2]) == "1,2" and _shown(0.5) == "0.5"
