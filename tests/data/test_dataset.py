"""What all data sets share: arguments, reproducible augmentation, corrupt images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, default_collate

from zsml.data import SketchPhotoDataset, SkipCorrupt, collate_skip, load_dataset
from zsml.errors import CorruptImage, InputError


def synthetic(part="train", modality="photo", **options):
    return load_dataset(
        "synthetic", None, part, modality, **{"image_size": 16, "num_classes": 6, "samples_per_class": 3} | options
    )


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("pascal", None, "train", 0), {}, r"name 'pascal' is not known; choose from synthetic, folder, sketchy"),
        (("synthetic", None, "zero", 0), {}, r"part='zero' must be one of 'train', 'val', 'test'"),
        (("synthetic", None, "train", "drawing"), {}, r"modality='drawing' must be 'sketch' or 'photo'"),
        (("synthetic", None, "train", 2), {}, r"modality=2 must be"),
        (("synthetic", None, "train", True), {}, r"modality=True must be"),
        (
            ("synthetic", None, "train", 0),
            {"transform": "mathematics"},
            r"transform='mathematics' is not known; choose from test",
        ),
        (("synthetic", None, "train", 0), {"image_size": 0}, r"image_size=0 must be 1 or more"),
        (
            ("synthetic", None, "train", 0),
            {"require_images": False},
            r"'synthetic' has no option 'require_images'; it takes num_classes",
        ),
        (("sketchy", ".", "train", 0), {"unseen": 2}, r"'sketchy' has no option 'unseen'; it takes lists"),
        (("sketchy", None, "train", 0), {}, r"root is missing: 'sketchy'"),
    ],
)
def test_bad_values(arguments, options, message):
    with pytest.raises(InputError, match=message):
        load_dataset(*arguments, **options)


@pytest.mark.parametrize("options", [{"transform": 3}, {"image_size": 32.0}, {"seed": "0"}, {"seed": 1.5}])
def test_wrong_types(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        synthetic(**options)


def test_transform_may_be_a_function_or_nothing():
    assert synthetic(transform=lambda image: image.size)[0] == ((16, 16), 0, 1)
    assert isinstance(synthetic(transform=None)[0][0], Image.Image)


# ---- reproducible augmentation -----------------------------------------------------------------------------------------------


def noise(image):
    return torch.rand(3)


def read_all(data, workers, order=None, **options):
    loader = DataLoader(data, batch_size=2, sampler=order, num_workers=workers, **options)
    return torch.cat([images for images, *_ in loader])


@pytest.mark.parametrize("transform", [noise, "train", "sake", "mathm", "dsn"])
def test_augmentation_is_a_function_of_seed_epoch_and_index(transform):
    data = synthetic(transform=transform, num_classes=3, samples_per_class=4)
    data.set_epoch(4)
    torch.manual_seed(1)
    first = read_all(data, workers=0)
    torch.manual_seed(2)
    assert torch.equal(read_all(data, workers=2), first)
    order = list(range(len(data)))[::-1]
    assert torch.equal(read_all(data, workers=0, order=order), first.flip(0))
    assert torch.equal(data[3][0], first[3])
    data.set_epoch(5)
    assert not torch.equal(read_all(data, workers=0), first)
    data.set_epoch(4)
    assert torch.equal(read_all(data, workers=0), first)


def test_items_epochs_seeds_and_modalities_have_streams_of_their_own():
    draws = []
    for seed in (0, 1):
        for modality in (0, 1):
            data = synthetic(modality=modality, transform=noise, seed=seed)
            for epoch in (0, 1):
                data.set_epoch(epoch)
                draws += [tuple(data[k][0].tolist()) for k in range(5)]
    assert len(set(draws)) == 2 * 2 * 2 * 5


def test_the_epoch_reaches_workers_that_stay():
    data = synthetic(transform=noise)
    loader = DataLoader(data, batch_size=2, num_workers=2, persistent_workers=True)
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        assert torch.equal(torch.cat([images for images, *_ in loader]), read_all(data, workers=0))


def test_the_global_generator_is_used_before_set_epoch_and_left_alone_after():
    data = synthetic(transform=noise)
    torch.manual_seed(3)
    ambient = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(data[0][0], ambient)
    data.set_epoch(0)
    torch.manual_seed(3)
    data[0]
    assert torch.equal(torch.rand(3), ambient)
    with pytest.raises(InputError, match="epoch=-1"):
        data.set_epoch(-1)


def test_both_modalities_together():
    both = SketchPhotoDataset(synthetic(modality="sketch", transform=noise), synthetic(modality="photo", transform=noise))
    assert both.modality.tolist() == [0] * (len(both) // 2) + [1] * (len(both) // 2)
    assert [(label, modality) for _, label, modality in both] == list(
        zip(both.labels.tolist(), both.modality.tolist(), strict=True)
    )
    both.set_epoch(2)
    assert torch.equal(both[1][0], both[1][0])
    with pytest.raises(InputError, match=r"train sketch.*train photo.*do not agree on the classes"):
        SketchPhotoDataset(synthetic(modality="sketch"), synthetic(seed=1))
    with pytest.raises(InputError, match="datasets is empty"):
        SketchPhotoDataset()


# ---- files -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind in ("sketch", "photo"):
        for name in ("seen", "unseen"):
            (tmp_path / kind / name).mkdir(parents=True)
            for k in range(4):
                Image.fromarray(noise).save(tmp_path / kind / name / f"{k}.jpg")
    return tmp_path


def photos(root, **options):
    return load_dataset("folder", root, "test", "photo", unseen=["unseen"], **{"image_size": 8} | options)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-300])


DAMAGE = {
    "truncated": truncate,
    "empty": lambda file: file.write_bytes(b""),
    "not an image": lambda file: file.write_text("<html>404</html>"),
    "broken png": lambda file: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_corrupt_images_are_named_and_skipped_or_refused(root, damage):
    damage(root / "photo/unseen/1.jpg")
    data = photos(root)
    with pytest.raises(CorruptImage, match=r"photo/unseen/1\.jpg' cannot be decoded") as caught:
        data[1]
    assert caught.value.path == data.paths[1]
    for workers in (0, 2):
        batches = list(DataLoader(SkipCorrupt(data), batch_size=3, num_workers=workers, collate_fn=collate_skip))
        images, labels, modality, kept = batches[0]
        assert images.shape == (2, 3, 8, 8) and kept.tolist() == [0, 2]
        assert labels.tolist() == [0, 0] and modality.tolist() == [1, 1]
        assert batches[1][3].tolist() == [0]
    strict = SkipCorrupt(photos(root, strict=True))
    assert strict[0] is not None
    with pytest.raises(CorruptImage, match=r"1\.jpg"):
        strict[1]
    with pytest.raises(CorruptImage, match=r"1\.jpg"):
        SkipCorrupt(SketchPhotoDataset(load_dataset("folder", root, "test", 0, unseen=["unseen"]), photos(root, strict=True)))[5]


def test_a_batch_with_nothing_left():
    images, labels, modality, kept = collate_skip([None, None])
    assert len(images) == len(labels) == len(modality) == len(kept) == 0


def test_collate_skip_agrees_with_the_usual_collation(root):
    items = [photos(root)[k] for k in range(4)]
    for ours, theirs in zip(collate_skip(items), default_collate(items), strict=False):
        assert torch.equal(ours, theirs)
    images, *_ = collate_skip([photos(root, transform=None)[k] for k in range(2)])
    assert [image.size for image in images] == [(40, 40)] * 2


def test_a_file_that_vanished_is_no_corrupt_image(root):
    data = photos(root)
    (root / "photo/unseen/1.jpg").unlink()
    with pytest.raises(InputError, match=r"1\.jpg' cannot be opened: No such file") as caught:
        SkipCorrupt(data)[1]
    assert not isinstance(caught.value, CorruptImage)


def first_pixel(root, image, suffix=".png", **options):
    file = root / "photo/unseen/0.jpg"
    file.unlink(missing_ok=True)
    image.save(file.with_suffix(suffix), **options)
    decoded = photos(root, transform=None)[0][0]
    assert decoded.mode == "RGB" and decoded.size == (4, 2)
    return decoded.getpixel((0, 0))


def test_all_kinds_of_images_become_rgb(root):
    def one(mode, value):
        return Image.new(mode, (4, 2), value)

    assert first_pixel(root, one("L", 77)) == (77, 77, 77)
    assert first_pixel(root, one("1", 1)) == (255, 255, 255)
    assert first_pixel(root, one("RGBA", (9, 8, 7, 255))) == (9, 8, 7)
    assert first_pixel(root, one("RGBA", (0, 0, 0, 0))) == (255, 255, 255)  # a drawing on nothing is a drawing on white
    assert first_pixel(root, one("LA", (0, 0))) == (255, 255, 255)
    palette = one("P", 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert first_pixel(root, palette) == (10, 20, 30)
    assert first_pixel(root, palette, transparency=1) == (255, 255, 255)
    assert first_pixel(root, Image.fromarray(np.full((2, 4), 0x80FF, dtype=np.uint16))) == (128, 128, 128)


def test_photos_are_turned_upright(root):
    upright = np.zeros((4, 2, 3), dtype=np.uint8)
    upright[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: to be shown turned clockwise
    file = root / "photo/unseen/0.jpg"
    Image.fromarray(np.rot90(upright).copy()).save(file.with_suffix(".png"), exif=exif)
    file.unlink()
    np.testing.assert_array_equal(np.asarray(photos(root, transform=None)[0][0]), upright)
