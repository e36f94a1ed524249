"""Which code made a number."""

from __future__ import annotations

import subprocess
from pathlib import Path

import zsml


def commit() -> str:
    """The commit of the checkout zsml runs from, "+" if its code was changed since; of an installed package, its version."""
    package = Path(zsml.__file__).resolve().parent
    if not (package.parent / ".git").exists():
        return f"zsml {zsml.__version__}"

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", package.parent, *words], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "zsml", "csrc", "setup.py")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
