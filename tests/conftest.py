"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real photographs, sketches and published split lists, beside the checkout."""
    path = Path(os.environ.get("ZSML_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        message = f"real test data not found at {path}; set ZSML_TEST_DATA to the folder holding pacs/ and splits/"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path
