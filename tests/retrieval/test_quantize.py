"""ITQ: the objective it lowers, the released variant, codes, files, bad input."""

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
from zsml.ops.hamming import unpack_bits
from zsml.quantize import ITQ


def clusters(rows: int = 600, width: int = 32, classes: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors around class centres, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=generator)
    labels = torch.arange(rows) % classes
    x = centres[labels] + 0.9 * torch.randn(rows, width, generator=generator) + 0.5
    return torch.nn.functional.normalize(x), labels


def numpy_itq(
    x: np.ndarray, bits: int, iterations: int, seed: int, transposed: bool
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """The textbook loop: (V, R, errors). ``transposed`` takes numpy's third svd factor for its transpose."""
    x = x.astype(np.float64) - x.astype(np.float64).mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    vectors = vectors[:, np.argsort(-values)[:bits]]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(bits)])
    v = x @ vectors
    rotation = np.linalg.svd(np.random.RandomState(seed).randn(bits, bits))[0]
    errors = []
    for _ in range(iterations):
        b = np.where(v @ rotation >= 0, 1.0, -1.0)
        u, _, vt = np.linalg.svd(b.T @ v)
        rotation = (vt if transposed else vt.T) @ u.T
        errors.append(float(((np.where(v @ rotation >= 0, 1.0, -1.0) - v @ rotation) ** 2).mean()))
    return v, rotation, errors


@pytest.mark.parametrize("update", ["procrustes", "released"])
@pytest.mark.parametrize("bits", [1, 13, 32])
def test_matches_the_textbook_loop(update: str, bits: int) -> None:
    x, _ = clusters()
    itq = ITQ(bits=bits, iterations=6, seed=50, update=update).fit(x)
    v, rotation, errors = numpy_itq(x.numpy(), bits, 6, 50, update == "released")
    np.testing.assert_allclose(itq.rotation.numpy(), rotation, atol=1e-8)
    np.testing.assert_allclose(itq.quantization_error, errors, atol=1e-10)
    codes = itq.transform(x)
    assert codes.dtype == torch.uint8 and codes.shape == (600, math.ceil(bits / 8))
    np.testing.assert_array_equal(unpack_bits(codes, bits).numpy(), v @ rotation > 0)


