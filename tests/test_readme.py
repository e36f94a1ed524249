"""What the README shows runs, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from zsml.commands import ACTIONS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_runs(number):
    exec(compile(SNIPPETS[number], f"README snippet {number + 1}", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", re.findall(r"^ {4}zsml (.*)$", README, re.MULTILINE))
def test_command_line_parses(line):
    """Every flag of every command shown is known to that command's help."""
    words = line.split("#")[0].split()
    command = words[:2] if words[1:] and words[1] in ACTIONS.get(words[0], {}) else words[:1]
    asked = subprocess.run([sys.executable, "-m", "zsml", *command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert asked.returncode == 0
    missing = [word for word in words if word.startswith("--") and word not in asked.stdout]
    assert not missing


@pytest.mark.parametrize("path", re.findall(r"`((?:zsml|csrc|tests|bench)/[\w./]+)`", README))
def test_named_files_exist(path):
    assert (ROOT / path).exists()
