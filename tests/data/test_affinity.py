"""Reading affinity tables: our own, the published pickles, and what is neither."""

from __future__ import annotations

import os
import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from zsml.data.affinity import Affinity, read_affinity
from zsml.errors import InputError

NAMES = ["pig", "car (sedan)", "hot-air_balloon"]


def published(rows: dict, path: Path, protocol: int = 3) -> Path:
    path.write_bytes(pickle.dumps(rows, protocol=protocol))
    return path


@pytest.fixture
def table() -> torch.Tensor:
    """Three rows of the published values, float64."""
    values = torch.tensor([0, 0, 0, 1 / 4, 1 / 3, 1], dtype=torch.float64)
    return values[torch.randint(6, (3, 1000), generator=torch.Generator().manual_seed(0))]


@pytest.fixture
def saved(tmp_path, table) -> Path:
    Affinity(NAMES, table.float(), {"mode": "last"}).save(tmp_path / "table.npz")
    return tmp_path / "table.npz"


def test_rows_are_picked_by_name(saved, table):
    read = read_affinity(saved, ["hot-air_balloon", "pig"])
    assert read.dtype == torch.float32 and torch.equal(read, table.float()[[2, 0]])
    with np.load(saved) as file:  # for other programs
        assert file["classes"].tolist() == NAMES and file["affinity"].shape == (3, 1000)
        assert str(file["provenance"]) == '{"mode": "last"}'


def test_every_class_without_a_row_is_named(saved):
    with pytest.raises(InputError, match=r"--affinity .*table.npz: no row for 2 of the 3 classes: van, sheep;"):
        read_affinity(saved, ["van", "pig", "sheep"])


@pytest.mark.parametrize("protocol", [3, 4])
def test_published_pickle_in_label_order(tmp_path, table, protocol):
    rows = {label: table[label].numpy() for label in (2, 0, 1)}
    assert torch.equal(read_affinity(published(rows, tmp_path / "mask.pickle", protocol), NAMES), table.float())


def test_pickle_of_numpy_1(tmp_path, table):
    """The published files name numpy.core, which NumPy 2 renamed."""
    data = pickle.dumps({0: table[0].numpy()}, protocol=3).replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert any(arg == "numpy.core.multiarray _reconstruct" for _, arg, _ in pickletools.genops(data))
    (tmp_path / "mask.pickle").write_bytes(data)
    assert torch.equal(read_affinity(tmp_path / "mask.pickle", NAMES[:1]), table[:1].float())


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return os.makedirs, (str(self.canary),)


def test_code_in_a_pickle_is_named_and_not_run(tmp_path, table):
    canary = tmp_path / "canary"
    rows = {0: table[0].numpy(), 1: table[1].numpy(), 2: Hostile(canary)}
    file = published(rows, tmp_path / "mask.pickle")
    with pytest.raises(InputError, match=r"--affinity .*mask.pickle: not read: loading it would run os\.makedirs"):
        read_affinity(file, NAMES)
    assert not canary.exists()
    pickle.loads(file.read_bytes())  # it would have
    assert canary.exists()


@pytest.mark.parametrize(
    "command", [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy.core.multiarray\nfromstring\n"]
)
def test_other_names_are_refused(tmp_path, command):
    (tmp_path / "mask.pickle").write_bytes(b"\x80\x03" + command + b"X\x04\x00\x00\x00true\x85R.")
    with pytest.raises(InputError, match=f"would run {command[1:].decode().strip().replace(chr(10), '.')}"):
        read_affinity(tmp_path / "mask.pickle", NAMES)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "wrong size: it has 0 rows"),
        ({0: 3, 1: 3}, r"wrong size: it has 2 rows for the labels 0\.\.1, and the data has 3 classes"),
        ({k: np.zeros(1000) for k in range(4)}, r"it has 4 rows .* the data has 3 classes"),
        ({k: np.zeros(1000) for k in (1, 2, 3)}, r"for the labels 1\.\.3"),
        ({k: np.zeros(1001) for k in range(3)}, r"row 0 must be a float array \[1000\], got float64 \[1001\]"),
        ({k: np.zeros((1, 1000)) for k in range(3)}, r"got float64 \[1, 1000\]"),
        ({k: np.zeros(1000, dtype=int) for k in range(3)}, r"got int64 \[1000\]"),
        ({k: np.full(1000, None) for k in range(3)}, r"got object \[1000\]"),
        ({k: [0.0] * 1000 for k in range(3)}, "got one list"),
        ({k: np.full(1000, 1.5) for k in range(3)}, "numbers from 0 to 1"),
        ({k: np.full(1000, np.nan) for k in range(3)}, "numbers from 0 to 1"),
        ({"pig": np.zeros(1000)}, "a dict whose keys are str"),
        ({True: np.zeros(1000)}, "a dict whose keys are bool"),
        ([1, 2], "got one list"),
    ],
)
def test_pickles_that_do_not_fit(tmp_path, rows, message):
    with pytest.raises(InputError, match=f"--affinity .*mask.pickle: .*{message}"):
        read_affinity(published(rows, tmp_path / "mask.pickle"), NAMES)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"pig,0.5\n", b"\x80\x03", bytes(2000)])
def test_other_files(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match=r"--affinity .*neither an \.npz table nor a pickled dict of arrays"):
        read_affinity(tmp_path / "t", NAMES)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        read_affinity(tmp_path / "none.npz", NAMES)
    with pytest.raises(InputError, match="is a folder"):
        read_affinity(tmp_path, NAMES)
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 29)
    with pytest.raises(InputError, match="536,870,912 bytes"):
        read_affinity(tmp_path / "huge", NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"affinity": None}, "not a table"),
        ({"affinity": np.zeros((3, 1000))}, r"affinity is float64 \[3, 1000\]"),
        ({"affinity": np.zeros((3, 999), dtype=np.float32)}, r"float32 \[3, 1000\].* got torch.float32 \[3, 999\]"),
        ({"affinity": np.full((3, 1000), None)}, "not a table .*allow_pickle"),
        ({"classes": np.array([1, 2, 3])}, r"classes int64 \[3\]"),
        ({"classes": np.array(["a", "b", "a"])}, "'a' twice"),
        ({"classes": np.array(["a", "b"])}, r"float32 \[2, 1000\]"),
        ({"provenance": np.array("no json")}, "not a table"),
    ],
)
def test_npz_files_that_do_not_fit(tmp_path, change, message):
    arrays = {
        "affinity": np.zeros((3, 1000), dtype=np.float32),
        "classes": np.array(NAMES),
        "provenance": np.array("{}"),
    } | change
    np.savez(tmp_path / "t.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(InputError, match=f"--affinity .*{message}"):
        read_affinity(tmp_path / "t.npz", NAMES)


def test_a_damaged_npz(saved):
    data = bytearray(saved.read_bytes())
    data[60:90] = bytes(30)
    saved.write_bytes(data)
    with pytest.raises(InputError, match=r"--affinity .*not a table"):
        read_affinity(saved, NAMES)


def test_arguments_of_another_kind(saved):
    with pytest.raises(TypeError, match="classes must be a list of class names"):
        read_affinity(saved, "pig")
    with pytest.raises(TypeError, match="classes must be a list of class names"):
        read_affinity(saved, [0, 1])
    with pytest.raises(TypeError, match="table must be a Tensor, got list"):
        Affinity(["a"], [[0.0] * 1000])
