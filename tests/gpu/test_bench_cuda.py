"""On a GPU: every provider of the benchmark agrees with brute force there, and is timed by events."""

from __future__ import annotations

import pytest
import torch

from zsml.bench.cases import find_cases
from zsml.bench.run import run_case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("case", find_cases(["all"], ["tiny", "120"]), ids=lambda case: f"{case.op}, {case.name}")
def test_every_provider_agrees_and_is_timed(case):
    for row in run_case(case, [torch.get_num_threads()], "cuda", budget=1e-3):
        if row["provider"] == "torchmetrics" and (row["left_out"] or "").startswith("needs torchmetrics"):
            continue
        assert row["left_out"] is None, row["left_out"]
        assert row["median_ms"] > 0 and row["on"] == "cuda" and row["device"] == torch.cuda.get_device_name()
