"""Building affinity tables: by hand, against NLTK's path similarity, and the published figures where WordNet is present."""

from __future__ import annotations

import pytest
import torch
from tiny_wordnet import isolated, nltk_wordnet, random_nouns, write_wordnet

from zsml.data import load_dataset
from zsml.data.affinity import read_affinity
from zsml.data.affinity_build import build_affinity, file_ids, imagenet_ids
from zsml.data.decode import FileDataset
from zsml.data.wordnet import WordNet, find_wordnet
from zsml.errors import InputError

NOUNS = [
    (("thing",), ()),
    (("beast",), (0,)),
    (("hound",), (1,)),
    (("pug",), (2,)),
    (("collie",), (2,)),
    (("puss",), (1,)),
    (("tabby", "hot_dog"), (5,)),
    (("skeleton",), ()),
    (("skeleton",), ()),
    (("skeleton",), (3,)),
    (("rex",), (~3,)),  # an instance
]
COLUMNS = ["pug", "collie", "hound", "puss"]  # the first four; the others are near to nothing


def photos(**files: list[str]) -> FileDataset:
    """A data set of these files, none of which exists."""
    names = [name.replace("_", " ") for name in files]
    paths = [f"photo/{name}/{file}" for name, many in zip(names, files.values(), strict=True) for file in many]
    labels = [label for label, many in enumerate(files.values()) for _ in many]
    return FileDataset("folder", "train", 1, labels, names, paths)


@pytest.fixture
def tiny(tmp_path) -> tuple[WordNet, dict]:
    """WordNet of the nouns above, and what build_affinity needs besides; numbers are 1, 2, ..."""
    nouns = [*NOUNS, *isolated(1000)]
    numbers = write_wordnet(tmp_path, nouns, numbers=range(1, len(nouns) + 1))
    place = {words[0]: number for (words, _), number in zip(nouns, numbers, strict=True)}
    ids = [f"n{number:08d}" for number in [*(place[word] for word in COLUMNS), *numbers[-996:]]]
    return WordNet(tmp_path), {"imagenet": ids}


def id_of(word: str) -> str:
    return f"n{next(k for k, (words, _) in enumerate(NOUNS, start=1) if words[0] == word):08d}"


def test_affinity_of_one_synset(tiny):
    wordnet, columns = tiny
    data = photos(
        pug=["1.jpg"], collie=["1.jpg"], hound=["1.jpg"], tabby=["1.jpg"], beast=["1.jpg"], rex=["1.jpg"], van=["1.jpg"]
    )
    table = build_affinity(data, wordnet, **columns).table
    expected = [
        [1, 1 / 3, 1, 1 / 4],  # pug: itself, a sibling, what it is a kind of, over three steps
        [1 / 3, 1, 1, 1 / 4],
        [1, 1, 1, 1 / 3],
        [0, 0, 1 / 4, 1],  # tabby: four steps to the dogs
        [1, 1, 1, 1],  # beast: all of them are kinds of it
        [1, 1 / 4, 1, 0],  # rex: an instance of a pug
        [0, 0, 0, 0],
    ]
    assert torch.allclose(table[:, :4], torch.tensor(expected)) and not table[:, 4:].any()


def test_the_last_synset_of_the_files_wins_or_the_largest_number(tiny):
    wordnet, columns = tiny
    pug, collie = (f"{id_of(word)}_7.jpg" for word in ("pug", "collie"))
    data = photos(a=[pug, collie, pug], b=[collie, pug], c=[pug, "ext_1.jpg", f"{id_of('tabby')}_12.JPEG"])
    assert file_ids(data) == {
        "a": [id_of("pug"), id_of("collie")], "b": [id_of("collie"), id_of("pug")], "c": [id_of("pug"), id_of("tabby")],
    }  # fmt: skip
    last, largest = (build_affinity(data, wordnet, mode=mode, **columns) for mode in ("last", "max"))
    expected = [[1 / 3, 1, 1, 1 / 4], [1, 1 / 3, 1, 1 / 4], [1, 1 / 3, 1 / 4, 1]]  # nothing is set back to 0
    assert torch.allclose(last.table[:, :4], torch.tensor(expected))
    assert torch.allclose(largest.table[:, :4], torch.tensor([[1, 1, 1, 1 / 4], [1, 1, 1, 1 / 4], [1, 1 / 3, 1, 1]]))
    assert last.provenance["mode"] == "last" and last.provenance["synsets"]["c"] == [id_of("pug"), id_of("tabby")]


