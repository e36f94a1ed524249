"""Queries of clients to answers, a few at a time."""

from __future__ import annotations

import time
from collections import OrderedDict
from pathlib import PurePath
from typing import Any

import anyio
import anyio.to_thread
import torch

from zsml.data.decode import decode
from zsml.errors import DamagedIndex, InputError
from zsml.serve.limits import Gate, Limits, Refused
from zsml.serve.meter import Meter
from zsml.serve.uploads import read_image, thumbnail

METHODS = ("float", "bits", "rerank")


class Searcher:
    """An index, its encoder, and the gate before them.

    Raises:
        InputError: the index has no model, or it is damaged.
    """

    SIDES = (128, 256, 512, 1024)  # of thumbnails: few, so that what is asked for again is mostly there
    KEPT_BYTES = 32 << 20  # of thumbnails, some 10 kB each at the page's side of 256

    def __init__(self, index: Any, limits: Limits, device: torch.device, meter: Meter):
        self.index, self.limits, self.device, self.meter = index, limits, device, meter
        self.encoder = index.encoder(device)
        self.gate = Gate(limits.running, limits.waiting)
        self._thumbnails: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._thumbnail_bytes = 0
        self._decoding: anyio.CapacityLimiter | None = None

    @property
    def bits(self) -> int:
        """Of a binary code; 0: the index has none."""
        return int(self.index.bits or 0)

    @property
    def sheet(self) -> int:
        """Side of the picture a drawing becomes, in pixels: what the network takes, so that nothing is resized."""
        return self.encoder.preprocessing.image_size

    def methods(self) -> list[str]:
        """What this index can be searched by."""
        return list(METHODS if self.bits else METHODS[:1])

    def check(self, k: int, method: str, rerank: int) -> None:
        """Refuse what cannot be answered.

        Raises:
            InputError: k, the method or the number of candidates is none this server takes.
        """
        if not 1 <= k <= self.limits.results:
            raise InputError(f"k={k} must be from 1 to {self.limits.results}")
        if method not in METHODS:
            raise InputError(f"method={method!r} is not known; choose from {', '.join(METHODS)}")
        if method not in self.methods():
            raise InputError(f"method={method!r} needs binary codes, and this index was made without; choose float")
        if not 1 <= rerank <= 50 * self.limits.results:
            raise InputError(f"rerank={rerank} must be from 1 to {50 * self.limits.results}")

    async def answer(self, query: Any, *, modality: str, k: int, method: str, rerank: int, gone: Any) -> dict[str, Any]:
        """What is nearest to `query`: a PIL image, bytes of an image file, the id of an item, or a function that draws it.

        gone: awaited before the work begins; True: the client does not wait any more.

        Raises:
            InputError: the query cannot be used.
            Refused: too many searches wait, there is no such item, the upload is no image, or the index is damaged.
        """
        self.check(k, method, rerank)
        async with self.gate.enter():
            if await gone():
                raise Refused(400, "the client went away")
            return await anyio.to_thread.run_sync(self._answer, query, modality, k, method, rerank)

    def _answer(self, query: Any, modality: str, k: int, method: str, rerank: int) -> dict[str, Any]:
        began = time.perf_counter()
        embedding = self._embedding(query, modality)  # [1, D]
        encoded = time.perf_counter()
        k = min(k, len(self.index))
        try:
            hits = self.index.search(embedding, k, method=method, rerank=max(k, rerank)).items(0) if k else []
        except DamagedIndex as error:  # no fault of the client's
            raise _damaged() from error
        found = time.perf_counter()
        self.meter.time("encode", encoded - began)
        self.meter.time("search", found - encoded)
        return {
            "results": [_shown(hit) for hit in hits],
            "method": method,
            "bits": self.bits if method == "bits" else None,
            "size": len(self.index),
            "encode_ms": round(1000 * (encoded - began), 2),
            "search_ms": round(1000 * (found - encoded), 2),
        }

    @torch.inference_mode()
    def _embedding(self, query: Any, modality: str) -> torch.Tensor:
        if isinstance(query, int):
            return self._of_item(query)
        if isinstance(query, bytes):
            query = read_image(query, self.limits.pixels)
        return self.encoder([query() if callable(query) else query], modality)

    def _of_item(self, number: int) -> torch.Tensor:
        try:
            embedding = self.index.embeddings([number])
        except InputError as error:
            raise Refused(404, f"the index has no item {number}") from error
        if not embedding.isfinite().all():
            raise _damaged()
        return embedding

    async def thumbnail(self, number: int, side: int) -> bytes:
        """JPEG of an item's image, `side` rounded up to the next of SIDES.

        Raises:
            Refused: 404, no such item, or its file is not there any more.
        """
        side = next((known for known in self.SIDES if known >= side), self.SIDES[-1])
        if (number, side) in self._thumbnails:
            self._thumbnails.move_to_end((number, side))
            return self._thumbnails[number, side]
        if self._decoding is None:
            self._decoding = anyio.CapacityLimiter(2)
        data = await anyio.to_thread.run_sync(self._thumbnail, number, side, limiter=self._decoding)
        self._keep((number, side), data)
        return data

    def _keep(self, key: tuple[int, int], data: bytes) -> None:
        """Keep a thumbnail; those not asked for for longest make room."""
        self._thumbnail_bytes += len(data) - len(self._thumbnails.pop(key, b""))  # two clients may have asked for it at once
        self._thumbnails[key] = data
        while self._thumbnail_bytes > self.KEPT_BYTES:
            self._thumbnail_bytes -= len(self._thumbnails.popitem(last=False)[1])

    def _thumbnail(self, number: int, side: int) -> bytes:
        try:
            return thumbnail(decode(self.index.image_path(number)), side)
        except InputError as error:  # its message has the path, which is nobody's business
            raise Refused(404, f"there is no image of an item {number}") from error


def _damaged() -> Refused:
    return Refused(500, "the index is damaged: it holds embeddings that are not finite; run `zsml index verify`")


def _shown(hit: dict[str, Any]) -> dict[str, Any]:
    """What a client is told of a hit: the name of its file, not where it lies."""
    distance = hit["distance"]
    return {
        "id": int(hit["id"]),
        "label": str(hit["label"] or ""),
        "name": PurePath(hit["path"]).name,
        "distance": int(distance) if isinstance(distance, int) else round(float(distance), 6),
    }
