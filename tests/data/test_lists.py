"""The published split lists: as they are, and as users may have them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from zsml.data import SketchPhotoDataset, load_dataset
from zsml.data.affinity_build import imagenet_ids
from zsml.errors import InputError

FOLDERS = {"sketchy": "Sketchy/zeroshot1", "sketchy2": "Sketchy/zeroshot2", "tuberlin": "TUBerlin/zeroshot"}
STEMS = {
    "sketchy": {"sketch": "sketch_tx_000000000000_ready", "photo": "all_photo"},
    "sketchy2": {"sketch": "sketch_tx_000000000000_ready", "photo": "all_photo"},
    "tuberlin": {"sketch": "png_ready", "photo": "ImageResized_ready"},
}
SUFFIXES = {"train": "train", "val": "test", "test": "zero"}

# rows, classes, fewest and most rows of a class, as counted in the published lists
PUBLISHED = {
    ("sketchy", "train", "photo"): (68_401, 100, 261, 850),
    ("sketchy", "test", "photo"): (17_101, 25, 378, 800),
    ("sketchy", "train", "sketch"): (55_252, 100, 468, 696),
    ("sketchy", "val", "sketch"): (5_000, 100, 50, 50),
    ("sketchy", "test", "sketch"): (15_229, 25, 518, 738),
    ("sketchy2", "train", "photo"): (72_949, 104, 554, 800),
    ("sketchy2", "test", "photo"): (12_553, 21, 261, 850),
    ("sketchy2", "val", "sketch"): (1_040, 104, 10, 10),
    ("sketchy2", "test", "sketch"): (12_694, 21, 529, 746),
    ("tuberlin", "test", "photo"): (27_989, 30, 401, 2_922),
    ("tuberlin", "train", "sketch"): (15_400, 220, 70, 70),
    ("tuberlin", "val", "sketch"): (2_200, 220, 10, 10),
    ("tuberlin", "test", "sketch"): (2_400, 30, 80, 80),
}

# unseen classes in label order: sketches/photos
UNSEEN = {
    "sketchy": """cup 697/700, swan 586/700, harp 584/700, squirrel 688/700, snail 640/700, ray 518/700, pineapple 605/700,
        volcano 554/700, rifle 621/700, scissors 558/739, parrot 602/700, windmill 598/493, teddy_bear 571/700, tree 533/595,
        wine_bottle 603/700, deer 568/800, chicken 674/700, airplane 709/700, wheelchair 542/378, tank 606/700,
        umbrella 546/700, butterfly 612/700, camel 690/700, horse 738/796, bell 586/700""",
    "sketchy2": """bat 635/543, cabin 546/492, cow 728/700, dolphin 590/713, door 578/700, giraffe 673/700, helicopter 746/850,
        mouse 670/445, pear 575/485, raccoon 735/700, rhinoceros 556/763, saw 532/700, scissors 558/739, seagull 666/700,
        skyscraper 545/261, songbird 529/700, sword 605/376, tree 533/595, wheelchair 542/378, windmill 598/493,
        window 554/520""",
    "tuberlin": """banana 80/1194, bus 80/437, tractor 80/1102, suitcase 80/682, streetlight 80/1223, telephone 80/1095,
        bottle opener 80/993, canoe 80/409, fan 80/429, teacup 80/911, penguin 80/567, laptop 80/437, shoe 80/1134,
        lighter 80/1154, hot air balloon 80/1264, pizza 80/647, brain 80/1297, ant 80/424, t-shirt 80/1111, trombone 80/401,
        windmill 80/2922, snowboard 80/1063, table 80/436, rollerblades 80/1135, parachute 80/952, space shuttle 80/836,
        bridge 80/1005, frying-pan 80/952, bread 80/1273, horse 80/504""",
}  # fmt: skip

# how the seen classes begin and end, in label order
SEEN = {
    "sketchy": (["pig", "banana", "chair", "hotdog", "helicopter"], ["lobster", "church", "turtle"]),
    "sketchy2": (["car_(sedan)", "wine_bottle", "piano", "sea_turtle", "racket"], ["hedgehog", "butterfly", "owl"]),
    "tuberlin": (["wrist-watch", "pig", "alarm clock", "chair", "tablelamp"], ["pigeon", "church", "ashtray"]),
}


def published(shared_data: Path, name: str, part: str, modality: str, **options):
    folder = shared_data / "splits" / FOLDERS[name]
    return load_dataset(name, shared_data, part, modality, lists=folder, require_images=False, **options)


@pytest.mark.parametrize(("name", "part", "modality"), PUBLISHED)
def test_totals(shared_data, name, part, modality):
    data = published(shared_data, name, part, modality)
    rows, classes, fewest, most = PUBLISHED[name, part, modality]
    counts = torch.bincount(data.labels, minlength=classes)
    assert (len(data), len(data.classes), counts.min().item(), counts.max().item()) == (rows, classes, fewest, most)
    assert len(data.paths) == rows and data.paths[0].startswith(f"{shared_data}/")


@pytest.mark.parametrize("name", FOLDERS)
def test_class_orders(shared_data, name):
    sketches, photos = (published(shared_data, name, "test", modality) for modality in ("sketch", "photo"))
    pairs = zip(torch.bincount(sketches.labels).tolist(), torch.bincount(photos.labels).tolist(), strict=True)
    found = [f"{c} {s}/{p}" for c, (s, p) in zip(sketches.classes, pairs, strict=True)]
    assert found == re.split(r",\s+", UNSEEN[name])
    first, last = SEEN[name]
    seen = published(shared_data, name, "val", "sketch").classes
    assert seen[:5] == first and seen[-3:] == last
    assert not set(seen) & set(sketches.classes)


@pytest.mark.parametrize(("name", "part", "modality"), [key for key in PUBLISHED if key != ("sketchy2", "train", "photo")])
def test_labels_are_those_of_the_list_where_the_list_is_sound(shared_data, name, part, modality):
    file = shared_data / "splits" / FOLDERS[name] / f"{STEMS[name][modality]}_filelist_{SUFFIXES[part]}.txt"
    rows = [re.fullmatch(r"(.+) (\d+)", line) for line in file.read_text().splitlines()]
    data = published(shared_data, name, part, modality)
    assert data.labels.tolist() == [int(row[2]) for row in rows]
    assert data.paths == [f"{shared_data}/{row[1]}" for row in rows]


def test_broken_labels_of_zeroshot2_are_not_believed(shared_data):
    file = shared_data / "splits/Sketchy/zeroshot2/all_photo_filelist_train.txt"
    column = [int(line.split()[-1]) for line in file.read_text().splitlines()]
    assert set(column) == {100 * k for k in range(104)}  # what makes them useless
    photos, sketches = published(shared_data, "sketchy2", "train", "photo"), published(shared_data, "sketchy2", "val", "sketch")
    assert photos.classes.index("airplane") == 93
    for data in (photos, sketches):
        assert all(Path(path).parent.name == data.classes[label] for path, label in zip(data.paths, data.labels, strict=True))
    assert SketchPhotoDataset(sketches, photos).classes == sketches.classes


@pytest.mark.parametrize(("name", "copies", "known"), [("sketchy", 2_499, 12), ("sketchy2", 2_100, 1), ("tuberlin", 0, 18)])
def test_second_copies_and_classes_that_imagenet_knows(shared_data, name, copies, known):
    """The extension of Sketchy holds its first photos again; and photos of some unseen classes are of classes of ImageNet-1k."""
    photos = published(shared_data, name, "test", "photo")
    files = [tuple(Path(path).parts[-2:]) for path in photos.paths]
    assert len(files) - len(set(files)) == copies
    imagenet = set(imagenet_ids())
    assert len({folder for folder, file in files if file.split("_")[0] in imagenet}) == known


def test_parts_that_do_not_exist_are_named(shared_data):
    for name in FOLDERS:
        with pytest.raises(InputError, match=f"{name} has no part 'val' of modality 'photo'"):
            published(shared_data, name, "val", "photo")
    with pytest.raises(InputError, match=r"ImageResized_ready_filelist_train\.txt.*lists="):
        published(shared_data, "tuberlin", "train", "photo")
    with pytest.raises(InputError, match=r"sketch_tx_000000000000_ready_filelist_train\.txt"):
        published(shared_data, "sketchy2", "train", "sketch")


def test_missing_images_are_counted(shared_data):
    folder = shared_data / "splits/Sketchy/zeroshot1"
    with pytest.raises(
        InputError, match=r"root='.*': 17,101 of the 17,101 images.*'256x256/photo/tx_000000000000_ready/cup/n03063073_5868"
    ):
        load_dataset("sketchy", shared_data, "test", "photo", lists=folder)


# ---- lists as users may have them --------------------------------------------------------------------------------------------


def write_split(root: Path, *, classes="hot air balloon 0\ncar (sedan) 1\n", train=None, images=True) -> None:
    """A small TU-Berlin: two classes, three sketches."""
    lines = ["png_ready/hot air balloon/1.png 0", "png_ready/car (sedan)/a  b.png 100", "png_ready/car (sedan)/3.png 100"]
    (root / "zeroshot").mkdir()
    (root / "zeroshot/cname_cid.txt").write_text(classes)
    (root / "zeroshot/png_ready_filelist_train.txt").write_text("\n".join(lines) + "\n" if train is None else train)
    for path in ("hot air balloon/1.png", "car (sedan)/a b.png", "car (sedan)/3.png") if images else ():
        (root / "png_ready" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "white").save(root / "png_ready" / path)


def read(root: Path, **options):
    return load_dataset("tuberlin", root, "train", "sketch", image_size=8, **{"check_counts": False} | options)


def test_names_with_spaces(tmp_path):
    write_split(tmp_path)
    data = read(tmp_path)
    assert data.classes == ["hot air balloon", "car (sedan)"] and data.labels.tolist() == [0, 1, 1]
    assert data[1][0].shape == (3, 8, 8)  # words are joined by one space


@pytest.mark.parametrize(
    "train",
    [
        "png_ready/hot air balloon/1.png 0\r\npng_ready/car (sedan)/3.png 1\r\n",
        "\n\npng_ready/hot air balloon/1.png   0  \npng_ready/car (sedan)/3.png\t1",
    ],
)
def test_line_ends_and_blanks(tmp_path, train):
    write_split(tmp_path, train=train, classes="hot air balloon 0 \ncar (sedan) 1 \n\n")
    assert read(tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": ""}, r"png_ready_filelist_train.txt' is empty"),
        ({"train": "png_ready/car (sedan)/3.png 1\npng_ready/car.png\n"}, r"line 2: expected a name and then a label.*car.png"),
        ({"train": "png_ready/car (sedan)/3.png -1\n"}, r"line 1: expected"),
        ({"train": "png_ready/lorry/3.png 1\n"}, r"entry 1: .*folder 'lorry', which is no class of the 2"),
        ({"train": "3.png 1\n"}, r"entry 1: '3.png'"),
        ({"classes": "a 0\nb 2\n"}, r"cname_cid.txt': labels must be 0..1, each once"),
        ({"classes": "a 0\na 1\n"}, r"class 'a' has two labels"),
    ],
)
def test_malformed_lists(tmp_path, changes, message):
    write_split(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_not_a_text_file(tmp_path):
    write_split(tmp_path)
    (tmp_path / "zeroshot/png_ready_filelist_train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a text file"):
        read(tmp_path)


def test_other_counts_than_published(tmp_path):
    write_split(tmp_path)
    with pytest.raises(InputError, match=r"expected 220 classes, found 2; .*check_counts=False"):
        read(tmp_path, check_counts=True)
    names = [f"c{k}" for k in range(220)]
    classes = "".join(f"{name} {k}\n" for k, name in enumerate(names))
    train = "".join(f"png_ready/{name}/1.png 0\n" for name in names)
    (tmp_path / "zeroshot/cname_cid.txt").write_text(classes)
    (tmp_path / "zeroshot/png_ready_filelist_train.txt").write_text(train)
    with pytest.raises(InputError, match=r"png_ready_filelist_train.txt': expected 15,400 rows, found 220"):
        read(tmp_path, check_counts=True, require_images=False)
    # a list whose published length nobody knows: only its classes are checked
    photos = tmp_path / "zeroshot/ImageResized_ready_filelist_train.txt"
    photos.write_text(train.replace("png_ready", "ImageResized_ready"))
    options = {"require_images": False}
    assert len(load_dataset("tuberlin", tmp_path, "train", "photo", **options)) == 220
    photos.write_text("".join(f"ImageResized_ready/{name}/1.JPEG 0\n" for name in names[:-2]))
    with pytest.raises(InputError, match=r"no image of 2 of its classes \(c218, c219\)"):
        load_dataset("tuberlin", tmp_path, "train", "photo", **options)


def test_missing_files_and_folders(tmp_path):
    write_split(tmp_path)
    (tmp_path / "png_ready/car (sedan)/3.png").unlink()
    with pytest.raises(InputError, match=r"1 of the 3 images listed for tuberlin are missing: 'png_ready/car \(sedan\)/3.png'"):
        read(tmp_path)
    assert len(read(tmp_path, require_images=False)) == 3
    (tmp_path / "zeroshot/cname_cid.txt").unlink()
    with pytest.raises(InputError, match=r"'cname_cid.txt' is not in"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"no folder '.*nowhere'"):
        read(tmp_path, lists=tmp_path / "nowhere")
