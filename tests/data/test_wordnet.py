"""WordNet's nouns: against NLTK's reader of the same files, and files that are not WordNet's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny_wordnet import WORDS, nltk_wordnet, random_nouns, write_wordnet

from zsml.data.wordnet import WordNet, find_wordnet
from zsml.errors import InputError

IRREGULAR = {"geese": "goose", "oxen": "ox", "foxes": "fox"}


@pytest.fixture
def tiny(tmp_path) -> tuple[WordNet, list[int]]:
    numbers = write_wordnet(tmp_path, random_nouns(0), irregular=IRREGULAR)
    return WordNet(tmp_path), numbers


def test_what_is_above_as_nltk_reads_it(tiny, tmp_path, monkeypatch):
    ours, numbers = tiny
    theirs = nltk_wordnet(tmp_path, monkeypatch)
    for number in numbers[::7]:
        synset = theirs.synset_from_pos_and_offset("n", number)
        expected: dict[int, int] = {}
        for upper, steps in synset.hypernym_distances():  # every path; the shortest counts
            expected[upper.offset()] = min(steps, expected.get(upper.offset(), steps))
        assert ours.steps_up(number) == expected


def test_senses_as_nltk_finds_them(tiny, tmp_path, monkeypatch):
    ours, _ = tiny
    theirs = nltk_wordnet(tmp_path, monkeypatch)
    inflected = [word + ending for word in WORDS for ending in ("", "s", "es")]
    names = [
        *inflected,
        *IRREGULAR,
        "berries",
        "glasses",
        "churches",
        "leaves",
        "trousers",
        "W3",
        "w3s",
        "hot dog",
        "",
        "s",
        "no",
    ]
    found = 0
    for name in names:
        assert ours.senses(name) == [synset.offset() for synset in theirs.synsets(name, "n")], name
        found += bool(ours.senses(name))
    assert found > 25


def test_phrases_are_found_however_they_are_written(tmp_path):
    write_wordnet(tmp_path, [(("hot_dog",), ()), (("hotdog", "t-shirt"), ()), (("ice-cream_cone",), ())], numbers=[1, 2, 3])
    wordnet = WordNet(tmp_path)
    assert wordnet.senses("hot_dog") == [1] and wordnet.senses("hotdog") == [2]  # as they are, before anything else
    assert wordnet.senses("hot dog") == [] and wordnet.senses("hot dog", phrases=True) == [1]
    assert wordnet.senses("T shirt", phrases=True) == [2] and wordnet.senses("ice-cream-cone", phrases=True) == [3]
    assert wordnet.senses("sponge bob", phrases=True) == [] and wordnet.senses("", phrases=True) == []


def test_a_circle_ends(tmp_path):
    write_wordnet(tmp_path, [(("a",), (1,)), (("b",), (2,)), (("c",), (0,))], numbers=[1, 2, 3])
    assert WordNet(tmp_path).steps_up(1) == {1: 0, 2: 1, 3: 2}


# ---- what is not WordNet 3.0 ---------------------------------------------------------------------------------------------------


def test_another_version(tmp_path):
    write_wordnet(tmp_path, [(("a",), ())], version="3.1")
    with pytest.raises(InputError, match=r"--wordnet .* is of version 3\.1, and ImageNet's classes .* WordNet 3\.0"):
        WordNet(tmp_path)
    (tmp_path / "data.noun").write_text("00000001 03 n 01 a 0 000 | no licence\n")
    with pytest.raises(InputError, match="of version unknown"):
        WordNet(tmp_path)


@pytest.mark.parametrize("name", ["data.noun", "index.noun", "noun.exc"])
def test_missing_files(tmp_path, name):
    write_wordnet(tmp_path, [(("a",), ())])
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"--wordnet .*{re.escape(name)}.*wordnet-base"):
        WordNet(tmp_path)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("data.noun", "0000x001 03 n 01 a 0 000 | number\n"),
        ("data.noun", "00000001 03 n 01 a 0 002 @ 00000002 n 0000\n"),
        ("data.noun", "00000001 03 n\n"),
        ("index.noun", "word n x 0 1 0 00000001\n"),
        ("index.noun", "word n\n"),
        ("data.noun", "00000001 03 n \udcff\n"),
    ],
)
def test_damaged_files(tmp_path, name, line):
    write_wordnet(tmp_path, [(("a",), ())])
    with (tmp_path / name).open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line)
    with pytest.raises(InputError, match=rf"--wordnet '.*{re.escape(name)}' line \d+ is not in WordNet's format"):
        WordNet(tmp_path)


def test_where_wordnet_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ZSML_WORDNET", "/named")
    assert find_wordnet() == Path("/named")  # even if it is not there: its absence is then said
    monkeypatch.delenv("ZSML_WORDNET")
    monkeypatch.setenv("WNHOME", str(tmp_path / "wn"))
    write_wordnet(tmp_path / "wn/dict", [(("a",), ())])
    assert find_wordnet() == tmp_path / "wn/dict"
    monkeypatch.delenv("WNHOME")
    write_wordnet(tmp_path / "nltk_data/corpora/wordnet", [(("a",), ())])
    assert find_wordnet() in (tmp_path / "nltk_data/corpora/wordnet", Path("/usr/share/wordnet"))
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(InputError, match=r"--wordnet is missing and no WordNet was found in /usr/share/wordnet, .*nltk_data"):
        find_wordnet()