@pytest.mark.parametrize("update", ["procrustes", "released"])
def test_factors_are_orthonormal_and_deterministic(update: str) -> None:
    x, _ = clusters()
    itq = ITQ(bits=24, update=update).fit(x)
    torch.testing.assert_close(itq.rotation.T @ itq.rotation, torch.eye(24).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(itq.projection.T @ itq.projection, torch.eye(24).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(itq.mean, x.double().mean(0), rtol=0, atol=1e-15)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = ITQ(bits=24, update=update).fit(x)
    assert torch.equal(again.rotation, itq.rotation)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    assert not torch.equal(ITQ(bits=24, update=update, seed=1).fit(x).rotation, itq.rotation)


def test_only_the_procrustes_error_falls_steadily() -> None:
    x, _ = clusters(rows=1500, width=64)
    right, released = (ITQ(bits=64, update=update).fit(x).quantization_error for update in ("procrustes", "released"))
    assert len(right) == len(released) == 50
    assert (np.diff(right) <= 1e-12).all()
    assert not (np.diff(released) <= 1e-12).all()
    assert right[-1] < right[0] and right[-1] < min(released)


def test_codes_retrieve_better_than_those_of_a_random_rotation() -> None:
    x, labels = clusters(rows=700)
    query, gallery = x[:200], x[200:]

    def score(itq: ITQ) -> float:
        codes = itq.fit(gallery).transform(query), itq.transform(gallery)
        return evaluate_retrieval(codes[0], labels[:200], codes[1], labels[200:], distance="hamming").map

    random = np.mean([score(ITQ(bits=16, iterations=0, seed=seed)) for seed in range(5)])
    learned = np.mean([score(ITQ(bits=16, seed=seed)) for seed in range(5)])
    assert learned > random + 0.02


def test_own_centre_subtracts_the_mean_of_what_is_encoded() -> None:
    x, _ = clusters()
    itq = ITQ(bits=16).fit(x)
    shifted = x[:100].double() + 3.0
    moved = shifted - shifted.mean(0) + itq.mean
    assert torch.equal(itq.transform(shifted, center="own"), itq.transform(moved))
    assert not torch.equal(itq.transform(shifted), itq.transform(moved))
    assert torch.equal(itq.transform(x, center="own"), itq.transform(x))


def test_precisions_and_empty_directions() -> None:
    x, _ = clusters()
    itq = ITQ(bits=8, iterations=3).fit(x.bfloat16())
    assert itq.rotation.dtype == torch.float64
    assert torch.equal(itq.transform(x.bfloat16()), itq.transform(x.bfloat16().double()))
    flat = torch.zeros(50, 10)
    flat[:, 0] = torch.linspace(-1, 1, 50)  # one direction for four bits
    codes = ITQ(bits=4).fit(flat).transform(flat)
    assert codes.shape == (50, 1) and len(codes.unique()) >= 2


def test_save_and_load(tmp_path: Path) -> None:
    x, _ = clusters()
    itq = ITQ(bits=20, iterations=7, seed=3, update="released").fit(x)
    path = tmp_path / "codes.safetensors"
    itq.save(path)
    itq.save(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["codes.safetensors"]
    loaded = ITQ.load(path)
    assert repr(loaded) == repr(itq) and loaded.quantization_error == itq.quantization_error
    assert torch.equal(loaded.transform(x), itq.transform(x))
    assert torch.equal(loaded.mean, itq.mean)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = clusters()
    path = tmp_path / "codes.safetensors"
    ITQ(bits=8).fit(x).save(path)
    before = path.read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ITQ(bits=16).fit(x).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(InputError, match="no ITQ file at"):
        ITQ.load(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(InputError, match="is not a safetensors file"):
        ITQ.load(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"is of kind None, not 'zsml\.itq'"):
        ITQ.load(path)

    good = tmp_path / "good"
    ITQ(bits=4).fit(clusters()[0]).save(good)
    tensors = load_file(good)
    settings = {"bits": 4, "iterations": 50, "seed": 0, "update": "procrustes", "quantization_error": []}

    def refused(words: str, tensors: dict, settings: object) -> None:
        save_file(tensors, path, {"kind": "zsml.itq", "settings": json.dumps(settings)})
        with pytest.raises(InputError, match=words):
            ITQ.load(path)

    refused("must hold exactly the tensors", {**tensors, "extra": torch.zeros(1)}, settings)
    refused("must hold exactly the tensors", {k: v for k, v in tensors.items() if k != "mean"}, settings)
    refused("must hold exactly the tensors", tensors, settings | {"bits": 5})
    refused("rotation must be finite float64", tensors | {"rotation": tensors["rotation"] * math.nan}, settings)
    refused("mean must be finite float64", tensors | {"mean": tensors["mean"].float()}, settings)
    refused("unusable settings", tensors, settings | {"update": "newest"})
    refused("unusable settings", tensors, settings | {"whiten": True})
    refused("unusable settings", tensors, [1, 2])


X = torch.zeros(5, 4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bits": 0}, InputError, "bits must be 1 to"),
        ({"bits": 8.0}, TypeError, "bits must be an int, got 8"),
        ({"iterations": -1}, InputError, "iterations must be 0 to"),
        ({"seed": -1}, InputError, "seed must be 0 to 4294967295"),
        ({"update": "svd"}, InputError, "update must be one of 'procrustes', 'released', got 'svd'"),
    ],
)
def test_bad_settings_are_named(options, error, words) -> None:
    with pytest.raises(error, match=words):
        ITQ(**options)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.randn(50, 7), InputError, "bits=8 needs embeddings of at least that width, got X with 7"),
        (torch.randn(1, 8), InputError, r"X must have at least 2 row\(s\)"),
        (torch.randn(8), InputError, r"X must have shape \[rows, D\]"),
        (torch.full((5, 8), 0.1), InputError, "X has identical rows only"),
        (torch.full((5, 8), math.nan), InputError, r"X has NaN or infinite values in row\(s\) 0, 1"),
        (torch.ones(5, 8).int(), TypeError, "X must be a real-valued tensor"),
        ([[1.0] * 8] * 5, TypeError, "X must be a torch tensor"),
        (np.ones((5, 8), int), TypeError, "X must be a real-valued tensor"),
    ],
)
def test_bad_data_is_named(x, error, words) -> None:
    with pytest.raises(error, match=words):
        ITQ(bits=8).fit(x)


def test_bad_calls_of_transform_and_save_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="transform needs a fitted ITQ"):
        ITQ().transform(X)
    with pytest.raises(InputError, match="save needs a fitted ITQ"):
        ITQ().save(tmp_path / "x")
    itq = ITQ(bits=3).fit(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(InputError, match="X must have the 4 columns this ITQ was fitted on, got 5"):
        itq.transform(torch.zeros(2, 5))
    with pytest.raises(InputError, match="center must be 'fit' or 'own', got 'query'"):
        itq.transform(X, center="query")
    with pytest.raises(InputError, match=r"X must have at least 1 row\(s\)"):
        itq.transform(X[:0])
    with pytest.raises(InputError, match=r"X has NaN or infinite values in row\(s\) 0"):
        itq.transform(X / 0)
    with pytest.raises(FileNotFoundError):
        itq.save(tmp_path / "missing" / "x")
