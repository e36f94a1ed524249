"""An index: embeddings, binary codes and what they are of, in a folder; added to, deleted from, and searched exactly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zsml.errors import InputError
from zsml.retrieval import index_changes as changes
from zsml.retrieval.index_files import MODEL, Manifest, commit, read_manifest, sweep, writing
from zsml.retrieval.index_search import find
from zsml.retrieval.index_shard import Item, Shard, as_dict, check_ids, check_items
from zsml.retrieval.quantize import ITQ

if TYPE_CHECKING:
    from PIL.Image import Image

    from zsml.retrieval.encoder import Encoder


@dataclass(frozen=True)
class Hits:
    """What a search found, nearest first, equally distant items in the order of their ids.

    ids: int64 [Q, k]. distance: [Q, k], Euclidean in float32, or of "bits" the number of differing bits in int32.
    """

    ids: Tensor
    distance: Tensor
    index: Index

    def items(self, q: int = 0) -> list[dict[str, Any]]:
        """The hits of query number q: id, path, label, distance, and what else was stored with the item."""
        found = self.index.items(self.ids[q])
        return [{**item, "distance": value} for item, value in zip(found, self.distance[q].tolist(), strict=True)]


class Index:
    """Embeddings [N, D] of images, their binary codes, and a table of paths and labels, in a folder.

    Open one with `Index.open` or make one with `Index.create`; `add`, `delete` and `rebuild_codes` change the folder, each as a
    whole or, if it is killed, not at all. Ids are given in the order of adding and never again. An index that is open goes on
    seeing the state it opened, whatever another process does; what it writes itself it sees, and all that came before.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> index = Index.create(folder.name, width=2)
    >>> index.add(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), [{"path": "a.jpg", "label": "cat"}, {"path": "b.jpg", "label": "dog"}])
    tensor([0, 1])
    >>> Index.open(folder.name).search(torch.tensor([[0.6, 0.8]]), 1).items()
    [{'id': 0, 'path': 'a.jpg', 'label': 'cat', 'distance': 0.6324555277824402}]
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: list[Shard], quantizer: ITQ | None):
        self.folder = folder
        self._encoders: dict[str, Encoder] = {}
        self._hold(manifest, shards, quantizer)

    def _hold(self, manifest: Manifest, shards: list[Shard], quantizer: ITQ | None) -> None:
        self.manifest, self.shards, self.quantizer = manifest, shards, quantizer

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        width: int,
        dtype: Literal["float16", "float32"] = "float16",
        model: dict[str, Any] | None = None,
        quantizer: ITQ | None = None,
    ) -> Index:
        """Make an empty index.

        Args:
            width: D, length of the embeddings.
            dtype: what they are stored in.
            model: what makes the embeddings, so that images can be searched for: the dict of `zsml.retrieval.encoder.describe`.
                Its folder is copied into the index.
            quantizer: a fitted ITQ that makes the codes; `rebuild_codes` can bring one later.

        Raises:
            TypeError, InputError: a value outside what is listed, an index that is there already, or a folder that holds other
                files or cannot be written.
        """
        changes.create(Path(folder), width, dtype, model, quantizer)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Index:
        """Open an index for searching and changing. Its files are mapped, not read.

        Raises:
            InputError: there is none, it is of another version, or a file is missing, cut short or another one's.
        """
        return cls(Path(folder), *changes.read(Path(folder)))

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __repr__(self) -> str:
        codes = f", {self.bits} bits" if self.bits else ""
        return f"Index({str(self.folder)!r}: {len(self):,} items, width {self.width}, {self.manifest.dtype}{codes})"

    @property
    def width(self) -> int:
        """D, length of the embeddings."""
        return self.manifest.width

    @property
    def bits(self) -> int:
        """Length of the codes; 0: there are none."""
        return self.manifest.bits

    @property
    def model(self) -> dict[str, Any] | None:
        """What made the embeddings, if that is known."""
        return self.manifest.model

    @property
    def ids(self) -> Tensor:
        """The ids of all items, ascending, int64 [N]."""
        return torch.cat([torch.empty(0, dtype=torch.int64), *(shard.id for shard in self.shards)])

    def embeddings(self, ids: Iterable[int] | Tensor) -> Tensor:
        """The embeddings of items, float32 [n, D].

        Raises:
            InputError: an id that the index does not have.
        """
        wanted = check_ids(ids)
        found, seen = torch.empty(len(wanted), self.width), torch.zeros(len(wanted), dtype=torch.bool)
        for shard in self.shards:
            place, row = shard.rows_of(wanted)
            found[place], seen[place] = shard.embedding[row].float(), True
        if not seen.all():
            raise self._unknown(int(wanted[~seen][0]))
        return found

    def items(self, ids: Iterable[int] | Tensor | None = None) -> list[dict[str, Any]]:
        """What items are: id, path, label, and what else was stored with each; all of them, or `ids` in their order.

        Raises:
            InputError: an id that the index does not have.
        """
        if ids is None:
            return [as_dict(item) for shard in self.shards for item in shard.items()]
        wanted = check_ids(ids)
        found: dict[int, Item] = {}
        for shard in self.shards:
            place, _ = shard.rows_of(wanted)
            if len(place):
                found |= {item[0]: item for item in shard.items(wanted[place].unique().tolist())}
        missing = [number for number in wanted.tolist() if number not in found]
        if missing:
            raise self._unknown(missing[0])
        return [as_dict(found[number]) for number in wanted.tolist()]

    def image_path(self, id: int) -> Path:
        """The image file of an item; a path that is not absolute is within the index's folder.

        Raises:
            InputError: no such item, or a path that leads out of the folder or to no file.
        """
        stored = Path(self.items([id])[0]["path"])
        path = stored if stored.is_absolute() else (self.folder / stored).resolve()
        if not stored.is_absolute() and not path.is_relative_to(self.folder.resolve()):
            raise InputError(f"the image of item {id} is said to be at {str(stored)!r}, outside the index")
        if not path.is_file():
            raise InputError(f"the image of item {id} is not at {str(path)!r} any more")
        return path

    def encoder(self, device: torch.device | str = "cpu") -> Encoder:
        """The network that made the embeddings, as a function of images.

        Raises:
            InputError: the index knows none, or model/ holds another one than made the embeddings.
        """
        from zsml.retrieval.encoder import open_encoder

        if self.model is None:
            raise InputError(f"index {str(self.folder)!r} holds no model: search with embeddings, or build it with `zsml index`")
        if str(device) not in self._encoders:
            self._encoders[str(device)] = open_encoder(self.folder / MODEL, self.model, torch.device(device))
        return self._encoders[str(device)]

    def add(self, embeddings: Tensor, items: Sequence[dict[str, Any]], *, once: bool = False) -> Tensor:
        """Append items.

        Args:
            embeddings: real-valued [n, D].
            items: n dicts with a text `path`, a text `label` (or none), and what else JSON holds.
            once: leave out items whose path another process has added since this Index read its folder.

        Returns:
            Their ids, int64 [n], or with `once` of those that were added.

        Raises:
            TypeError, InputError: NaN, infinite values or such as the index's dtype cannot hold, another width, items that do
                not fit, or a folder that cannot be written.
        """
        stored = changes.storable(embeddings, self.manifest)
        check_items(items, len(stored), 0)  # before anything is done
        with self._changing() as moved:
            if once and moved:
                stored, items = changes.not_there(self.shards, stored, items)
            first = self.manifest.next_id
            rows = check_items(items, len(stored), first)
            if rows:
                self._commit(changes.added(self.folder, self.manifest, self.shards, self.quantizer, stored, rows))
        return first + torch.arange(len(stored))

    def delete(self, ids: Iterable[int] | Tensor) -> int:
        """Remove items, their embeddings and codes from the folder, and say how many they were.

        Raises:
            InputError: an id that the index does not have, or a folder that cannot be written; then nothing is deleted.
        """
        wanted = check_ids(ids).unique()
        with self._changing():
            missing = wanted[~torch.isin(wanted, self.ids)]
            if len(missing):
                raise self._unknown(int(missing[0]))
            if len(wanted):
                self._commit(changes.without(self.folder, self.manifest, self.shards, wanted))
        return len(wanted)

    def rebuild_codes(self, quantizer: ITQ | None) -> None:
        """Make the codes of all items anew by a fitted quantiser, or drop them: None.

        Raises:
            TypeError, InputError: not a fitted ITQ, one of another width, or a folder that cannot be written.
        """
        changes.check_quantizer(quantizer, self.width)
        with self._changing():
            self._commit(changes.recoded(self.folder, self.manifest, self.shards, quantizer))

    @contextmanager
    def _changing(self) -> Iterator[bool]:
        """The only writer, at the newest state, and whether that is another's; what a failure left is deleted."""
        with writing(self.folder):
            if moved := read_manifest(self.folder) != self.manifest:
                self._hold(*changes.read(self.folder))
            try:
                yield moved
            except BaseException:
                sweep(self.folder, read_manifest(self.folder))
                raise

    def _commit(self, manifest: Manifest) -> None:
        commit(self.folder, manifest)
        self._hold(*changes.read(self.folder))

    def _unknown(self, number: int) -> InputError:
        return InputError(f"the index has no item {number}; it has {len(self)}, see Index.ids")

    def verify(self) -> list[str]:
        """Read every file of the index as it is on the disk now, and say what is wrong; an empty list: nothing.

        Lengths, SHA-256, ids, the table of items, finite embeddings, codes that are those of the embeddings, the model.
        """
        from zsml.retrieval.index_verify import problems

        return problems(self.folder)

    def search(
        self,
        query: Tensor | Sequence[Image],
        k: int,
        *,
        method: Literal["float", "bits", "rerank"] = "float",
        rerank: int = 200,
        modality: Literal["sketch", "photo"] = "sketch",
        device: torch.device | str = "cpu",
    ) -> Hits:
        """The k items nearest to each query, exactly.

        Args:
            query: embeddings, real-valued [Q, D], or images, which the index's own model embeds on `device`.
            k: how many, at least 1; of an index of fewer items all are found.
            method: "float" Euclidean distance of embeddings; "bits" Hamming distance of codes; "rerank" the `rerank` nearest
                by Hamming distance, or k if that is more, in the order of the Euclidean one.
            modality: what kind the images are.

        Returns:
            Hits of [Q, min(k, N)].

        Raises:
            TypeError, InputError: a value outside what is listed, NaN or infinite queries, or "bits" of an index without codes.
        """
        ids, distance = find(self, query, k, method, rerank, modality, device)
        return Hits(ids, distance, self)
