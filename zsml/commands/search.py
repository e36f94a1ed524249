"""`zsml search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from zsml.commands._common import Json, writable
from zsml.errors import InputError


@dataclass
class Search:
    """Find the images of an index that are nearest to sketches or photos.

    Under torchrun every process searches its share of the index, and the first one prints what all of them found.

    Example: zsml search sketch.png --index photos.index -k 20 --html found.html
    """

    ranks: ClassVar[bool] = True  # one of several processes that torchrun started may run it

    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="QUERY")]
    """Images, folders of images, or text files that name an image per line."""
    index: Path
    """Folder that `zsml index` wrote."""
    k: Annotated[int, arg(aliases=["-k"])] = 20
    """Images to find for each query."""
    bits: FlagCreatePairsOff[bool] = False
    """Search by binary codes instead of embeddings."""
    rerank: int | None = None
    """Search by binary codes, then order this many of the nearest by their embeddings."""
    modality: Literal["sketch", "photo"] = "sketch"
    """What kind the queries are."""
    sheet: Path | None = None
    """Also write a contact sheet: queries and what was found, as one picture (.png or .jpg)."""
    html: Path | None = None
    """Also write the same as a page that holds its pictures."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where queries are embedded: auto takes a GPU if there is one."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        from zsml.data.decode import decode
        from zsml.engine.distributed import join
        from zsml.engine.indexing import find_images
        from zsml.retrieval.index import Hits, Index
        from zsml.retrieval.index_search import check_request, find

        if self.bits and self.rerank is not None:
            raise InputError("--bits and --rerank exclude each other: --rerank searches by codes first in any case")
        if self.sheet is not None and self.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise InputError(f"--sheet must end in .png or .jpg, got {str(self.sheet)!r}")
        method, rerank = ("bits" if self.bits else "float" if self.rerank is None else "rerank"), self.rerank or 0
        rerank = 1 if self.rerank is None else rerank
        with join(self.device) as team:
            with team.together():
                index = Index.open(self.index)
                if not len(index):
                    raise InputError(f"the index {str(self.index)!r} is empty; `zsml index` adds images to it")
                check_request(index, self.k, method, rerank)
                paths = list(find_images(self.images))
                queries = index.encoder(team.device)([decode(path) for path in paths], self.modality)
            ids, distance = find(index, queries, self.k, method, rerank, self.modality, "cpu", spread=team.size > 1)
            first = team.first
        hits = Hits(ids, distance, index)
        found = [{"query": path, "hits": hits.items(q)} for q, path in enumerate(paths)]
        result = {"index": str(self.index), "method": method, "queries": found}
        return self._pictures(result) if first else result

    def _pictures(self, result: dict[str, Any]) -> dict[str, Any]:
        from zsml.retrieval.sheet import contact_page, contact_sheet

        for flag, make in (("sheet", contact_sheet), ("html", contact_page)):
            path = getattr(self, flag)
            if path is not None:
                with writable(path):
                    make(path, result["queries"], result["method"])
                result[flag] = str(path)
        return result

    def text(self, result: dict[str, Any]) -> str:
        from zsml.engine.log import printable

        lines = []
        for query in result["queries"]:
            lines.append(printable(query["query"]))
            for rank, hit in enumerate(query["hits"], 1):
                distance = hit["distance"]
                shown = f"{distance:7d}" if isinstance(distance, int) else f"{distance:7.4f}"
                lines.append(f"{rank:5d} {shown}  {printable(hit['label']):<16}  {printable(hit['path'])}")
        return "\n".join([*lines, *(str(result[flag]) for flag in ("sheet", "html") if flag in result)])
