"""CentreHash: its training against a loop without autograd, what it does to codes, files, bad input."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zsml.errors import InputError
from zsml.metrics import evaluate_retrieval
from zsml.ops.hamming import hamming_distance, unpack_bits
from zsml.quantize import ITQ, CentreHash
from zsml.retrieval.centre_hash import _sign_step


def make_centres(classes: int = 12, width: int = 32, shift: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Rows that share a large mean, as features after a ReLU do: most random planes have all of them on one side."""
    return shift + 0.3 * torch.randn(classes, width, generator=torch.Generator().manual_seed(seed))


def mean_distance(codes: torch.Tensor) -> float:
    """Mean Hamming distance of two different rows."""
    rows = codes.shape[0]
    return hamming_distance(codes, codes).sum().item() / (rows * (rows - 1))


def numpy_training(x: np.ndarray, bits: int, steps: int, lr: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """(W / sigma, bias, losses) with every gradient written out, Adam included."""
    classes, width = x.shape
    generator, bound = torch.Generator().manual_seed(seed), width**-0.5
    w = torch.empty(bits, width, dtype=torch.float64).uniform_(-bound, bound, generator=generator).numpy()
    a = torch.empty(bits, dtype=torch.float64).uniform_(-bound, bound, generator=generator).numpy()
    p = torch.empty(bits, dtype=torch.float64).normal_(generator=generator).numpy()
    state = [[np.zeros_like(t), np.zeros_like(t)] for t in (w, a)]
    losses, rate = [], lr
    for step in range(steps + 1):
        q = w.T @ p / np.linalg.norm(w.T @ p)
        p = w @ q / np.linalg.norm(w @ q)
        sigma = p @ w @ q
        if step == steps:
            return w / sigma, a, losses
        u = x @ (w / sigma).T + a
        h = u / (np.abs(u) + 1e-8)
        pairs = [(i, j) for i in range(classes) for j in range(classes) if i != j]
        losses.append(float(np.mean([h[i] @ h[j] for i, j in pairs])))
        du = 2 / len(pairs) * (h.sum(0) - h) / (np.abs(u) + 1e-8)
        dm = du.T @ x  # towards W / sigma
        dw = dm / sigma - (dm * w).sum() / sigma**2 * np.outer(p, q)
        for (first, second), value, grad in zip(state, (w, a), (dw, du.sum(0)), strict=True):
            first += 0.1 * (grad - first)
            second += 0.001 * (grad**2 - second)
            t = step + 1
            value -= rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        if (step + 1) % 100 == 0:
            rate = lr * (1 - step / steps)
    raise AssertionError("unreachable")


# Few steps where bits are many: near a sign change the gradient is huge, so training amplifies rounding.
@pytest.mark.parametrize(("bits", "classes", "width", "steps"), [(13, 6, 9, 40), (8, 7, 3, 110), (1, 2, 5, 230)])
def test_matches_a_training_loop_without_autograd(bits: int, classes: int, width: int, steps: int) -> None:
    x = make_centres(classes, width)
    hasher = CentreHash(bits=bits, steps=steps, lr=0.002, seed=5).fit(x)
    weight, bias, losses = numpy_training(x.double().numpy(), bits, steps, 0.002, 5)
    np.testing.assert_allclose(hasher.weight.numpy(), weight, rtol=0, atol=1e-7)
    np.testing.assert_allclose(hasher.bias.numpy(), bias, rtol=0, atol=1e-7)
    np.testing.assert_allclose(hasher.loss, losses, rtol=0, atol=1e-7)
    points = torch.randn(300, width, generator=torch.Generator().manual_seed(1))
    codes = hasher.transform(points)
    assert codes.dtype == torch.uint8 and codes.shape == (300, math.ceil(bits / 8))
    np.testing.assert_array_equal(unpack_bits(codes, bits).numpy(), points.double().numpy() @ weight.T + bias > 0)


def test_the_sign_step_passes_the_gradient_scaled() -> None:
    u = torch.tensor([-3.0, -1e-9, 0.0, 1e-4, 2.0], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    h = _sign_step(u)
    h.backward(grad)
    torch.testing.assert_close(u.grad, grad / (u.detach().abs() + 1e-8), rtol=1e-14, atol=0)
    torch.testing.assert_close(h.detach()[[0, 4]], torch.tensor([-1.0, 1.0]).double(), rtol=0, atol=1e-8)
    assert h[2] == 0


def test_codes_of_the_classes_move_apart() -> None:
    x = make_centres(10, 64)
    hasher = CentreHash(bits=16, steps=300).fit(x)
    random = CentreHash(bits=16, steps=0).fit(x)
    assert random.loss == [] and len(hasher.loss) == 300
    before, after = mean_distance(random.transform(x)), mean_distance(hasher.transform(x))
    assert after > 2 * before
    # the mean inner product of codes of -1 and 1 is bits - 2 distances; the map moves little in the last step
    assert hasher.loss[0] == pytest.approx(16 - 2 * before, abs=0.5)
    assert hasher.loss[-1] == pytest.approx(16 - 2 * after, abs=0.5)


@pytest.mark.parametrize("classes", [20, 21])
def test_orthogonal_centres_reach_the_bound(classes: int) -> None:
    """Every bit splits the classes in half: no codes are further apart in the mean."""
    x = torch.eye(classes)
    hasher = CentreHash(bits=24, steps=600, lr=0.01).fit(x)
    codes = hasher.transform(x)
    assert set(unpack_bits(codes, 24).sum(dim=0).tolist()) <= {classes // 2, (classes + 1) // 2}
    least = -24 / (classes - 1 if classes % 2 == 0 else classes)
    assert hasher.loss[-1] == pytest.approx(least, abs=1e-3)
    assert mean_distance(codes) == pytest.approx((24 - least) / 2, rel=1e-12)


def test_codes_retrieve_better_than_those_of_the_random_map() -> None:
    centres = make_centres(16, 64)
    labels = torch.arange(640) % 16
    points = centres[labels] + 0.2 * torch.randn(640, 64, generator=torch.Generator().manual_seed(1))

    def score(steps: int, seed: int) -> float:
        codes = CentreHash(bits=32, steps=steps, seed=seed).fit(centres).transform(points)
        return evaluate_retrieval(codes[:100], labels[:100], codes[100:], labels[100:], distance="hamming").map

    assert min(score(300, seed) for seed in range(3)) > max(score(0, seed) for seed in range(3)) + 0.1


def test_the_map_has_spectral_norm_one() -> None:
    hasher = CentreHash(bits=12, steps=300, lr=1e-4).fit(make_centres())
    assert torch.linalg.matrix_norm(hasher.weight, 2).item() == pytest.approx(1, abs=0.02)
    assert not hasher.weight.requires_grad and not hasher.bias.requires_grad


def test_a_seed_decides_everything() -> None:
    x = make_centres()
    hasher = CentreHash(bits=9, steps=40).fit(x)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = CentreHash(bits=9, steps=40).fit(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(again.weight, hasher.weight) and torch.equal(again.bias, hasher.bias) and again.loss == hasher.loss
    assert not torch.equal(CentreHash(bits=9, steps=40, seed=1).fit(x).weight, hasher.weight)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_trains_in_any_gradient_mode(mode: type) -> None:
    x = make_centres().double()
    expected = CentreHash(bits=9, steps=40).fit(x)
    with mode():
        inside = x * 1  # an inference tensor in inference mode
        hasher = CentreHash(bits=9, steps=40).fit(inside)
    assert torch.equal(hasher.weight, expected.weight)
    leaf = x.clone().requires_grad_()
    assert torch.equal(CentreHash(bits=9, steps=40).fit(leaf).weight, expected.weight) and leaf.grad is None


def test_precisions_and_parts_of_a_large_set() -> None:
    hasher = CentreHash(bits=8, steps=30).fit(make_centres().bfloat16())
    assert hasher.weight.dtype == hasher.bias.dtype == torch.float64
    many = make_centres(40_000, 32, seed=2)
    assert torch.equal(hasher.transform(many.bfloat16()), hasher.transform(many.bfloat16().double()))
    expected = many.double() @ hasher.weight.T + hasher.bias > 0
    assert torch.equal(unpack_bits(hasher.transform(many), 8), expected)
    assert torch.equal(hasher.transform(many), hasher.transform(many))


@pytest.mark.parametrize("steps", [0, 30])
def test_save_and_load(tmp_path: Path, steps: int) -> None:
    x = make_centres()
    hasher = CentreHash(bits=20, steps=steps, lr=0.1 + 0.2, seed=3).fit(x)
    path = tmp_path / "codes.safetensors"
    hasher.save(path)
    hasher.save(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["codes.safetensors"]
    loaded = CentreHash.load(path)
    assert repr(loaded) == repr(hasher) and loaded.loss == hasher.loss and loaded.lr == hasher.lr
    assert torch.equal(loaded.weight, hasher.weight) and torch.equal(loaded.bias, hasher.bias)
    assert torch.equal(loaded.transform(x), hasher.transform(x))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codes.safetensors"
    CentreHash(bits=8, steps=1).fit(make_centres()).save(path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        CentreHash(bits=16, steps=1).fit(make_centres()).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(InputError, match="no CentreHash file at"):
        CentreHash.load(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(InputError, match="is not a safetensors file"):
        CentreHash.load(path)
    ITQ(bits=4).fit(make_centres()).save(path)
    with pytest.raises(InputError, match=r"is of kind 'zsml\.itq', not 'zsml\.centre_hash'"):
        CentreHash.load(path)

    good = tmp_path / "good"
    CentreHash(bits=4, steps=3).fit(make_centres()).save(good)
    tensors = load_file(good)
    settings = {"bits": 4, "steps": 3, "lr": 0.001, "seed": 0}

    def refused(words: str, tensors: dict, settings: object) -> None:
        save_file(tensors, path, {"kind": "zsml.centre_hash", "settings": json.dumps(settings)})
        with pytest.raises(InputError, match=words):
            CentreHash.load(path)

    refused("must hold exactly the tensors", {**tensors, "extra": torch.zeros(1)}, settings)
    refused("must hold exactly the tensors", {k: v for k, v in tensors.items() if k != "weight"}, settings)
    refused("must hold exactly the tensors", tensors, settings | {"bits": 5})
    refused("must hold exactly the tensors", tensors, settings | {"steps": 4})
    refused("bias must be finite float64", tensors | {"bias": tensors["bias"] * math.nan}, settings)
    refused("weight must be finite float64", tensors | {"weight": tensors["weight"].float()}, settings)
    refused("unusable settings", tensors, settings | {"lr": -1.0})
    refused("unusable settings", tensors, settings | {"whiten": True})
    refused("unusable settings", tensors, [1, 2])
    save_file(tensors, path, {"kind": "zsml.centre_hash"})
    with pytest.raises(InputError, match="unusable settings"):
        CentreHash.load(path)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bits": 0}, InputError, "bits must be 1 to"),
        ({"bits": 8.0}, TypeError, "bits must be an int, got 8"),
        ({"steps": -1}, InputError, "steps must be 0 to"),
        ({"steps": True}, TypeError, "steps must be an int, got True"),
        ({"seed": -1}, InputError, "seed must be 0 to 4294967295"),
        ({"lr": 0}, InputError, "lr must be finite and above 0, got 0"),
        ({"lr": math.nan}, InputError, "lr must be finite and above 0, got nan"),
        ({"lr": math.inf}, InputError, "lr must be finite and above 0, got inf"),
        ({"lr": "fast"}, TypeError, "lr must be a float, got 'fast'"),
    ],
)
def test_bad_settings_are_named(options, error, words) -> None:
    with pytest.raises(error, match=words):
        CentreHash(**options)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.randn(1, 8), InputError, r"centres must have at least 2 row\(s\)"),
        (torch.randn(8), InputError, r"centres must have shape \[rows, D\]"),
        (torch.full((5, 8), 0.1), InputError, "centres has identical rows only"),
        (torch.full((5, 8), math.nan), InputError, r"centres has NaN or infinite values in row\(s\) 0, 1"),
        (1.5e308 - 1e308 * torch.eye(8).double(), InputError, r"training diverged with lr=0\.001 on centres up to 1\.5e\+308"),
        (torch.ones(5, 8).int(), TypeError, "centres must be a real-valued tensor"),
        ([[1.0] * 8] * 5, TypeError, "centres must be a torch tensor"),
        (np.ones((5, 8), int), TypeError, "centres must be a real-valued tensor"),
    ],
)
def test_bad_data_is_named(x, error, words) -> None:
    with pytest.raises(error, match=words):
        CentreHash(bits=8, steps=5).fit(x)


def test_bad_calls_of_transform_and_save_are_named(tmp_path: Path) -> None:
    x = torch.zeros(5, 4)
    with pytest.raises(InputError, match="transform needs a fitted CentreHash"):
        CentreHash().transform(x)
    with pytest.raises(InputError, match="save needs a fitted CentreHash"):
        CentreHash().save(tmp_path / "x")
    hasher = CentreHash(bits=3, steps=5).fit(torch.eye(4))
    with pytest.raises(InputError, match="X must have the 4 columns this CentreHash was fitted on, got 5"):
        hasher.transform(torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"X must have at least 1 row\(s\)"):
        hasher.transform(x[:0])
    with pytest.raises(InputError, match=r"X has NaN or infinite values in row\(s\) 0"):
        hasher.transform(x / 0)
    with pytest.raises(FileNotFoundError):
        hasher.save(tmp_path / "missing" / "x")
