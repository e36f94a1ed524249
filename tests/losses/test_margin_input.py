"""Bad settings and bad batches of the losses over class centres: the message names them."""

from __future__ import annotations

import pytest
import torch

from zsml.errors import InputError
from zsml.losses import ArcFaceLoss, ASoftmaxLoss, CosFaceLoss, EMSLoss, MEMSLoss

LOSSES = (MEMSLoss, EMSLoss, CosFaceLoss, ArcFaceLoss, ASoftmaxLoss)
every_loss = pytest.mark.parametrize("make", LOSSES, ids=lambda make: make.__name__)


@every_loss
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 0}, ["num_classes must be a whole number, at least 1", "got 0"]),
        ({"num_classes": 2.0}, ["num_classes", "2.0"]),
        ({"num_classes": None}, ["num_classes", "None"]),
        ({"embedding_dim": -1}, ["embedding_dim must be a whole number, at least 1", "-1"]),
        ({"embedding_dim": True}, ["embedding_dim", "True"]),
        ({"annealing_steps": -1}, ["annealing_steps must be a whole number, at least 0", "-1"]),
        ({"annealing_steps": 1.5}, ["annealing_steps", "1.5"]),
        ({"margin": float("nan")}, ["margin must be", "nan"]),
        ({"margin": "wide"}, ["margin must be", "wide"]),
        ({"margin": -0.5}, ["margin must be", "-0.5"]),
    ],
)
def test_bad_settings_are_named(make, options, words):
    with pytest.raises(InputError) as error:
        make(**({"num_classes": 3, "embedding_dim": 2} | options))
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (MEMSLoss, {"margin": 0}, ["margin must be a positive number", "0"]),
        (EMSLoss, {"variant": "cubed"}, ["variant must be one of", "plain", "cubed"]),
        (EMSLoss, {"variant": None}, ["variant must be one of", "None"]),
        (CosFaceLoss, {"scale": 0.0}, ["scale must be a positive number", "0.0"]),
        (ArcFaceLoss, {"scale": float("inf")}, ["scale must be a positive number", "inf"]),
        (ArcFaceLoss, {"margin": 28.6}, ["margin must be a number, from 0 to 3.14159", "28.6"]),
        (ASoftmaxLoss, {"margin": 2.5}, ["margin must be a whole number, at least 1", "2.5"]),
        (ASoftmaxLoss, {"margin": 0}, ["margin must be a whole number, at least 1", "got 0"]),
    ],
)
def test_bad_settings_of_one_loss(make, options, words):
    with pytest.raises(InputError) as error:
        make(3, 2, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


@every_loss
def test_no_scale_where_it_means_nothing(make):
    if make in (CosFaceLoss, ArcFaceLoss):
        assert make(3, 2, scale=8.0).scale == 8.0
        return
    with pytest.raises(TypeError, match="scale"):
        make(3, 2, scale=8.0)


@every_loss
@pytest.mark.parametrize(
    ("embeddings", "labels", "error", "word"),
    [
        ([[0.0, 0.0]], torch.tensor([0]), TypeError, "embeddings must be a torch.Tensor"),
        (torch.zeros(2), torch.tensor([0]), InputError, "embeddings must have shape"),
        (torch.zeros(0, 2), torch.zeros(0).long(), InputError, "embeddings must have shape"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), TypeError, "embeddings must be float16"),
        (torch.zeros(3, 4), torch.zeros(3).long(), InputError, r"embeddings must have shape \[B, 2\], got \[3, 4\]"),
        (torch.zeros(3, 2), torch.zeros(4).long(), InputError, "labels"),
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "labels must be int64"),
        (torch.zeros(3, 2), None, TypeError, "labels"),
        (torch.zeros(3, 2), torch.full((3,), 3), InputError, "labels must lie in 0 to 2, one row of centers each, got 3 to 3"),
        (torch.zeros(3, 2), torch.full((3,), -1), InputError, "labels must lie in 0 to 2"),
    ],
)
def test_bad_batches_are_named_and_not_counted(make, embeddings, labels, error, word):
    loss = make(3, 2, annealing_steps=5)
    with pytest.raises(error, match=word):
        loss(embeddings, labels)
    assert loss.step.item() == 0


def test_the_settings_show():
    assert repr(MEMSLoss(3, 2)) == "MEMSLoss(num_classes=3, embedding_dim=2, margin=4.0, annealing_steps=0, gather=False)"
    assert "variant='plain'" in repr(EMSLoss(3, 2)) and "scale=64.0" in repr(ArcFaceLoss(3, 2))