def test_names_stand_for_their_first_sense_or_a_chosen_one(tiny):
    wordnet, columns = tiny
    data = photos(pugs=["1.jpg"], hot_dog=["1.jpg"], skeleton=["1.jpg"])
    data.classes.append("human-skeleton")  # its third sense is meant
    synsets = build_affinity(data, wordnet, **columns).provenance["synsets"]
    assert synsets == {"pugs": [id_of("pug")], "hot dog": [], "skeleton": ["n00000008"], "human-skeleton": ["n00000010"]}
    synsets = build_affinity(data, wordnet, phrases=True, **columns).provenance["synsets"]
    assert synsets["hot dog"] == [id_of("tabby")]


def test_only_files_named_after_synsets_count(tiny):
    data = photos(a=["n00000004.jpg", "n0000004_1.jpg", "xn00000004_1.jpg", "n00000004_a.jpg", "n00000004_1-2.png"])
    assert file_ids(data) == {"a": []}
    assert file_ids(photos(a=["n00000004_1.jpg"])) == {"a": ["n00000004"]}


def test_against_nltk(tmp_path, monkeypatch):
    """Path similarity, and closures for what is a kind of what, in a random WordNet."""
    nouns = random_nouns(1, 1500)
    numbers = write_wordnet(tmp_path, nouns)
    theirs = nltk_wordnet(tmp_path, monkeypatch)
    columns, rows = numbers[::-1][:1000], numbers[40::300]
    data = photos(**{f"class{k}": [f"n{number:08d}_1.jpg"] for k, number in enumerate(rows)})
    table = build_affinity(data, WordNet(tmp_path), imagenet=[f"n{number:08d}" for number in columns]).table
    targets = [theirs.synset_from_pos_and_offset("n", number) for number in columns[::5]]
    above = {t: {t, *t.closure(lambda x: x.hypernyms() + x.instance_hypernyms())} for t in targets}
    for number, row in zip(rows, table, strict=True):
        s = theirs.synset_from_pos_and_offset("n", number)
        s_above = {s, *s.closure(lambda x: x.hypernyms() + x.instance_hypernyms())}
        expected = []
        for t in targets:
            similarity = s.path_similarity(t) or 0
            expected.append(1.0 if t in s_above or s in above[t] else similarity if similarity > 0.2 else 0.0)
        assert row[::5].tolist() == torch.tensor(expected).tolist()
    assert (table == 1).any() and (table == 1 / 4).any() and (table == 0).any()


# ---- what cannot be built ----------------------------------------------------------------------------------------------------


def test_bad_arguments(tiny):
    wordnet, columns = tiny
    with pytest.raises(InputError, match="--mode 'first' must be one of 'last', 'max'"):
        build_affinity(photos(a=["1.jpg"]), wordnet, mode="first", **columns)
    with pytest.raises(InputError, match="imagenet must be 1000 WordNet ids, got 3"):
        build_affinity(photos(a=["1.jpg"]), wordnet, imagenet=["n00000001"] * 3)
    with pytest.raises(InputError, match=r"ImageNet's class 0, n01440764, is no noun of WordNet 3\.0 in '"):
        build_affinity(photos(a=["1.jpg"]), wordnet)
    with pytest.raises(InputError, match="photos of class 'b' are named after n99999999, which is no noun"):
        build_affinity(photos(a=["1.jpg"], b=["n99999999_1.jpg"]), wordnet, **columns)


