"""Building the affinity table of a data set: from its classes to noun synsets of WordNet, and from those to ImageNet's classes.

Source: Liu et al., SAKE, ICCV 2019, and its published tables; path similarity: Rada et al., IEEE Trans. SMC 1989.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import zsml
from zsml.data.affinity import IMAGENET_CLASSES, Affinity
from zsml.data.dataset import ImageDataset
from zsml.data.wordnet import VERSION, WordNet, synset_number
from zsml.errors import InputError

MODES = ("last", "max")
FARTHEST = 3  # steps; 1/4 is the least similarity above 0.2
_SYNSET_FILE = re.compile(r"(n\d{8})_\d+")

# Names of TU-Berlin that WordNet has otherwise or means otherwise: the word to look up and which of its senses, from 0.
NAMES = {
    "present": ("present", 1),
    "teddy-bear": ("teddy", 0),
    "flying saucer": ("ufo", 0),
    "potted plant": ("pot_plant", 0),
    "santa claus": ("santa_claus", 0),
    "person walking": ("person", 0),
    "person sitting": ("person", 0),
    "fire hydrant": ("fire_hydrant", 0),
    "outlet": ("wall_socket", 0),
    "flower with stem": ("flower", 0),
    "human-skeleton": ("skeleton", 2),
}

# The list of ImageNet's classes behind the published tables has the machine, class 517, in the place of the bird as well.
CRANE_BIRD, CRANE_MACHINE = 134, 517


def build_affinity(
    data: ImageDataset, wordnet: WordNet, *, mode: str = "max", phrases: bool = False, imagenet: Sequence[str] | None = None
) -> Affinity:
    """How close each class of a data set is to each ImageNet class.

    A class stands for synsets s: those its photos' files are named after (n02395406_33.jpg) or, if there is no such file, the
    first sense of its name. Each has to the synset t of an ImageNet class the affinity

        a(s, t) = 1            if s is t, or one is a kind of the other
                  1 / (1 + d)  if d <= 3: d steps up and then down lead from one to the other
                  0            otherwise

    so that all numbers are 0, 1/4, 1/3 or 1. A class of several synsets has by mode

        "max"    the largest a(s, t);
        "last"   the a(s, t) of the last s, in the order of the files, for which it is not 0, as the published code does it.
                 The table is then the published one, which also takes ImageNet's crane, the bird, for the machine.

    data: photos of the training part; its file names and classes are used, no image is opened.
    phrases: also find a name that WordNet writes with other separators, such as "hot dog" for "hotdog".
    imagenet: WordNet ids of the 1,000 columns; None: those of ImageNet-1k in the usual order.

    Raises InputError for another mode, other than 1,000 ids, or an id that is no noun of this WordNet.

    >>> from zsml.data import load_dataset
    >>> from zsml.data.wordnet import find_wordnet
    >>> photos = load_dataset("folder", "data", "train", "photo")  # doctest: +SKIP
    >>> build_affinity(photos, WordNet(find_wordnet()), mode="max").save("table.npz")  # doctest: +SKIP
    """
    if mode not in MODES:
        raise InputError(f"--mode {mode!r} must be one of {', '.join(map(repr, MODES))}")
    ids = imagenet_ids() if imagenet is None else list(imagenet)
    if len(ids) != IMAGENET_CLASSES:
        raise InputError(f"imagenet must be {IMAGENET_CLASSES} WordNet ids, got {len(ids)}")
    if imagenet is None and mode == "last":
        ids[CRANE_BIRD] = ids[CRANE_MACHINE]
    columns = _Columns(wordnet, ids)
    synsets = {name: class_ids or _named(name, wordnet, phrases) for name, class_ids in file_ids(data).items()}
    table = np.zeros((len(data.classes), IMAGENET_CLASSES))
    for row, name in zip(table, data.classes, strict=True):
        for id in synsets[name]:
            affinity = columns.affinity(_known(id, wordnet, f"the photos of class {name!r} are named after {id}, which"))
            row[:] = np.maximum(row, affinity) if mode == "max" else np.where(affinity > 0, affinity, row)
    maker = f"zsml {zsml.__version__}"
    about = {"maker": maker, "data": data.name, "wordnet": VERSION, "mode": mode, "phrases": phrases, "synsets": synsets}
    return Affinity(list(data.classes), torch.from_numpy(table).float(), about)


def imagenet_ids() -> list[str]:
    """The WordNet ids of ImageNet-1k's classes, tench (0) to toilet tissue (999).

    >>> ids = imagenet_ids()
    >>> len(ids), ids[0], ids[341], ids[999]
    (1000, 'n01440764', 'n02395406', 'n15075141')
    """
    from timm.data import ImageNetInfo  # takes a while to import

    return list(ImageNetInfo("imagenet-1k").label_names())


def file_ids(data: ImageDataset) -> dict[str, list[str]]:
    """Class -> the WordNet ids its files are named after, each once, in the order of their first file."""
    found: dict[str, dict[str, None]] = {name: {} for name in data.classes}
    for path, label in zip(data.paths, data.labels.tolist(), strict=True):
        match = _SYNSET_FILE.fullmatch(Path(path).stem)
        if match:
            found[data.classes[label]][match[1]] = None
    return {name: list(ids) for name, ids in found.items()}


def _named(name: str, wordnet: WordNet, phrases: bool) -> list[str]:
    """The one synset a class name stands for, if WordNet has it."""
    word, sense = NAMES.get(name, (name, 0))
    return [f"n{synset:08d}" for synset in wordnet.senses(word, phrases=phrases)[sense : sense + 1]]


def _known(id: str, wordnet: WordNet, what: str) -> int:
    number = synset_number(id)
    if number not in wordnet.above:
        raise InputError(f"{what} is no noun of WordNet {VERSION} in {str(wordnet.folder)!r}")
    return number


class _Columns:
    """ImageNet's classes as seen from above: for each synset the columns below it, and how far."""

    def __init__(self, wordnet: WordNet, ids: Sequence[str]):
        self._wordnet = wordnet
        self._below: defaultdict[int, dict[int, int]] = defaultdict(dict)  # synset -> {column: steps down}
        self._columns: defaultdict[int, list[int]] = defaultdict(list)  # synset of ImageNet -> its columns
        for column, id in enumerate(ids):
            number = _known(id, wordnet, f"ImageNet's class {column}, {id},")
            self._columns[number].append(column)
            for upper, steps in wordnet.steps_up(number).items():
                self._below[upper][column] = steps

    def affinity(self, synset: int) -> np.ndarray:
        """a(synset, t) of every column t, float64 [1000]."""
        row = np.zeros(IMAGENET_CLASSES)
        above = self._wordnet.steps_up(synset)
        for upper, up in above.items():
            for column, down in self._below.get(upper, {}).items() if up <= FARTHEST else ():
                if up + down <= FARTHEST:
                    row[column] = max(row[column], 1 / (1 + up + down))
        row[list(self._below.get(synset, {}))] = 1
        row[[column for upper in above for column in self._columns.get(upper, ())]] = 1
        return row
