"""Batches of P classes by K samples of each modality."""

from __future__ import annotations

from itertools import chain, islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zsml.data import ClassModalityBatchSampler
from zsml.errors import InputError


@st.composite
def collections(draw):
    """Labels and modality of a collection in any order, every class with 1 to 9 samples of each of 1 or 2 modalities."""
    classes = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True))
    kinds = draw(st.sampled_from([[0], [1], [0, 1], [3, 7]]))
    rows = [(c, m) for c in classes for m in kinds for _ in range(draw(st.integers(1, 9)))]
    rows = draw(st.permutations(rows))
    return torch.tensor([c for c, _ in rows]), torch.tensor([m for _, m in rows])


def make(collection, p, k, batches=3, **options):
    return ClassModalityBatchSampler(
        *collection, classes_per_batch=p, samples_per_modality=k, batches_per_epoch=batches, **options
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_what_is_in_a_batch(data):
    labels, modality = collection = data.draw(collections())
    p = data.draw(st.integers(1, len(labels.unique())))
    k = data.draw(st.integers(1, 12))
    sampler = make(collection, p, k, seed=data.draw(st.integers(0, 2**40)))
    sampler.set_epoch(data.draw(st.integers(0, 99)))
    assert len(list(sampler)) == len(sampler) == 3
    for batch in sampler:
        assert len(batch) == p * k * len(modality.unique())
        chosen = torch.tensor(batch)
        assert len(labels[chosen].unique()) == p
        for c in labels[chosen].unique():
            for m in modality.unique():
                mine = chosen[(labels[chosen] == c) & (modality[chosen] == m)]
                members = ((labels == c) & (modality == m)).sum()
                times = mine.unique(return_counts=True)[1]
                assert len(mine) == k and len(times) == min(k, members)
                assert times.max() - times.min() <= 1


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_ranks_share_one_draw(data):
    collection = data.draw(collections())
    labels = collection[0]
    world = data.draw(st.integers(1, len(labels.unique())))
    p = data.draw(st.integers(1, len(labels.unique()) // world))
    ranks = [list(make(collection, p, 2, seed=5, rank=rank, world_size=world)) for rank in range(world)]
    whole = list(make(collection, p * world, 2, seed=5))
    for together, *parts in zip(whole, *ranks, strict=True):
        assert list(chain(*parts)) == together
        classes = [c for part in parts for c in labels[torch.tensor(part)].unique().tolist()]
        assert len(classes) == len(set(classes)) == p * world


COLLECTION = torch.arange(20).repeat_interleave(14), torch.tensor([0, 1]).repeat(140)


def test_a_batch_is_a_function_of_seed_epoch_and_number():
    def epoch(number, seed=0, batches=5):
        sampler = make(COLLECTION, 4, 3, batches, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(0) == epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=1)
    assert epoch(3, batches=9)[:5] == epoch(3)  # so training may go on anywhere
    sampler = make(COLLECTION, 4, 3, 5)
    torch.manual_seed(1)  # the global generator has no say
    assert list(islice(sampler, 2, None)) == epoch(0)[2:]
    assert list(sampler) == list(sampler)


def test_an_iteration_under_way_keeps_its_epoch_and_the_global_generator_is_left_alone():
    sampler = make(COLLECTION, 4, 3, 5)
    whole, state = list(sampler), torch.get_rng_state()
    under_way = iter(sampler)
    begun = [next(under_way)]
    sampler.set_epoch(7)
    assert begun + list(under_way) == whole != list(sampler)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_class_and_sample_has_its_turn():
    batches = list(make(COLLECTION, 4, 3, 400))
    seen = torch.bincount(torch.tensor(list(chain(*batches))), minlength=280)
    expected = 400 * 4 * 3 * 2 / 280  # each sample's number of turns is binomial
    assert ((seen - expected).abs() < 6 * expected**0.5).all()


def test_works_as_batch_sampler_of_a_loader():
    items = torch.utils.data.TensorDataset(*COLLECTION)
    loader = torch.utils.data.DataLoader(items, batch_sampler=make(COLLECTION, 4, 3, 2))
    assert [label.shape for label, _ in loader] == [(24,), (24,)]


ARGUMENTS = {
    "labels": COLLECTION[0],
    "modality": COLLECTION[1],
    "classes_per_batch": 4,
    "samples_per_modality": 2,
    "batches_per_epoch": 1,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.arange(3)}, "labels has 3 entries, modality 280"),
        ({"labels": torch.zeros(0), "modality": torch.zeros(0)}, "labels must be a non-empty vector"),
        ({"labels": COLLECTION[0][None]}, r"labels must be a non-empty vector, got shape \(1, 280\)"),
        ({"modality": (COLLECTION[0] == 3).long()}, r"class 0 has no sample of modality 1"),
        ({"classes_per_batch": 0}, "classes_per_batch=0 must be 1 or more"),
        ({"classes_per_batch": 21}, "classes_per_batch=21 needs 21 classes, labels has 20"),
        ({"classes_per_batch": 6, "world_size": 4}, "on each of 4 ranks needs 24 classes"),
        ({"samples_per_modality": -1}, "samples_per_modality=-1"),
        ({"batches_per_epoch": 0}, "batches_per_epoch=0"),
        ({"seed": -1}, "seed=-1 must be 0 or more"),
        ({"rank": 2, "world_size": 2}, "rank=2 must be below world_size=2"),
        ({"rank": -1}, "rank=-1"),
    ],
)
def test_bad_values(changes, message):
    with pytest.raises(InputError, match=message):
        ClassModalityBatchSampler(**ARGUMENTS | changes)


@pytest.mark.parametrize("changes", [{"labels": COLLECTION[0].float()}, {"classes_per_batch": 4.0}, {"seed": True}])
def test_wrong_types(changes):
    with pytest.raises(TypeError, match=next(iter(changes))):
        ClassModalityBatchSampler(**ARGUMENTS | changes)


def test_negative_epoch():
    with pytest.raises(InputError, match="epoch=-1"):
        make(COLLECTION, 4, 3).set_epoch(-1)