def test_cranes(tmp_path):
    """The published table has the machine in both columns of that name."""
    ids = imagenet_ids()
    numbers = [int(id[1:]) for id in ids]
    write_wordnet(tmp_path, isolated(1000), numbers=numbers)
    data = photos(bird=[f"{ids[134]}_1.jpg"], machine=[f"{ids[517]}_1.jpg"])
    wordnet = WordNet(tmp_path)
    table = build_affinity(data, wordnet, mode="max").table
    assert table.nonzero().tolist() == [[0, 134], [1, 517]]
    assert build_affinity(data, wordnet, mode="last").table.nonzero().tolist() == [[1, 134], [1, 517]]


# ---- the published tables ----------------------------------------------------------------------------------------------------

# non-zero, 1, 1/3, 1/4, rows of zeros, rows without a 1, ImageNet classes near to none, the largest row
FIGURES = {"sketchy": (742, 135, 154, 453, 1, 29, 496, "dog", 55), "tuberlin": (1171, 348, 234, 589, 49, 94, 355, "dog", 135)}
LISTS = {"sketchy": "Sketchy/zeroshot1", "tuberlin": "TUBerlin/zeroshot"}
ROWS = {
    "pig": {1: [341], 3: [342, 343], 4: [344, 355]},
    "chair": {1: [423, 559, 765, 857], 3: [861], 4: [453, 703, 894]},
    "banana": {1: [954], 3: [952, 953, 955, 956, 957], 4: [949, 950, 951, 988, 989, 998]},
    "crab": {4: [118, 119, 120, 121, 124, 125]},
}


@pytest.fixture(scope="module")
def wordnet() -> WordNet:
    try:
        return WordNet(find_wordnet())
    except InputError as error:
        pytest.skip(str(error))


def published_lists(name: str, shared_data):
    lists = shared_data / "splits" / LISTS[name]
    try:
        return load_dataset(name, shared_data, "train", "photo", lists=lists, require_images=False)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", FIGURES)
def test_published_figures(name, shared_data, wordnet):
    data = published_lists(name, shared_data)
    table = build_affinity(data, wordnet, mode="last").table
    near = table > 0
    counts = [int(near.sum()), *(int((table == torch.tensor(1 / k)).sum()) for k in (1, 3, 4))]
    rows = [int((~near).all(1).sum()), int((table.amax(1) < 1).sum()), int((~near).all(0).sum())]
    largest = int(near.sum(1).argmax())
    assert (*counts, *rows, data.classes[largest], int(near.sum(1).max())) == FIGURES[name]


def test_published_rows_of_sketchy(shared_data, wordnet, tmp_path):
    data = published_lists("sketchy", shared_data)
    made = build_affinity(data, wordnet, mode="last")
    made.save(tmp_path / "table.npz")
    for name, row in zip(ROWS, read_affinity(tmp_path / "table.npz", list(ROWS)), strict=True):
        expected = torch.zeros(1000)
        for steps, columns in ROWS[name].items():
            expected[columns] = 1 / steps
        assert torch.equal(row, expected), name
    near = (made.table > 0).sum(1)
    assert near[data.classes.index("spoon")] == 51
    assert [name for name, many in zip(data.classes, near.tolist(), strict=True) if not many] == ["seagull"]
    several = [len(ids) for ids in made.provenance["synsets"].values()]
    assert min(several) == 1 and sum(many > 1 for many in several) == 48 and len(made.provenance["synsets"]["fish"]) == 19
    assert max(several) == 19
    largest = build_affinity(data, wordnet, mode="max").table
    assert (largest[data.classes.index("crab"), [118, 119, 120, 121]] == 1).all()  # its files' own classes
    assert (largest[largest > 0].sum() > made.table.sum()) and (largest[data.classes.index("wading_bird"), 134] == 1)
