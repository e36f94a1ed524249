from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_data import tiny_config

from zsml.engine.loader import Items, check_labels, training_batches
from zsml.errors import InputError

CPU = torch.device("cpu")


def batches_of(config, epoch, first=0):
    batches, order, _ = training_batches(config, CPU)
    order.start_at(epoch, first)
    return list(batches)


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x[:3], y[:3], strict=True)
    )


def test_batches_do_not_depend_on_the_number_of_workers_or_on_where_they_start(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path)
    alone = batches_of(config, epoch=1)
    assert same(batches_of(replace(config, workers=3), epoch=1), alone)
    assert same(batches_of(replace(config, workers=2), epoch=1, first=2), alone[2:])


def test_epochs_and_seeds_differ(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path)
    assert not same(batches_of(config, epoch=0), batches_of(config, epoch=1))
    assert not same(batches_of(config, epoch=0), batches_of(replace(config, seed=1), epoch=0))


def test_a_batch_is_classes_by_samples_of_each_modality(tiny_folder, tmp_path):
    for images, labels, modality, kept in batches_of(tiny_config(tiny_folder, tmp_path), epoch=0):
        assert images.shape == (12, 3, 32, 32) and images.dtype == torch.float32 and len(kept) == 12
        for label in labels.unique():
            assert modality[labels == label].sort().values.tolist() == [0, 0, 1, 1]
        assert len(labels.unique()) == 3


def test_the_same_image_is_augmented_anew_each_time(tiny_folder, tmp_path):
    config = tiny_config(tiny_folder, tmp_path, samples_per_modality=12, batches_per_epoch=2, classes_per_batch=4)
    (first, labels, modality, _), (second, *_) = batches_of(config, epoch=0)  # every training image, in both batches
    distances = torch.cdist(first.flatten(1), second.flatten(1))
    assert (distances > 0).float().mean() > 0.9
    assert len(labels) == 4 * 12 * 2 and modality.sum() == 48


class Draws(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return index, torch.rand(1).item(), 0


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    items = Items(Draws())
    assert items[3, 17] == items[3, 17] != items[3, 18]
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_named(label):
    with pytest.raises(InputError, match=f"here: label {label} of item 1 is out of range; 2 classes take labels 0..1"):
        check_labels(torch.tensor([0, label, 1]), 2, "here")
