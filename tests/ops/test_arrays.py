"""Arrays of NumPy, CuPy and others: taken on the memory they have, never written to, refused in words."""

from __future__ import annotations

import gc
import threading
import warnings

import numpy as np
import pytest
import torch

from zsml.errors import InputError
from zsml.metrics import RetrievalEvaluator, chance_map, evaluate_retrieval
from zsml.ops import hamming_distance, hamming_rank, hamming_topk, hardest_pairs, margin_softmax, pack_bits, supcon, unpack_bits
from zsml.ops._arrays import as_tensor
from zsml.quantize import ITQ, CentreHash


class Exported:
    """An array of a library torch does not know, as a CuPy array is to it: all it has is the protocol."""

    def __init__(self, tensor: torch.Tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def frozen(t: torch.Tensor) -> np.ndarray:
    array = t.numpy().copy()
    array.flags.writeable = False
    return array


LIBRARIES = {"numpy": lambda t: t.numpy().copy(), "read-only numpy": frozen, "the protocol alone": lambda t: Exported(t.clone())}


@pytest.fixture(params=LIBRARIES.values(), ids=LIBRARIES.keys())
def foreign(request):
    """Turns a tensor into an array of another library; None stays."""
    return lambda t: t if t is None else request.param(t)


@pytest.fixture(autouse=True)
def without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


X, Y, M = draw(20, 6), torch.arange(20) % 4, torch.arange(20) % 2
R, RY, RM, SKIP = draw(30, 6, seed=1), torch.arange(30) % 5, torch.arange(30) // 3 % 2, torch.arange(20) - 1
CODES, MORE = pack_bits(draw(9, 20, seed=2) > 0), pack_bits(draw(40, 20, seed=3) > 0)
FITTED, HASHER = ITQ(bits=5, iterations=3).fit(X), CentreHash(bits=5, steps=2).fit(X)

CALLS = {
    "pack_bits": (pack_bits, (X > 0,)),
    "unpack_bits": (lambda c: unpack_bits(c, 20), (CODES,)),
    "hamming_distance": (hamming_distance, (CODES, MORE)),
    "hamming_topk": (lambda q, g: hamming_topk(q, g, 7), (CODES, MORE)),
    "hamming_rank": (hamming_rank, (CODES, MORE)),
    "hardest_pairs": (hardest_pairs, (X, Y, M)),
    "hardest_pairs among refs": (
        lambda x, y, m, *rest: hardest_pairs(
            x, y, m, **dict(zip(("refs", "ref_labels", "ref_modality", "exclude"), rest, strict=True))
        ),
        (X, Y, M, R, RY, RM, SKIP),
    ),
    "supcon": (
        lambda x, y, m, *rest: supcon(
            x, y, m, **dict(zip(("refs", "ref_labels", "ref_modality", "exclude"), rest, strict=True))
        ),
        (X, Y, M, R, RY, RM, SKIP),
    ),
    "margin_softmax": (margin_softmax, (X, R, Y)),
    "evaluate_retrieval": (lambda *a: evaluate_retrieval(*a).ap, (X, Y, R, RY)),
    "evaluate_retrieval of codes": (
        lambda *a: evaluate_retrieval(*a, distance="hamming").ap, (CODES, Y[:9], MORE, torch.arange(40) % 5)
    ),
    "chance_map": (lambda *a: torch.tensor(chance_map(*a)), (Y, RY)),
    "ITQ.fit": (lambda x: ITQ(bits=5, iterations=3).fit(x).rotation, (X,)),
    "ITQ.transform": (FITTED.transform, (X,)),
    "ITQ.transform, own centre": (lambda x: FITTED.transform(x, center="own"), (X.double(),)),
    "CentreHash.fit": (lambda x: CentreHash(bits=5, steps=2).fit(x).weight, (X,)),
    "CentreHash.transform": (HASHER.transform, (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_arrays_give_what_tensors_give(name, foreign):
    call, tensors = CALLS[name]
    arrays = [foreign(t) for t in tensors]
    expected, found = ([r] if isinstance(r, torch.Tensor) else list(r) for r in (call(*tensors), call(*arrays)))
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, torch.Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    for array, tensor in zip(arrays, tensors, strict=True):  # nothing was written to
        assert torch.equal(torch.tensor(array) if isinstance(array, np.ndarray) else array.tensor, tensor)


def test_half_precision_and_tensors_beside_arrays(foreign):
    x = X.half()
    expected = hardest_pairs(x, Y, M)
    assert torch.equal(hardest_pairs(foreign(x), Y, foreign(M)).distance, expected.distance)
    refs = R.clone().requires_grad_()  # a gradient flows into what is a tensor
    hardest_pairs(foreign(X), Y, refs=refs, ref_labels=RY).distance.sum().backward()
    assert refs.grad.abs().sum() > 0


def test_an_evaluator_takes_batches_of_arrays(foreign):
    evaluator = RetrievalEvaluator()
    evaluator.update(foreign(X), foreign(Y), 0)
    evaluator.update(foreign(R), foreign(RY), foreign(torch.ones(30, dtype=torch.int64)))
    assert evaluator.compute().map == evaluate_retrieval(X, Y, R, RY).map


# ---- the memory ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("writeable", [True, False])
def test_a_numpy_array_is_not_copied(dtype, writeable):
    array = np.arange(24).reshape(4, 6).astype(dtype)
    array.flags.writeable = writeable
    for view in (array, array[1:, ::2], array.T):
        tensor = as_tensor(view, "x")
        assert tensor.data_ptr() == view.__array_interface__["data"][0] and tuple(tensor.shape) == view.shape
        assert [s * tensor.element_size() for s in tensor.stride()] == list(view.strides)
        assert (tensor.numpy() == view).all()
        assert view.flags.writeable == writeable


def test_an_exported_array_is_not_copied():
    assert as_tensor(Exported(X), "x").data_ptr() == X.data_ptr()
    assert as_tensor(X, "x") is X and as_tensor(None, "x") is None


@pytest.mark.parametrize("writeable", [True, False])
def test_the_memory_stays_while_the_tensor_does(writeable):
    array = np.full(1 << 20, 7.0)
    array.flags.writeable = writeable
    tensor = as_tensor(array, "x")
    del array
    gc.collect()
    others = [np.zeros(1 << 20) for _ in range(4)]
    assert (tensor == 7).all() and len(others) == 4


def test_the_kernels_get_the_memory_itself(monkeypatch):
    seen = []
    original = torch.ops.zsml.hamming_distance
    monkeypatch.setattr(torch.ops.zsml, "hamming_distance", lambda q, g: seen.extend((q, g)) or original(q, g))
    q, g = CODES.numpy(), frozen(MORE)
    hamming_distance(q, g)
    assert [t.data_ptr() for t in seen] == [a.__array_interface__["data"][0] for a in (q, g)]


def test_read_only_arrays_of_many_threads():
    array, wrong = frozen(X), []

    def work():
        for _ in range(200):
            if not torch.equal(as_tensor(array, "x"), X):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_tensors_still_compile_into_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(lambda q, g: (hamming_topk(q, g, 3), pack_bits(q > 7)), fullgraph=True, backend="eager")
    assert torch.equal(compiled(CODES, MORE)[0][1], hamming_topk(CODES, MORE, 3)[1])
    compiled = torch.compile(lambda x, y, m: hardest_pairs(x, y, m), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X, Y, M)[1], hardest_pairs(X, Y, M)[1])


# ---- what cannot be taken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.array([["a"]]), TypeError, "x must hold numbers as torch does, got ndarray of <U1"),
        (np.array([[None]]), TypeError, "x must hold numbers as torch does, got ndarray of object"),
        (np.zeros((2, 2), ">f4"), TypeError, "x must hold numbers as torch does, got ndarray of >f4"),
        (np.zeros((2, 2), "M8[s]"), TypeError, "got ndarray of datetime64"),
        (np.zeros((2, 2))[::-1], InputError, r"x must not have negative strides, got \(-16, 8\); pass a contiguous copy"),
        (np.ma.masked_array(np.zeros((2, 2))), TypeError, "x must not be a masked array"),
        (np.zeros((2, 2), np.int16), TypeError, "x must be float16, bfloat16, float32 or float64, got torch.int16"),
        (np.zeros(2), InputError, "x must have shape"),
        ([[0.0, 0.0], [0.0, 0.0]], TypeError, "x must be a torch.Tensor .* got list"),
    ],
    ids=str,
)
def test_what_cannot_be_taken_is_refused_by_name(array, kind, words):
    with pytest.raises(kind, match=words):
        hardest_pairs(array, torch.zeros(2).long())


def test_a_broken_exporter_is_named():
    class Lost(Exported):
        def __dlpack_device__(self):
            return (2, 0)  # a GPU that is not there

    class Empty(Exported):
        def __dlpack__(self, **options):
            return 5

    for kind in (Empty, *(() if torch.cuda.is_available() else (Lost,))):
        with pytest.raises(InputError, match=f"q cannot be taken over from {kind.__name__}: "):
            hamming_distance(kind(CODES), MORE)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pack_bits(np.zeros((2, 2))), "bits must be a bool tensor, got a torch.float64 tensor"),
        (lambda: hamming_rank(np.zeros((2, 2)), CODES), "q must be packed codes"),
        (lambda: hamming_rank(CODES, CODES.tolist()), "g must be packed codes, .* got list"),
        (lambda: FITTED.transform(np.zeros((2, 6), int)), "X must be a real-valued tensor"),
        (lambda: evaluate_retrieval(X, np.array(["a"] * 20), R, RY), "query_labels must hold numbers"),
        (lambda: evaluate_retrieval(X, Y.numpy() + 0.5, R, RY), "query_labels must be integer class ids"),
        (lambda: evaluate_retrieval(np.full((20, 6), "a"), Y, R, RY), "query must hold numbers"),
    ],
)
def test_wrong_arrays_are_refused_by_the_argument_s_name(call, words):
    with pytest.raises(TypeError, match=words):
        call()
