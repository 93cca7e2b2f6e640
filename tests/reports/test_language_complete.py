"""Every sentence that the program can put into a record has a German one, or a reason for having none.

The sentences are read from the source: the texts of findings and refusals, with a number in every gap. A new finding without a
German sentence fails here; the sentence goes into ``reports/language/phrases.de.toml``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline
from reports.language.phrases import phrases_of

PIPELINE = Path(pipeline.__file__).parent
CALLS_END_HERE = {
    "calibrate_command.py", "cli.py", "cli_calibrate.py", "cli_coverage.py", "cli_records.py", "cohort.py", "console.py",
    "demo.py", "phantom_command.py", "settings.py", "strength/command.py", "strength/output.py", "strength/images.py",
    "strength/reference.py", "verify.py",
    "density/calibration_file.py", "density/scanner.py", "segmentation/mask_files.py", "segmentation/mask_levels.py",
    "segmentation/mask_place.py", "segmentation/masks.py", "segmentation/segmenter.py", "segmentation/spine/chain.py",
    "segmentation/spine/levels.py", "strength/bridge.py",
}  # fmt: skip
"""Where a refusal ends the call, because it is about a file or an option that the user named: said on the command line, in
English, and in no report. Findings made in these files do reach a report."""
NO_RECORD = {"strength/command.py"}
"""Where findings go into a file of its own, and into no record."""
COMPOSED = {
    "Levels: {}. {}{}": "its parts are sentences of their own",
}
"""Texts whose gaps hold whole sentences, which are translated one by one."""


def texts(node: ast.expr, known: dict[str, ast.expr]) -> Iterator[str]:
    """Every text that an expression can become, with ``{}`` for what is filled in and ``{%}`` for a percentage."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = []
        for value in node.values:
            percent = (
                isinstance(value, ast.FormattedValue) and value.format_spec and "%" in ast.unparse(value.format_spec)
            )
            parts.append(str(value.value) if isinstance(value, ast.Constant) else "{%}" if percent else "{}")
        yield "".join(parts)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from (a + b for a in texts(node.left, known) for b in texts(node.right, known))
    elif isinstance(node, ast.IfExp):
        yield from (*texts(node.body, known), *texts(node.orelse, known))
    elif isinstance(node, ast.Name) and node.id in known:
        rest = {name: value for name, value in known.items() if name != node.id}
        yield from texts(known[node.id], rest)
    else:
        yield "{}"


def sentences_of(file: Path) -> Iterator[tuple[str, str]]:
    """Kind of call (``Finding``, ``NotMeasurable``, ``InputRefused``) and its text, for every such call of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    seen: set[int] = set()
    for scope in (*(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)), tree):
        assigned = [n for n in ast.walk(scope) if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)]
        for call in (n for n in ast.walk(scope) if isinstance(n, ast.Call) and id(n) not in seen):
            kind = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            if kind not in ("Finding", "NotMeasurable", "InputRefused"):
                continue
            seen.add(id(call))
            earlier = sorted((a for a in assigned if a.lineno < call.lineno), key=lambda a: a.lineno)
            known = {a.targets[0].id: a.value for a in earlier if isinstance(a.targets[0], ast.Name)}
            given = {k.arg: k.value for k in call.keywords}
            place = 2 if kind == "Finding" else 1
            said = [given.get("text"), given.get("detail"), given.get("remedy"), *call.args[place : place + 1]]
            yield from ((kind, text) for node in said if node is not None for text in texts(node, known))


def german(template: str) -> bool:
    """Whether a sentence, with numbers in its gaps, is said in German."""
    phrases = phrases_of("de", ",")
    assert phrases is not None
    text = template.replace("{%}", "12%")
    text = "vertebra_L1" + text[2:] if text.startswith("{}: ") else text[:1].upper() + text[1:]
    text = text.replace("{}", "12")
    return phrases.said(text) != text


def untranslated(file: Path) -> list[str]:
    name = file.relative_to(PIPELINE).as_posix()
    return [
        text
        for kind, text in dict.fromkeys(sentences_of(file))
        if (kind == "Finding" and name not in NO_RECORD) or name not in CALLS_END_HERE
        if text.strip("{} ") and text not in COMPOSED and not german(text)
    ]


@pytest.mark.parametrize("folder", sorted({f.parent.relative_to(PIPELINE).as_posix() for f in PIPELINE.rglob("*.py")}))
def test_every_sentence_of_a_record_is_there_in_german(folder: str) -> None:
    files = sorted((PIPELINE / folder).glob("*.py"))
    missing = {f.name: left for f in files if (left := untranslated(f))}
    assert not missing, "add these to reports/language/phrases.de.toml"


def test_sentences_are_found_in_the_source(tmp_path: Path) -> None:
    source = tmp_path / "example.py"
    source.write_text(
        'def f(a, b):\n    text = f"one {a} and {b:.0%}" if a else "two."\n    x = Finding("c", W, text)\n'
        '    raise NotMeasurable("d", "three " f"{a}.", subject=b, remedy="four.")\n',
        encoding="utf-8",
    )
    assert sorted(sentences_of(source)) == [
        ("Finding", "one {} and {%}"), ("Finding", "two."), ("NotMeasurable", "four."), ("NotMeasurable", "three {}."),
    ]  # fmt: skip
    assert not german("A sentence that nobody has put into German, with {} mm.")


def test_enough_sentences_are_found_to_mean_something() -> None:
    found = {text for file in PIPELINE.rglob("*.py") for _, text in sentences_of(file)}
    assert len(found) > 250
