"""Batches of sketches and photos at random."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsml.data import SketchPhotoBatchSampler
from zsml.errors import InputError


def make(sketches_there, photos_there, sketches, photos, batches=0, **options):
    modality = torch.tensor([0] * sketches_there + [1] * photos_there)[
        torch.randperm(sketches_there + photos_there, generator=torch.Generator().manual_seed(3))
    ]
    sampler = SketchPhotoBatchSampler(modality, sketches=sketches, photos=photos, batches_per_epoch=batches, **options)
    return sampler, modality


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99), st.booleans())
def test_a_pass_takes_each_image_once_until_one_modality_is_used_up(there, photos_there, sketches, photos, epoch, drop_last):
    full = min(there // sketches, photos_there // photos)
    if drop_last and not full:
        with pytest.raises(InputError, match="are too few for one batch"):
            make(there, photos_there, sketches, photos, drop_last=True)
        return
    sampler, modality = make(there, photos_there, sketches, photos, drop_last=drop_last)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    expected = full if drop_last else min(-(-there // sketches), -(-photos_there // photos))
    assert len(batches) == len(sampler) == expected
    drawn = torch.tensor(list(chain.from_iterable(batches)))
    assert len(drawn.unique()) == len(drawn)
    counts = [[int((modality[batch] == kind).sum()) for kind in (0, 1)] for batch in batches]
    for number, (s, p) in enumerate(counts):
        assert s == min(sketches, there - number * sketches) and p == min(photos, photos_there - number * photos)
        assert sampler.batch_size(number) == s + p
    if not drop_last:  # one of them is used up
        assert sum(s for s, _ in counts) == there or sum(p for _, p in counts) == photos_there


def test_a_given_length_goes_on_in_another_order():
    sampler, modality = make(5, 50, 2, 3, batches=10)
    batches = list(sampler)
    sketches = [i for batch in batches for i in batch if modality[i] == 0]
    assert len(batches) == 10 and all(len(batch) == 5 for batch in batches)
    rounds = [sketches[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds) and len({tuple(r) for r in rounds}) > 1


def test_modalities_are_drawn_independently_and_epochs_differ():
    sampler, _ = make(40, 40, 4, 4)
    first = list(sampler)
    assert list(sampler) == first  # a function of the epoch
    sampler.set_epoch(1)
    assert list(sampler) != first
    parts = [chain.from_iterable(batch[:4] for batch in first), chain.from_iterable(batch[4:] for batch in first)]
    order = [torch.tensor(list(part)).argsort().tolist() for part in parts]
    assert order[0] != order[1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_batch_of_one_process(world_size):
    whole = list(make(20, 33, 4, 7)[0])
    parts = []
    for rank in range(world_size):
        sampler = make(20, 33, 4, 7, rank=rank, world_size=world_size)[0]
        parts.append((list(sampler), sampler))
    for number, batch in enumerate(whole):
        together = [None] * len(batch)
        for batches, sampler in parts:
            for place, sample in zip(sampler.places(len(batches[number])), batches[number], strict=True):
                together[place] = sample
        assert together == batch


def test_a_rest_too_small_for_every_rank_is_left_out():
    """240 of each in batches of 239: one sketch and one photo are left, and four ranks."""
    lengths = [len(make(240, 240, 239, 239, world_size=world_size)[0]) for world_size in (1, 2, 3, 4)]
    assert lengths == [2, 2, 1, 1]


def test_published_passes_have_their_published_lengths():
    """Photos end SAKE's epoch on Sketchy after 2,631 batches, sketches end that on TU-Berlin after 3,850; DSN drops the last."""
    lengths = {
        (55_252, 68_401, 13, 26, False): 2_631,
        (15_400, 176_500, 4, 36, False): 3_850,
        (55_252, 68_401, 32, 64, True): 1_068,
        (15_400, 176_500, 9, 81, False): 1_712,
    }
    for (there, photos_there, sketches, photos, drop_last), expected in lengths.items():
        modality = torch.cat([torch.zeros(there, dtype=torch.int64), torch.ones(photos_there, dtype=torch.int64)])
        sampler = SketchPhotoBatchSampler(modality, sketches=sketches, photos=photos, batches_per_epoch=0, drop_last=drop_last)
        assert len(sampler) == expected
    uneven = SketchPhotoBatchSampler([0] * 55_252 + [1] * 68_401, sketches=13, photos=26, batches_per_epoch=0)
    assert uneven.batch_size(2_630) == 13 + 21  # the last of SAKE's on Sketchy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sketches": 0}, "sketches=0 must be 1 or more"),
        ({"photos": -1}, "photos=-1 must be 1 or more"),
        ({"batches_per_epoch": -1}, "batches_per_epoch=-1 must be 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be below world_size=2"),
        ({"world_size": 9}, "world_size=9 must be at most sketches=2 and photos=2"),
        ({"modality": [1, 1]}, "modality has no sketch"),
        ({"modality": [0, 0]}, "modality has no photo"),
    ],
)
def test_bad_settings_are_named(changes, said):
    setting = {"modality": [0, 0, 1, 1], "sketches": 2, "photos": 2, "batches_per_epoch": 0, **changes}
    with pytest.raises(InputError, match=said):
        SketchPhotoBatchSampler(setting.pop("modality"), **setting)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match="sketches must be an int, got float"):
        SketchPhotoBatchSampler([0, 1], sketches=1.0, photos=1, batches_per_epoch=0)
    with pytest.raises(TypeError, match=r"modality must hold integers, got torch.float32"):
        SketchPhotoBatchSampler([0.5, 1.0], sketches=1, photos=1, batches_per_epoch=0)
    sampler = make(3, 3, 1, 1)[0]
    with pytest.raises(InputError, match="epoch=-1 must be 0 or more"):
        sampler.set_epoch(-1)
