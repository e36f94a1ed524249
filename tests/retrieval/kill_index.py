"""Kills a process that changes an index, again and again, and looks at what is left: `python kill_index.py FOLDER KILLS`.

A child adds, deletes and recodes without end. An index is right if it is whole and its items are consecutive blocks of 8, as
every change leaves them.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from zsml.quantize import ITQ
from zsml.retrieval import Index

os.fsync = lambda _: None  # only a power cut can tell, and it makes many more kills
torch.set_num_threads(1)  # or a forked child would wait for threads it does not have
BLOCK = 8


def change_for_ever(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    quantizers = [ITQ(bits, iterations=1).fit(torch.randn(50, 16)) for bits in (8, 12)]
    while True:
        index = Index.open(folder)
        index.add(torch.randn(BLOCK, 16), [{"path": f"{n}", "label": "x" * 100} for n in range(BLOCK)])
        index.rebuild_codes(draw.choice(quantizers))
        if len(index) > 5 * BLOCK:
            first = int(index.ids[draw.randrange(len(index) // BLOCK) * BLOCK])
            index.delete(range(first, first + BLOCK))


def check(folder: Path, before: int) -> int:
    index = Index.open(folder)
    found = index.verify()
    assert found == [], found
    ids = index.ids.reshape(-1, BLOCK)
    assert ((ids - ids[:, :1]) == torch.arange(BLOCK)).all(), ids
    assert index.manifest.generation >= before
    assert [item["id"] for item in index.items()] == index.ids.tolist()
    if len(index):
        assert index.search(index.embeddings(index.ids[:1]), 1).ids.item() == int(index.ids[0])
    return index.manifest.generation


def main(folder: Path, kills: int) -> None:
    Index.create(folder, width=16, quantizer=ITQ(8, iterations=1).fit(torch.randn(50, 16)))
    generation = 0
    for number in range(kills):
        child = os.fork()
        if child == 0:
            try:
                change_for_ever(folder, number)
            finally:
                os._exit(1)
        time.sleep(random.Random(number).uniform(0.01, 0.1))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself"
        generation = check(folder, generation)
    print(generation)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
