"""An index that is killed, damaged, of another version, or on a disk that takes no more; and one of ten million codes."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from zsml.errors import InputError
from zsml.quantize import ITQ
from zsml.retrieval import Index, index_files
from zsml.retrieval.index_files import Entry, ShardEntry, commit, write_file
from zsml.retrieval.index_verify import problems

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # which only a power cut could tell


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(seed))


def filled(folder: Path, n: int = 20) -> Index:
    index = Index.create(folder, width=16, quantizer=ITQ(8, iterations=1).fit(rows(50)))
    index.add(rows(n), [{"path": f"{i}", "label": "x"} for i in range(n)])
    return index


def test_killed_at_any_moment_it_is_readable(tmp_path):
    """kill -9 of a process that adds, deletes and recodes; see kill_index.py, which can do so for hours."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)])}
    command = [sys.executable, HERE / "kill_index.py", tmp_path / "index", "15"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "no change was ever finished"


class Stop(BaseException):
    pass


@pytest.mark.parametrize("change", ["add", "delete", "codes"])
def test_stopped_before_each_step_it_is_as_before_or_after(tmp_path, monkeypatch, change):
    """Every call that puts a file in its place or takes one away, in turn the last one that is made."""
    changes = {
        "add": lambda index: index.add(rows(30), [{"path": "new"}] * 30),
        "delete": lambda index: index.delete([0, 5, 19]),
        "codes": lambda index: index.rebuild_codes(ITQ(12, iterations=1).fit(rows(50))),
    }
    left, states = [10**6], set()

    def counted(call):
        def step(*arguments, **options):
            if left[0] == 0:
                raise Stop
            left[0] -= 1
            return call(*arguments, **options)

        return step

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(os, "fsync", counted(lambda _: None))
    start = filled(tmp_path / "start")
    for steps in range(100):
        left[0] = 10**6
        index = Index.open(shutil.copytree(start.folder, tmp_path / str(steps)))
        left[0] = steps
        try:
            changes[change](index)
        except Stop:
            left[0] = 10**6
            found = Index.open(index.folder)
            assert found.verify() == []
            states.add((len(found), found.bits))
            changes["add"](found)  # and it can be written again
            continue
        break
    before, after = (20, 8), {"add": (50, 8), "delete": (17, 8), "codes": (20, 12)}[change]
    assert steps > 5 and states == {before, after}


def test_ten_million_codes_open_in_less_than_a_second(tmp_path):
    n, shard = 10_000_000, 1 << 18
    index = Index.create(tmp_path, width=64, quantizer=ITQ(64, iterations=1).fit(torch.randn(100, 64)))
    data = np.random.default_rng(0).integers(0, 256, (shard, 8), dtype=np.uint8)
    entries = []
    for number, start in enumerate(range(0, n, shard)):
        count = min(shard, n - start)
        name = f"shards/00000001-{number}"
        ids = torch.arange(start, start + count).numpy().tobytes()
        entries.append(
            ShardEntry(
                count,
                _written(tmp_path, f"{name}.rows", count, ids, {"embedding": ("F16", [count, 64]), "id": ("I64", [count])}),
                _written(tmp_path, f"{name}.items", count, b"", {}),
                _written(tmp_path, f"{name}.codes", count, data[:count].tobytes(), {"code": ("U8", [count, 8])}),
            )
        )
    commit(tmp_path, replace(index.manifest, generation=1, next_id=n, shards=tuple(entries)))
    start = time.perf_counter()
    opened = Index.open(tmp_path)
    seconds = time.perf_counter() - start
    assert len(opened) == n and opened.bits == 64
    assert seconds < 1
    assert opened.shards[-1].code.shape == (n - 38 * shard, 8)


def _written(folder: Path, name: str, count: int, end: bytes, tensors: dict) -> Entry:
    """A safetensors file whose last tensor is `end`, and whose others are zeros that take no room on the disk."""
    header, at = {}, 0
    for tensor, (dtype, shape) in tensors.items():
        size = int(np.prod(shape)) * {"F16": 2, "I64": 8, "U8": 1}[dtype]
        header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path = folder / f"{name}.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(at - len(end), os.SEEK_CUR)
        file.write(end)
    return Entry(f"{name}.safetensors", path.stat().st_size, "")


def test_an_index_of_another_version_or_kind_is_refused(tmp_path):
    filled(tmp_path)
    path = tmp_path / "manifest.json"
    good = json.loads(path.read_text())
    shard = good["shards"][0]
    outside = {**shard, "rows": {**shard["rows"], "file": "../../etc/passwd"}}
    for changes, message in [
        ({"version": 2}, "is of version 2, this zsml reads version 1"),
        ({"format": "else"}, "is not the manifest of an index"),
        ({"width": 0}, "is damaged"),
        ({"width": 8}, "holds .* not"),
        ({"dtype": "int8"}, "is damaged: .*dtype 'int8'"),
        ({"bits": -1}, "is damaged: .*bits is -1"),
        ({"bits": 16}, "is damaged"),
        ({"next_id": 3}, "the ids of its shards do not ascend"),
        ({"quantizer": None}, "it has codes and no quantiser"),
        ({"model": "net"}, "model is a str"),
        ({"shards": [outside]}, "'../../etc/passwd' is not the name of a file of an index"),
        ({"shards": [{**shard, "count": 0}]}, "shard 1 is incomplete"),
        ({"shards": [{**shard, "count": 21}]}, "holds .* not"),
        ({"shards": [shard, shard]}, "the ids of its shards do not ascend"),
        ({"shards": 7}, "is damaged"),
    ]:
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(InputError, match=message):
            Index.open(tmp_path)
        assert len(found := problems(tmp_path)) == 1 and re.search(message, found[0])
    for data in (b"", b"[1]", b"\xff{", b"[" * 200_000):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is not the manifest of an index"):
            Index.open(tmp_path)


@pytest.mark.parametrize("kind", ["rows", "items", "codes", "quantizer"])
def test_files_missing_cut_short_or_changed(tmp_path, kind):
    index = filled(tmp_path)
    entry = index.manifest.quantizer if kind == "quantizer" else getattr(index.manifest.shards[0], kind)
    path = tmp_path / entry.file
    data = path.read_bytes()
    path.unlink()
    _refused(tmp_path, f"{entry.file} is missing")
    path.write_bytes(data[:-1])
    _refused(tmp_path, f"{entry.file} has {len(data) - 1} bytes, not {len(data)}")
    path.write_bytes(bytes(len(data)))
    assert problems(tmp_path) == [f"{entry.file} has changed: its SHA-256 is not the one it was written with"]
    if kind == "items":
        with pytest.raises(InputError, match=r"is damaged: .*items\.sqlite"):
            Index.open(tmp_path).items()
    else:
        with pytest.raises(InputError, match=re.escape(entry.file)):
            Index.open(tmp_path)
    path.write_bytes(data)
    assert problems(tmp_path) == [] and len(Index.open(tmp_path).items()) == 20


def _refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Index.open(folder)
    assert any(message in problem for problem in problems(folder))


def test_verify_sees_what_no_length_tells(tmp_path):
    index = filled(tmp_path)
    shard = index.manifest.shards[0]
    codes = load_file(tmp_path / shard.codes.file)["code"]
    codes[3] ^= 1
    entry = write_file(tmp_path, shard.codes.file, lambda path: save_file({"code": codes}, path))
    commit(tmp_path, replace(index.manifest, shards=(replace(shard, codes=entry),)))
    assert index.verify() == [f"{shard.codes.file} are not the codes of {shard.rows.file}; `zsml index codes` makes them anew"]
    index = Index.open(tmp_path)
    index.rebuild_codes(index.quantizer)
    assert index.verify() == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_takes_nothing_leaves_the_index(tmp_path, monkeypatch, code):
    index = filled(tmp_path)

    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    for owner, name in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            for change in (
                lambda: index.add(rows(3), [{"path": "new"}] * 3),
                lambda: index.delete([0]),
                lambda: index.rebuild_codes(ITQ(4, iterations=1).fit(rows(50))),
            ):
                with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}; it stays as it was"):
                    change()
        assert len(index) == 20 and problems(tmp_path) == []
        named = {entry.file for entry in index.manifest.files} | {"manifest.json", ".lock"}
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == named


