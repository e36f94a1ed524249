"""Bad input to hardest_pairs: the message names the argument, what came and what is accepted; nothing crashes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zsml.errors import InputError
from zsml.ops import hardest_pairs

B, M, D = 5, 7, 3


def good(device="cpu", refs: bool = False) -> dict:
    arguments = {
        "x": torch.randn(B, D, device=device),
        "labels": torch.arange(B, device=device) % 2,
        "modality": torch.arange(B, device=device) % 2,
    }
    if refs:
        arguments["refs"] = torch.randn(M, D, device=device)
        arguments["ref_labels"] = torch.arange(M, device=device) % 2
        arguments["ref_modality"] = torch.arange(M, device=device) % 2
        arguments["exclude"] = torch.arange(B, device=device) - 1
    return arguments


def ids(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


# argument, bad value, error, what the message must hold besides the argument's name
WITHOUT_REFS = [
    ("x", [[1.0, 2.0]], TypeError, ["torch.Tensor", "list"]),
    ("x", None, TypeError, ["torch.Tensor", "NoneType"]),
    ("x", np.zeros((B, D), np.int32), TypeError, ["float32", "torch.int32"]),
    ("x", torch.zeros(B, D, dtype=torch.int64), TypeError, ["float32", "torch.int64"]),
    ("x", torch.zeros(B, D, dtype=torch.complex64), TypeError, ["float32", "torch.complex64"]),
    ("x", torch.zeros(B, D, dtype=torch.float8_e4m3fn), TypeError, ["float32", "torch.float8_e4m3fn"]),
    ("x", torch.zeros(B, D).to_sparse(), TypeError, ["dense", "torch.sparse_coo"]),
    ("x", torch.zeros(B), InputError, ["[rows, D]", "[5]"]),
    ("x", torch.tensor(1.0), InputError, ["[rows, D]", "[]"]),
    ("x", torch.zeros(B, D, 1), InputError, ["[rows, D]", "[5, 3, 1]"]),
    ("x", torch.zeros(0, D), InputError, ["empty", "[0, 3]"]),
    ("x", torch.zeros(B, 0), InputError, ["column", "[5, 0]"]),
    ("labels", [0, 1, 0, 1, 0], TypeError, ["int64 tensor [5]", "list"]),
    ("labels", None, TypeError, ["int64 tensor [5]", "NoneType"]),
    ("labels", ids(B).int(), TypeError, ["int64", "torch.int32", ".long()"]),
    ("labels", ids(B).float(), TypeError, ["int64", "torch.float32", ".long()"]),
    ("labels", ids(B).bool(), TypeError, ["int64", "torch.bool", ".long()"]),
    ("labels", ids(B - 1), InputError, ["[5]", "[4]"]),
    ("labels", ids(B + 1), InputError, ["[5]", "[6]"]),
    ("labels", ids(B, 1), InputError, ["[5]", "[5, 1]"]),
    ("labels", ids(), InputError, ["[5]", "[]"]),
    ("modality", 1, TypeError, ["int64 tensor [5]", "int"]),
    ("modality", ids(B).short(), TypeError, ["int64", "torch.int16"]),
    ("modality", ids(B + 2), InputError, ["[5]", "[7]"]),
    ("ref_labels", ids(M), InputError, ["refs"]),
    ("ref_modality", ids(M), InputError, ["refs"]),
    ("exclude", ids(B), InputError, ["refs"]),
]

WITH_REFS = [
    *(row for row in WITHOUT_REFS[:18]),
    ("refs", [[1.0, 2.0, 3.0]], TypeError, ["torch.Tensor", "list"]),
    ("refs", torch.zeros(M, D, dtype=torch.uint8), TypeError, ["float32", "torch.uint8"]),
    ("refs", torch.zeros(M, D).to_sparse(), TypeError, ["dense", "torch.sparse_coo"]),
    ("refs", torch.zeros(M), InputError, ["[rows, D]", "[7]"]),
    ("refs", torch.zeros(M, D + 1), InputError, ["width of x, 3", "[7, 4]"]),
    ("refs", torch.zeros(M, 0), InputError, ["[7, 0]"]),
    ("refs", torch.zeros(M, D, device="meta"), InputError, ["meta", "cpu"]),
    ("ref_labels", None, InputError, ["missing", "refs"]),
    ("ref_labels", [0] * M, TypeError, ["int64 tensor [7]", "list"]),
    ("ref_labels", ids(M).int(), TypeError, ["int64", "torch.int32", ".long()"]),
    ("ref_labels", ids(B), InputError, ["[7]", "[5]"]),
    ("ref_modality", None, InputError, ["missing", "modality"]),
    ("ref_modality", ids(M).double(), TypeError, ["int64", "torch.float64"]),
    ("ref_modality", ids(M, 2), InputError, ["[7]", "[7, 2]"]),
    ("modality", None, InputError, ["missing", "ref_modality"]),
    ("exclude", 3, TypeError, ["int64 tensor [5]", "int"]),
    ("exclude", ids(B).int(), TypeError, ["int64", "torch.int32"]),
    ("exclude", ids(M), InputError, ["[5]", "[7]"]),
    ("exclude", ids(B) + M, InputError, ["0 to 6", "-1", "7"]),
    ("exclude", ids(B) - 2, InputError, ["0 to 6", "-1", "-2"]),
    ("exclude", ids(B) + 2**62, InputError, ["0 to 6", str(2**62)]),
]


def check_message(error: pytest.ExceptionInfo, name: str, words: list[str]) -> None:
    message = str(error.value)
    assert name in message and all(word in message for word in words), message


@pytest.mark.parametrize(("name", "value", "kind", "words"), WITHOUT_REFS)
def test_without_refs(name, value, kind, words):
    with pytest.raises(kind) as error:
        hardest_pairs(**{**good(), name: value})
    check_message(error, name, words)


@pytest.mark.parametrize(("name", "value", "kind", "words"), WITH_REFS)
def test_with_refs(name, value, kind, words):
    with pytest.raises(kind) as error:
        hardest_pairs(**{**good(refs=True), name: value})
    check_message(error, name, words)


def test_bad_values_are_value_errors():
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("name", ["labels", "modality", "refs", "ref_labels", "ref_modality", "exclude"])
def test_tensors_on_another_device(name):
    arguments = good(refs=True)
    arguments[name] = arguments[name].to("meta")
    with pytest.raises(InputError) as error:
        hardest_pairs(**arguments)
    check_message(error, name, ["meta", "cpu", "move it there"])


def test_the_options_are_keywords():
    arguments = good(refs=True)
    with pytest.raises(TypeError):
        hardest_pairs(*arguments.values())


def test_good_input_is_accepted(device):
    for refs in (False, True):
        assert hardest_pairs(**good(device, refs)).distance.shape == (4, B)
    parameter = torch.nn.Parameter(torch.randn(B, D, device=device))
    assert hardest_pairs(parameter, good(device)["labels"]).distance.requires_grad


# ---- past the checks of Python: the registered ops themselves ----------------------------------------------------------------

ORDER = ("x", "labels", "modality", "refs", "ref_labels", "ref_modality", "exclude")
DIRECT = [
    ("x", lambda t: t[:0]),
    ("x", lambda t: t[:, :0]),
    ("x", lambda t: t[0]),
    ("x", lambda t: t[:, :2]),
    ("x", lambda t: t[:4]),
    ("x", lambda t: t.double()),
    ("x", lambda t: t.long()),
    ("labels", lambda t: t[:2]),
    ("labels", lambda t: t[:, None]),
    ("labels", lambda t: t.int()),
    ("modality", lambda t: t.repeat(2)),
    ("modality", lambda t: t.float()),
    ("refs", lambda t: t[:, :2]),
    ("refs", lambda t: t[0]),
    ("refs", lambda t: t.half()),
    ("refs", lambda t: None),
    ("ref_labels", lambda t: t[:2]),
    ("ref_labels", lambda t: None),
    ("ref_modality", lambda t: t.repeat(2)),
    ("ref_modality", lambda t: None),
    ("exclude", lambda t: t[:2]),
    ("exclude", lambda t: t.int()),
]


@pytest.mark.parametrize(("name", "change"), DIRECT)
def test_registered_op_refuses(kernel_device, name, change):
    arguments = good(kernel_device, refs=True)
    arguments[name] = change(arguments[name])
    with pytest.raises((RuntimeError, ValueError, TypeError), match=r"\w"):
        torch.ops.zsml.hardest_pairs(*(arguments[key] for key in ORDER), 0)


def test_registered_op_skips_nothing_for_an_impossible_row(device):
    """The check of ``exclude`` reads values, which a GPU or a compiled graph cannot afford: there it must be harmless."""
    arguments = good(device, refs=True)
    expected = torch.ops.zsml.hardest_pairs(*(arguments[key] for key in ORDER[:-1]), None, 0)
    arguments["exclude"] = torch.tensor([M, -2, 2**62, -(2**62), M + 1], device=device)
    for ours, other in zip(torch.ops.zsml.hardest_pairs(*(arguments[key] for key in ORDER), 0), expected, strict=True):
        assert torch.equal(ours, other)


BACKWARD_ORDER = ("grad", "x", "refs", "distance", "index")
BACKWARD = [
    ("grad", lambda t: t[:3]),
    ("grad", lambda t: t.double()),
    ("x", lambda t: t[:, :2]),
    ("x", lambda t: t[:, :0]),
    ("x", lambda t: t[:4]),
    ("x", lambda t: t[0]),
    ("refs", lambda t: t[:, :2]),
    ("refs", lambda t: t.double()),
    ("refs", lambda t: t[0]),
    ("distance", lambda t: t[:, :2]),
    ("distance", lambda t: t.long()),
    ("index", lambda t: t.T),
    ("index", lambda t: t.int()),
]
WILD = [  # rows of index beyond those of refs; a GPU would have to stall to see them
    ("refs", lambda t: None),
    ("refs", lambda t: t[:0]),
    ("index", lambda t: t + M),
    ("index", lambda t: t + 2**40),
]


@pytest.mark.parametrize(("name", "change"), BACKWARD + WILD)
def test_registered_gradient_refuses(kernel_device, name, change):
    device = kernel_device
    if device.type == "cuda" and (name, change) in WILD:
        pytest.skip("not checked on CUDA")
    arguments = {"grad": torch.ones(4, B), "x": torch.randn(B, D), "refs": torch.randn(M, D), "distance": torch.ones(4, B)}
    arguments["index"] = torch.full((4, B), M - 1)
    arguments = {key: t.to(device) for key, t in arguments.items()}
    arguments[name] = change(arguments[name])
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError), match=r"\w"):
        torch.ops.zsml.hardest_pairs_backward(*(arguments[key] for key in BACKWARD_ORDER), True, True)
