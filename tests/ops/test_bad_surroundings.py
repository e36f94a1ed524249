"""What is asked of the machine rather than of an argument: results larger than memory, instruction sets that do not exist."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from zsml.errors import InputError
from zsml.ops import hamming_distance, hamming_rank


@pytest.mark.parametrize("op", [hamming_distance, hamming_rank])
def test_a_result_beyond_the_memory_is_refused_in_words(op) -> None:
    codes = torch.zeros(1, 1, dtype=torch.uint8).expand(1 << 24, 1)
    with pytest.raises(InputError, match=r"\[16777216, 16777216\] results, 1048576 GiB, .* split the queries"):
        op(codes, codes)


def test_an_unknown_instruction_set_is_named_and_ignored() -> None:
    code = "import torch, zsml.ops; print(torch.ops.zsml.pack_bits(torch.ones(1, 3, dtype=torch.bool)).item())"
    environment = os.environ | {"ZSML_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "7"
    assert "ZSML_ISA=AVX2 is ignored; it may be portable, avx2, avx512, avx512_vpopcnt" in done.stderr
