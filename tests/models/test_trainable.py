"""Which parts of a model train: everything, the normalisation layers, or the heads alone."""

from __future__ import annotations

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm

from zsml.errors import InputError
from zsml.models import create_model

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TAGS = torch.tensor([0, 1, 0, 1])
HEADS = {"bottleneck.weight", "bottleneck.bias", "classifier.weight"}


def trained(model) -> set[str]:
    """Names of the tensors that one training step changes, statistics included."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    out = model(X, TAGS)
    (out.logits.square().sum() + out.embedding.square().sum()).backward()
    optimizer.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def build(arch: str = "test_resnet", **options):
    torch.manual_seed(0)
    return create_model(arch, num_classes=3, embedding_dim=4, **options)


def norm_tensors(model, *kinds: type) -> set[str]:
    """Names of everything that the trunk's layers of these kinds hold."""
    layers = {name: module for name, module in model.trunk.named_modules() if isinstance(module, kinds)}
    return {f"trunk.{name}.{tensor}" for name, module in layers.items() for tensor in module.state_dict()}


def test_norms_are_batchnorm_weights_and_their_statistics():
    model = build(zero_init_last=False)  # else some weights have no gradient yet
    model.trainable("norms")
    batch_norms = norm_tensors(model, torch.nn.BatchNorm2d)
    assert trained(model) == batch_norms | HEADS and any(name.endswith("running_mean") for name in batch_norms)


@pytest.mark.parametrize(
    ("arch", "kinds"), [("test_vit", (torch.nn.LayerNorm,)), ("convnextv2_atto", (torch.nn.LayerNorm, GlobalResponseNorm))]
)
def test_norms_of_other_backbones(arch, kinds):
    model = build(arch, **({"img_size": 32} if arch == "test_vit" else {}))
    model.trainable("norms")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == norm_tensors(model, *kinds) | HEADS


def test_head_leaves_the_trunk_as_at_test_time():
    model = build()
    model.trainable("head")
    assert trained(model) == HEADS
    assert not any(module.training for module in model.trunk.modules()) and model.bottleneck.training


def test_tag_weights_train_with_norms_and_rest_with_head():
    model = build("cse_resnet50")
    for what, expected in (("all", True), ("norms", True), ("head", False)):
        model.trainable(what)
        assert {p.requires_grad for name, p in model.named_parameters() if ".fc_tag." in name} == {expected}


def test_freezing_for_some_epochs_and_the_choice_go_together():
    model = build()
    every = {name for name, _ in model.named_parameters()}
    heads = {name for name in every if not name.startswith("trunk.")}

    def now() -> set[str]:
        return {name for name, p in model.named_parameters() if p.requires_grad}

    model.trainable("norms")
    norms = now()
    assert heads < norms < every
    model.freeze_backbone(True)
    assert now() == heads and not model.train().trunk.training
    model.freeze_backbone(False)
    assert now() == norms and model.trunk.training
    model.trainable("all")
    assert now() == every


@pytest.mark.parametrize("what", ["none", "", None, 1])
def test_another_word(what):
    with pytest.raises(InputError, match="trainable must be one of all, norms, head, got"):
        build().trainable(what)
