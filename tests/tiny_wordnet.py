"""A small WordNet of a test's own, in the files and the format in which WordNet is distributed."""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Noun = tuple[Sequence[str], Sequence[int]]  # words, and the positions of the synsets above; ~k: an instance of k

LICENCE = "  1 Made by a test.  \n  2 WordNet {version} Copyright 2006 by Princeton University.  \n"
OTHERS = ("adj", "adv", "verb")
WORDS = ["fox", "foxes", "man", "men", "berry", "goose", "glass", "trouser", "hot_dog", "Hot-Dog", "c.d.", "church", "leaf"]


def write_wordnet(
    folder: Path, nouns: Sequence[Noun], numbers: Sequence[int] | None = None, irregular: Mapping[str, str] | None = None,
    version: str = "3.0",
) -> list[int]:  # fmt: skip
    """Write the folder and return the synsets' numbers: the places of their lines, as they should be, or the ones given."""
    folder.mkdir(parents=True, exist_ok=True)
    licence = LICENCE.format(version=version)
    if numbers is None:  # a line is as long whatever the numbers in it
        numbers, place = [], len(licence)
        for noun in nouns:
            numbers.append(place)
            place += len(_line(noun, [0] * len(nouns), 0))
    lines = [_line(noun, numbers, number) for noun, number in zip(nouns, numbers, strict=True)]
    (folder / "data.noun").write_text(licence + "".join(lines))
    senses: dict[str, list[int]] = {}
    for (words, _), number in zip(nouns, numbers, strict=True):
        for word in words:
            senses.setdefault(word.lower(), []).append(number)
    index = [
        f"{word} n {len(found)} 1 @ {len(found)} 0 {' '.join(f'{number:08d}' for number in found)}  \n"
        for word, found in sorted(senses.items())
    ]
    (folder / "index.noun").write_text(licence + "".join(index))
    (folder / "noun.exc").write_text("".join(f"{form} {base}\n" for form, base in (irregular or {}).items()))
    for name in OTHERS:  # not needed by us
        (folder / f"data.{name}").write_text(licence)
        (folder / f"index.{name}").write_text(licence)
        (folder / f"{name}.exc").write_text("")
    (folder / "lexnames").write_text("".join(f"{k:02d}\tnoun.{k}\t1\n" for k in range(45)))
    return list(numbers)


def _line(noun: Noun, numbers: Sequence[int], number: int) -> str:
    words, above = noun
    pointers = [f"@i {numbers[~k]:08d} n 0000" if k < 0 else f"@ {numbers[k]:08d} n 0000" for k in above]
    each = " ".join(f"{word} {k:x}" for k, word in enumerate(words))
    return f"{number:08d} 03 n {len(words):02x} {each} {len(pointers):03d} {' '.join([*pointers, ''])}| of a test  \n"


def isolated(number: int) -> list[Noun]:
    """Synsets that are near to nothing."""
    return [((f"isolated_{k}",), ()) for k in range(number)]


def random_nouns(seed: int, number: int = 400) -> list[Noun]:
    """Nouns below up to two others, kinds or instances of them, that share some words."""
    draw = random.Random(seed)
    nouns: list[Noun] = [(("entity",), ())]
    for k in range(1, number):
        above = {draw.randrange(max(0, k - 60), k) for _ in range(draw.choice([1, 1, 1, 2]))}
        words = [f"w{k}", *draw.sample(WORDS, draw.choice([0, 0, 1, 2]))]
        nouns.append((words, [~a if draw.random() < 0.1 else a for a in sorted(above)]))
    return nouns


def nltk_wordnet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """NLTK's reader of the folder."""
    import nltk.data  # takes a second
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    monkeypatch.setattr(nltk.data, "path", [str(folder)])  # it reads from these places only
    monkeypatch.setattr(WordNetCorpusReader, "map_wn", lambda self, version="wordnet": None)  # and compares with its own copy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are no other languages
        return WordNetCorpusReader(str(folder), None)
