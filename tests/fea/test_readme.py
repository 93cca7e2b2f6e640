"""The example that newcomers copy runs and says something sensible."""

from __future__ import annotations

import re
from pathlib import Path

import fea


def test_example_of_the_readme_runs(capsys):
    text = (Path(fea.__file__).parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    forces = [float(value) for value in re.findall(r"mm +([\d.]+) N ", printed)]
    assert len(forces) == 6
    assert forces == sorted(forces)
    stiffness = float(re.search(r"stiffness (\d+)", printed).group(1))
    assert abs(forces[1] / (0.08 * stiffness) - 1) < 0.03  # the first step is nearly elastic
