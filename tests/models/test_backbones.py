"""Backbones of all kinds under one roof: without a bottleneck, with a gate, and by the names of their pretraining."""

from __future__ import annotations

import published_convnextv2
import pytest
import timm
import torch

from zsml.errors import InputError
from zsml.models import create_model, load_model, save_model
from zsml.models.teacher import build_teacher

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TAGS = torch.tensor([0, 1, 0, 1])
# One of each kind of tower, made small where timm lets us: name, options, side in pixels.
TOWERS = [
    ("vit_small_patch16_224.dino", {"depth": 1, "img_size": 32}, 32),
    ("vit_small_patch16_dinov3.lvd1689m", {"depth": 1, "img_size": 32}, 32),
    ("vit_small_patch14_dinov2.lvd142m", {"depth": 1, "img_size": 28}, 28),
    ("vit_base_patch32_clip_224.openai", {"depth": 1, "img_size": 32}, 32),
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", {"depth": 1, "img_size": 32}, 32),
    ("convnextv2_atto.fcmae_ft_in1k", {}, 32),
    ("test_efficientnet", {}, 32),
]


@pytest.mark.parametrize(("arch", "options", "side"), TOWERS, ids=[tower[0] for tower in TOWERS])
def test_every_kind_of_tower_takes_a_gate_and_starts_unchanged(arch, options, side):
    torch.manual_seed(0)
    plain = create_model(arch, num_classes=3, embedding_dim=4, **options).eval()
    torch.manual_seed(0)
    gated = create_model(arch, num_classes=3, embedding_dim=4, gate=True, **options).eval()
    gated.load_state_dict({**gated.state_dict(), **plain.state_dict()})
    images = X[..., :side, :side]
    with torch.no_grad():
        before = gated.features(images, TAGS)
        assert before.shape == (4, gated.num_features) and torch.equal(before, plain.features(images))
        gated.gate.se.fc_tag.weight.fill_(0.5)
        after = gated.features(images, TAGS)
    assert torch.equal(after[TAGS == 0], before[TAGS == 0]) and not torch.allclose(after[TAGS == 1], before[TAGS == 1])
    assert gated.conditional and not plain.conditional
    assert all(p.requires_grad for p in gated.gate.parameters())


def test_the_gate_is_the_formula_and_trains():
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=3, embedding_dim=4, gate=True, zero_init_last=False).eval()
    for parameter in model.gate.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        f, se = model.trunk(X).double(), {name: p.double() for name, p in model.gate.se.named_parameters()}
        z = (f @ se["fc1.weight"][:, :, 0, 0].T + se["fc1.bias"]).clamp(min=0)
        a = z @ se["fc2.weight"][:, :, 0, 0].T + se["fc2.bias"] + TAGS[:, None] * se["fc_tag.weight"][:, 0]
        torch.testing.assert_close(model.features(X, TAGS).double(), f * 2 / (1 + torch.exp(-a)), rtol=1e-5, atol=1e-6)
    fresh = create_model("test_resnet", num_classes=3, embedding_dim=4, gate=True)
    fresh(X, TAGS).embedding.square().sum().backward()
    assert all(fresh.gate.se.get_parameter(name).grad.any() for name in ("fc2.weight", "fc2.bias", "fc_tag.weight"))
    assert {id(p) for p in fresh.gate.parameters()} <= {id(p) for p in fresh.new_parameters()}


def test_a_gate_asks_for_the_modality_and_is_not_for_trunks_that_have_it():
    model = create_model("test_resnet", num_classes=3, embedding_dim=4, gate=True)
    with pytest.raises(InputError, match="modality is needed by test_resnet"):
        model(X)
    with pytest.raises(InputError, match="gate=True is for backbones that do not see the modality; cse_resnet50 has gates"):
        create_model("cse_resnet50", num_classes=3, gate=True)
    with pytest.raises(TypeError, match="gate must be True or False, got 1"):
        create_model("test_resnet", num_classes=3, gate=1)


