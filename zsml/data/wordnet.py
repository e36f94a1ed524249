"""The nouns of WordNet 3.0, read from the folder it is distributed as (data.noun, index.noun, noun.exc).

Read here and not through a package: these three files are all that is needed, in a format that does not change, while the usual
package also asks for files that not every distribution has, and for folders of its own. Format: wndb(5WN) and morphy(7WN) of
WordNet; Miller, WordNet, CACM 1995.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TypeVar

from zsml.errors import InputError

VERSION = "3.0"  # the numbers of ImageNet's classes are positions in this version's file
WHERE = "it comes with Debian's package wordnet-base, NLTK's corpora/wordnet, or https://wordnet.princeton.edu (folder dict/)"
Entry = TypeVar("Entry")
_ABOVE = ("@", "@i")  # is a kind of, is an instance of
# Endings of inflected nouns and what stands in their place in the base form, as WordNet's own look-up tries them.
_ENDINGS = {"s": "", "ses": "s", "ves": "f", "xes": "x", "zes": "z", "ches": "ch", "shes": "sh", "men": "man", "ies": "y"}


class WordNet:
    """What is above each noun synset, and the synsets of a word, most frequent sense first. A synset is its number, an int.

    folder: holds data.noun, index.noun and noun.exc of WordNet 3.0.

    Raises InputError (naming --wordnet) for a missing or damaged file or another version.

    >>> WordNet("no/such/folder")
    Traceback (most recent call last):
    zsml.errors.InputError: --wordnet 'no/such/folder' is no folder; it must hold data.noun, index.noun and noun.exc of ...
    """

    def __init__(self, folder: str | os.PathLike[str]):
        folder = Path(folder)
        if not folder.is_dir():
            raise _refused(f"{str(folder)!r} is no folder; it must hold data.noun, index.noun and noun.exc of WordNet {VERSION}")
        _check_version(folder)
        self.folder = folder
        self.above: dict[int, list[int]] = dict(_entries(folder / "data.noun", _synset))
        self._senses: dict[str, list[int]] = dict(_entries(folder / "index.noun", _word))
        self._irregular: dict[str, list[str]] = dict(_entries(folder / "noun.exc", _exception))
        self._squeezed: dict[str, str] = {}

    def senses(self, name: str, *, phrases: bool = False) -> list[int]:
        """The synsets of a noun in the order of its senses, those of its base forms behind; [] if WordNet has no such word.

        phrases: if the name is not found, look for it with other or no separators: blank, underscore, hyphen, full stop.
        """
        name = name.lower()
        regular = [name[: -len(end)] + base for end, base in _ENDINGS.items() if name.endswith(end)]
        forms = dict.fromkeys([name, *self._irregular.get(name, regular)])
        found = [synset for form in forms for synset in self._senses.get(form, ())]
        if found or not phrases:
            return found
        if not self._squeezed:
            self._squeezed = {_squeeze(word): word for word in reversed(self._senses)}
        word = self._squeezed.get(_squeeze(name), name)
        return list(self._senses.get(word, ()))

    def steps_up(self, synset: int) -> dict[int, int]:
        """Every synset above this one, itself included, with the least number of steps to it."""
        steps, level = {synset: 0}, [synset]
        for distance in count(1):
            level = [upper for lower in level for upper in self.above.get(lower, ()) if upper not in steps]
            if not level:
                return steps
            steps.update(dict.fromkeys(level, distance))


def find_wordnet() -> Path:
    """The folder of a WordNet on this machine: $ZSML_WORDNET, $WNHOME/dict, where Debian has it, or NLTK's data.

    Raises InputError if none of them holds data.noun.
    """
    env = os.environ
    if env.get("ZSML_WORDNET"):
        return Path(env["ZSML_WORDNET"])
    nltk = [*filter(None, env.get("NLTK_DATA", "").split(os.pathsep)), "~/nltk_data", "/usr/share/nltk_data"]
    folders = [Path(env["WNHOME"], "dict")] if env.get("WNHOME") else []
    folders += [Path("/usr/share/wordnet"), *(Path(folder).expanduser() / "corpora" / "wordnet" for folder in nltk)]
    for folder in folders:
        if (folder / "data.noun").is_file():
            return folder
    raise _refused(f"is missing and no WordNet was found in {', '.join(map(str, folders))}")


def synset_number(id: str) -> int:
    """The number in an id of ImageNet.

    >>> synset_number("n02395406")
    2395406
    """
    return int(id[1:])


def _squeeze(name: str) -> str:
    return re.sub(r"[ _.-]", "", name)


def _check_version(folder: Path) -> None:
    file = folder / "data.noun"
    if not file.is_file():
        raise _refused(f"{str(folder)!r} holds no data.noun")
    with file.open("rb") as opened:
        found = re.search(rb"WordNet (\d+\.\d+) Copyright", opened.read(4096))
    version = found[1].decode() if found else "unknown"
    if version != VERSION:
        raise _refused(f"{str(folder)!r} is of version {version}, and ImageNet's classes are numbered as in WordNet {VERSION}")


def _entries(file: Path, read: Callable[[list[str]], Entry]) -> Iterator[Entry]:
    """What `read` makes of the words of each line; the licence at the top is indented."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise _refused(f"{str(file)!r} cannot be read ({error.strerror})") from error
    for number, line in enumerate(lines, start=1):
        if line.startswith("  ") or not line.strip():
            continue
        try:
            entry = read(line.split())
        except (ValueError, IndexError) as error:
            raise _refused(f"{str(file)!r} line {number} is not in WordNet's format") from error
        yield entry


def _synset(words: list[str]) -> tuple[int, list[int]]:
    """number, lexicographer's file, "n", how many words (hexadecimal), each with an id; how many pointers, each of four."""
    start = 4 + 2 * int(words[3], 16)
    pointers = [words[k : k + 2] for k in range(start + 1, start + 1 + 4 * int(words[start]), 4)]
    return int(words[0]), [int(synset) for kind, synset in pointers if kind in _ABOVE]


def _word(words: list[str]) -> tuple[str, list[int]]:
    """word, "n", how many synsets, ..., their numbers."""
    return words[0], [int(synset) for synset in words[-int(words[2]) :]]


def _exception(words: list[str]) -> tuple[str, list[str]]:
    return words[0], words[1:]


def _refused(what: str) -> InputError:
    return InputError(f"--wordnet {what}: {WHERE}")
