"""Every flag that a message names is one that can be given: of a verb that says it, or of the verb that the message names."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scotoma import cli, plugins
from scotoma.arguments import flag_name

SOURCE = Path(cli.__file__).parent
MODULES = {".".join(p.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): p for p in SOURCE.rglob("*.py")}
FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)?)")
# Of a module whose verbs lack it: said where a decoder was asked for; of the verb that made the run.
EXCEPTED = {("models.pretrained_weights", "decoder"), ("models.pretrained_weights", "encoder"), ("reporting.reading", "resume")}
OTHERS = {"nproc_per_node", "markdown"}  # of torchrun; of `scotoma list`
# Said by whoever starts from weights or trains, not by every verb that imports the module.
LOADED = {"methods": ("pretrain", "finetune", "study"), "evaluators": ("evaluate",), "tasks": ("finetune", "study", "evaluate")}
# Where only some verbs can say it, those.
SPOKEN = {
    "models.pretrained_weights": ("pretrain", "finetune", "evaluate", "embed", "study"),
    "training.trainer": ("pretrain", "finetune", "study"),
    "training.callbacks": ("pretrain", "study"),
    "training.lr_finder": ("pretrain", "finetune", "study"),
}


def flags() -> dict[str, set[str]]:
    """The flags of each verb, those of its methods included."""
    found = {}
    for verb in (v for v in cli.VERBS if v != "list"):
        parameters = inspect.signature(cli.function_of(verb)).parameters
        found[verb] = {flag_name(p) for p in parameters} | {"config", "help"}
        if "method_args" in parameters:
            made = [plugins.method(m).__init__ for m in plugins.summaries("methods")]
            found[verb] |= {"method"} | {f"method.{p}" for one in made for p in inspect.signature(one).parameters}
    return found


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The texts of a module with their lines, f-strings whole; no docstrings."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr):
            inner.add(id(node.body[0].value))
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            yield node.lineno, "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def imported(module: str) -> set[str]:
    """The package's modules that a module imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scotoma"):
            base = str(node.module).removeprefix("scotoma").lstrip(".")
            found |= {full if (full := f"{base}.{a.name}".lstrip(".")) in MODULES else base for a in node.names}
    return found & set(MODULES)


def who_speaks() -> dict[str, set[str]]:
    """Module -> the verbs that can say what it says: those that reach it by imports."""
    edges = {module: imported(module) for module in MODULES}
    found: dict[str, set[str]] = {module: set() for module in MODULES}
    for verb in (v for v in cli.VERBS if v != "list"):
        waiting = [f"commands.{verb}"]
        waiting += [m for m in MODULES if verb in LOADED.get(m.partition(".")[0], ())]
        seen: set[str] = set()
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                found[module].add(verb)
                waiting += edges[module]
    return found


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return flags()


def lacking(module: str, text: str, speakers: set[str], known: dict[str, set[str]]) -> list[str]:
    """The flags in a text that nobody who says it has."""
    named = (
        {verb for verb in known if re.search(rf"\b{verb}\b", text, re.IGNORECASE)} if "scotoma" in text or "--" in text else set()
    )
    if "scotoma {}" in text:  # the verb is put in
        named = set(known)
    every = SPOKEN.get(module, ())
    missing = []
    for flag in FLAG.findall(text):
        if flag in OTHERS or (module, flag) in EXCEPTED or any(flag in known[verb] for verb in named):
            continue
        own = [verb] if (verb := module.removeprefix("commands.")) in known else every
        if not all(flag in known[verb] for verb in own) or not any(flag in known[verb] for verb in speakers):
            missing.append(flag)
    return missing


def test_every_flag_in_a_message_can_be_given(known: dict[str, set[str]]) -> None:
    speakers, wrong = who_speaks(), []
    for module, path in MODULES.items():
        for line, text in texts(ast.parse(path.read_text())):
            if "--" in text and speakers[module]:
                wrong += [f"{module}, line {line}: --{flag} in {text!r}" for flag in lacking(module, text, speakers[module], known)]
    assert wrong == []


def test_a_flag_of_another_verb_is_found(known: dict[str, set[str]]) -> None:
    """The test's own judgement, on texts that were wrong once or could be."""
    speakers = who_speaks()
    assert "finetune" in speakers["models.pretrained_weights"] and speakers["evaluators.knn"] >= {"evaluate"}
    assert lacking("models.pretrained_weights", "--init {}: no weights", speakers["models.pretrained_weights"], known) == ["init"]
    assert lacking("commands.split", "say --allow_leakage", speakers["commands.split"], known) == ["allow_leakage"]
    assert lacking("data.sources", "give it with --labbels", speakers["data.sources"], known) == ["labbels"]
    assert lacking("data.sources", "give it with --labels", speakers["data.sources"], known) == []
    assert lacking("data.splits.units", "`scotoma split --copies` does", speakers["data.splits.units"], known) == []
    assert list(texts(ast.parse("'''doc --a'''\nf'x --b {1} --c'"))) == [(2, "x --b {} --c")]