def test_a_full_disk_in_the_middle_of_a_file(tmp_path):
    """A real limit: files of this process may not grow beyond 100,000 bytes."""
    index = filled(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written: .*; it stays as it was"):
            index.add(rows(10_000), [{"path": "new"}] * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert problems(tmp_path) == [] and len(Index.open(tmp_path)) == 20
    assert index.add(rows(10_000), [{"path": "new"}] * 10_000)[-1] == 10_019


def test_one_writer_at_a_time(tmp_path):
    index = filled(tmp_path)
    with index_files.writing(tmp_path), pytest.raises(InputError, match="is being written by another process"):
        index.delete([0])
    assert index.delete([0]) == 1


@pytest.mark.parametrize("method", ["float", "rerank"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_search_stops_at_embeddings_that_damage_made_no_numbers(tmp_path, method, value):
    """The file keeps its length, so that the index opens."""
    shard = filled(tmp_path, 300).manifest.shards[0]
    path = tmp_path / shard.rows.file
    held = load_file(path)
    held["embedding"][7, 2] = value
    save_file({name: tensor.clone() for name, tensor in held.items()}, path)
    with pytest.raises(InputError, match=f"damaged: {re.escape(shard.rows.file)} has NaN .* `zsml index verify`"):
        Index.open(tmp_path).search(rows(2, seed=5), 3, method=method, rerank=300)
