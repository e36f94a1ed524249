"""`zsml data affinity`: how close the classes of a data set are to those of ImageNet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional

from zsml.commands._common import Json, writable
from zsml.engine.config import TrainConfig
from zsml.errors import InputError

if TYPE_CHECKING:
    from zsml.data import ImageDataset
    from zsml.data.affinity import Affinity


@dataclass
class DataAffinity:
    """Make the table of a data set's seen classes and ImageNet's that `zsml train --affinity` takes, from WordNet 3.0.

    No image is opened: the photos' file names and the names of the classes are used.

    Example: zsml data affinity sketchy --root PATH --wordnet /usr/share/wordnet --mode last --out sketchy.npz
    """

    data: Positional[str]
    """Data set, as for `zsml data`."""
    root: Path | None = None
    """Folder that holds the images (synthetic needs none)."""
    lists: Path | None = None
    """Folder that holds the published list files; default: under --root."""
    unseen: tuple[str, ...] = ()
    """Classes kept out of training: their names, or one number of classes to draw (folder, synthetic)."""
    split_seed: int = 0
    """Seed of that draw."""
    wordnet: Path | None = None
    """Folder with data.noun, index.noun and noun.exc of WordNet 3.0; default: $ZSML_WORDNET, or where WordNet usually is."""
    mode: Literal["max", "last"] = "max"
    """Of a class with several WordNet ids: its largest affinity, or that of the last id, as in the published tables."""
    phrases: FlagCreatePairsOff[bool] = False
    """Look for class names in other spellings, too: "hot dog" for "hot_dog" (the published tables do not)."""
    affinity: Path | None = None
    """A published table (.pickle) to give the names of the classes to, instead of making one."""
    out: Path | None = None
    """File to write; default: <data>-affinity.npz."""
    json: Json = False
    """Print the result as JSON."""

    def run(self) -> dict[str, Any]:
        out = self.out or Path(f"{self.data}-affinity.npz")
        if out.suffix != ".npz" or out.is_dir():
            raise InputError(f"--out {str(out)!r} must be a file that ends in .npz")
        if self.affinity is not None and (self.wordnet is not None or self.phrases or self.mode != "max"):
            raise InputError(
                "--affinity takes a table as it is, so that --wordnet, --mode and --phrases have no meaning; leave them out"
            )
        photos = self._photos()
        table = self._published(photos) if self.affinity is not None else self._made(photos)
        with writable(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            table.save(out)
        about = {name: table.provenance.get(name) for name in ("data", "mode", "wordnet", "published")}
        return {"table": str(out), **about, **table.summary()}

    def text(self, result: dict[str, Any]) -> str:
        values = ", ".join(f"{count} of {value}" for value, count in result["values"].items())
        near = f"{result['classes']} classes are near to {result['imagenet_classes']} of ImageNet's: {values}"
        alone = f"\nnear to none: {', '.join(result['near_to_none'])}" if result["near_to_none"] else ""
        return f"{near}{alone}\ntable: {result['table']}"

    def _photos(self) -> ImageDataset:
        """The photos of the seen classes, whether or not their files are there, where lists name them."""
        from zsml.data import load_dataset

        config = TrainConfig(data=self.data, root=self.root, lists=self.lists, unseen=self.unseen, split_seed=self.split_seed)
        config.validate()
        options = config.dataset_options()
        if config.data not in ("folder", "synthetic"):
            options["require_images"] = False
        return load_dataset(config.data, config.root, "train", "photo", transform=None, **options)

    def _made(self, photos: ImageDataset) -> Affinity:
        from zsml.data.affinity_build import build_affinity
        from zsml.data.wordnet import WordNet, find_wordnet

        return build_affinity(photos, WordNet(self.wordnet or find_wordnet()), mode=self.mode, phrases=self.phrases)

    def _published(self, photos: ImageDataset) -> Affinity:
        from zsml.data.affinity import Affinity, read_affinity

        table = read_affinity(self.affinity, photos.classes)
        return Affinity(photos.classes, table, {"data": photos.name, "published": self.affinity.name})