def test_without_a_bottleneck_the_embedding_is_the_features():
    torch.manual_seed(0)
    net = timm.create_model("convnextv2_atto").eval()
    model = create_model("convnextv2_atto", num_classes=3, embedding_dim=320, bottleneck=False, imagenet_head=True).eval()
    model.trunk.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("head.fc.")})
    with torch.no_grad():
        out = model(X)
        pooled = net.forward_features(X).mean((2, 3))  # the paper's: LayerNorm of the average
        expected = torch.nn.functional.layer_norm(pooled, (320,), net.head.norm.weight, net.head.norm.bias, eps=1e-6)
    torch.testing.assert_close(out.embedding, expected)
    assert torch.equal(out.logits, model.classifier(out.embedding))
    assert torch.equal(out.imagenet_logits, model.imagenet_classifier(out.embedding))
    assert model.bottleneck is None and not any("bottleneck" in name for name in model.state_dict())


def test_without_a_bottleneck_the_imagenet_head_is_the_imagenet_classifier(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("convnextv2_atto").eval()
    torch.nn.init.normal_(net.head.fc.bias)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    options = {"num_classes": 3, "embedding_dim": 320, "bottleneck": False, "pretrained": tmp_path / "w.pth"}
    model = create_model("convnextv2_atto", imagenet_head=True, **options).eval()
    assert torch.equal(model.imagenet_classifier.weight, net.head.fc.weight)
    assert torch.equal(model.imagenet_classifier.bias, net.head.fc.bias)
    with torch.no_grad():
        torch.testing.assert_close(model(X).imagenet_logits, net(X))
    assert create_model("convnextv2_atto", **options).imagenet_classifier is None


def test_both_options_are_kept_on_disk(tmp_path):
    model = create_model("test_resnet", num_classes=3, embedding_dim=96, bottleneck=False, gate=True).eval()
    torch.nn.init.normal_(model.gate.se.fc_tag.weight)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config and again.config["bottleneck"] is False and again.config["gate"] is True
    assert torch.equal(again(X, TAGS).embedding, model(X, TAGS).embedding)


def test_without_a_bottleneck_the_width_is_the_trunks():
    with pytest.raises(InputError, match="embedding_dim must be 96, the width of test_resnet, with bottleneck=False; got 512"):
        create_model("test_resnet", num_classes=3, bottleneck=False)
    with pytest.raises(TypeError, match="bottleneck must be True or False, got None"):
        create_model("test_resnet", num_classes=3, bottleneck=None)


def test_convnextv2_tiny_is_the_network_and_the_weights_of_the_paper():
    model = create_model(
        "convnextv2_tiny", num_classes=100, embedding_dim=768, bottleneck=False, imagenet_head=True, classifier_bias=True
    )
    assert model.num_features == 768 and not model.conditional
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if not name.startswith("trunk.")}
    assert shapes == {"classifier.weight": (100, 768), "classifier.bias": (100,),
                      "imagenet_classifier.weight": (1000, 768), "imagenet_classifier.bias": (1000,)}  # fmt: skip
    assert [len(stage.blocks) for stage in model.trunk.stages] == [3, 3, 9, 3]
    published = sum(p.numel() for p in timm.create_model("convnextv2_tiny").parameters())
    assert sum(p.numel() for p in model.parameters()) == published + 100 * 769 == 28_635_496 + 76_900


def test_the_file_that_the_authors_of_convnext_v2_publish_is_read(tmp_path):
    """By the reader of --pretrained and --teacher."""
    state = published_convnextv2.random_checkpoint(classes=0)
    torch.save({"model": state}, tmp_path / "convnextv2_tiny_1k_224_ema.pt")
    teacher = build_teacher("convnextv2_tiny", tmp_path / "convnextv2_tiny_1k_224_ema.pt")
    state |= {"linear.weight": torch.zeros(1, 768), "linear.bias": torch.zeros(1)}
    expected = published_convnextv2.forward(state, X[:1], TAGS[:1])["imagenet_logits"]
    with torch.no_grad():
        torch.testing.assert_close(teacher(X[:1]).double(), expected, rtol=1e-3, atol=1e-4)
