"""create_model: architectures, parameters, freezing, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from zsml.errors import InputError
from zsml.models import ModelOutput, create_model

X, TAGS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1])


def count(parameters) -> int:
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize(("classes", "total"), [(100, 27_154_416), (104, 27_156_464), (220, 27_215_856)])
def test_mathms_parameter_counts(classes, total):
    model = create_model("cse_resnet50", num_classes=classes)
    assert count(model.parameters()) == total and len(model.state_dict()) == 401
    tags = 3 * 256 + 4 * 512 + 6 * 1024 + 3 * 2048
    assert count(model.new_parameters()) == tags + 512 * 2048 + 512 + 512 * classes


@pytest.mark.parametrize(("dim", "classes", "total"), [(64, 100, 26_256_764), (64, 220, 26_264_564), (512, 104, 27_669_568)])
def test_sakes_parameter_counts(dim, classes, total):
    model = create_model("cse_resnet50", num_classes=classes, embedding_dim=dim, imagenet_head=True, classifier_bias=True)
    assert count(model.parameters()) == total


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("cse_resnet50", {}),
        ("se_resnet50", {}),
        ("resnet50", {}),
        ("mobilenetv3_small_050", {}),
        ("convnextv2_atto", {"drop_path_rate": 0.1}),
        ("vit_tiny_patch16_224", {"img_size": 32}),
        ("resnet18.a1_in1k", {}),
    ],
)
def test_output_and_rebuilding_from_the_configuration(arch, options):
    model = create_model(arch, num_classes=5, embedding_dim=8, **options).eval()
    out = model(X, TAGS)
    assert isinstance(out, ModelOutput) and out.embedding.shape == (3, 8) and out.logits.shape == (3, 5)
    assert out.imagenet_logits is None and out.embedding.dtype == torch.float32
    torch.testing.assert_close(out.logits, out.embedding @ model.classifier.weight.T)
    twin = create_model(**json.loads(json.dumps(model.config))).eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(X, TAGS).embedding, out.embedding) and twin.config == model.config
    assert model.conditional == (arch == "cse_resnet50")
    if not model.conditional:
        assert torch.equal(model(X).embedding, out.embedding)
    new, old = model.new_parameters(), model.backbone_parameters()
    assert {id(p) for p in new + old} == {id(p) for p in model.parameters()} and len(new) + len(old) == len([*model.parameters()])


def test_heads_are_optional():
    model = create_model("resnet18", num_classes=0, embedding_dim=1, imagenet_head=True).eval()
    out = model(X)
    assert out.logits is None and out.imagenet_logits.shape == (3, 1000) and out.embedding.shape == (3, 1)
    assert create_model("resnet18", num_classes=2, classifier_bias=True).classifier.bias is not None


def test_freezing_the_backbone():
    model = create_model("cse_resnet50", num_classes=5, embedding_dim=8).train()
    model.freeze_backbone(True)
    model.train()
    assert model.training and not any(m.training for m in model.trunk.modules())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(X, TAGS).logits.square().sum().backward()
    optimizer.step()
    assert all(p.grad is None for p in model.backbone_parameters()) and all(p.grad is not None for p in model.new_parameters())
    for name, value in model.state_dict().items():
        backbone = name.startswith("trunk.") and ".fc_tag." not in name
        assert torch.equal(value, before[name]) == backbone, name
    model.freeze_backbone(False)
    assert all(p.requires_grad for p in model.parameters()) and all(m.training for m in model.modules())
    model(X, TAGS)
    assert not torch.equal(model.state_dict()["trunk.layer0.bn1.running_mean"], before["trunk.layer0.bn1.running_mean"])
    model.eval().freeze_backbone(True)
    model.freeze_backbone(False)
    assert not any(m.training for m in model.modules())


def test_training_moves_the_modalities_apart():
    torch.manual_seed(0)
    model = create_model("cse_resnet50", num_classes=2, embedding_dim=4)
    model.freeze_backbone(True)
    optimizer = torch.optim.Adam(model.new_parameters(), lr=0.03)
    x, tags = X[:1].expand(2, -1, -1, -1), torch.tensor([0, 1])  # one image twice: only the tag tells them apart
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(model(x, tags).logits, tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5  # without the tag it cannot fall below log 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "rsnet50"}, "did you mean resnet50"),
        ({"arch": "cse_resnet5"}, "did you mean cse_resnet50"),
        ({"arch": ""}, "not known"),
        ({"arch": "hf-hub:someone/model"}, "not known"),
        ({"arch": "local-dir:/tmp"}, "not known"),
        ({"arch": "resnet18.no_such_weights"}, "no_such_weights"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"arch": "cse_resnet50", "cse_end": 5}, "cse_end must be 0 to 4"),
        ({"arch": "cse_resnet50", "cse_end": -1}, "cse_end must be 0 to 4"),
        ({"global_pool": "nonsense"}, "global_pool"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model(**{"arch": "resnet18", "num_classes": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": None}, "arch must be a str"),
        ({"num_classes": 2.0}, "num_classes must be an int"),
        ({"num_classes": True}, "num_classes must be an int"),
        ({"embedding_dim": "8"}, "embedding_dim must be an int"),
        ({"imagenet_head": 1}, "imagenet_head must be True or False"),
        ({"pretrained": 1}, "pretrained must be True, False or the path"),
        ({"pretrained": None}, "pretrained must be True, False or the path"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"arch": "cse_resnet50", "drop_rate": 0.1}, "has no option drop_rate; its own options are: cse_end"),
        ({"arch": "se_resnet50", "cse_end": 4}, "has no option cse_end"),
        ({"arch": "cse_resnet50", "cse_end": "4"}, "cse_end must be an int"),
        ({"act_layer": torch.nn.GELU}, "act_layer must be a plain value"),
        ({"in_chans": 1}, "in_chans cannot be passed on"),
        ({"features_only": True}, "features_only cannot be passed on"),
        ({"checkpoint_path": "x.pth"}, "checkpoint_path cannot be passed on"),
    ],
)
def test_wrong_types_and_unknown_options(arguments, message):
    with pytest.raises(TypeError, match=message):
        create_model(**{"arch": "resnet18", "num_classes": 2, **arguments})


@pytest.fixture(scope="module")
def cse():
    return create_model("cse_resnet50", num_classes=2, embedding_dim=4).eval()


@pytest.mark.parametrize(
    ("images", "modality", "kind", "message"),
    [
        (X[0], TAGS, InputError, r"images must have shape \[B, 3, H, W\]"),
        (X[:, :1], TAGS, InputError, r"images must have shape .* got \[3, 1, 32, 32\]"),
        (X[:0], TAGS[:0], InputError, "B >= 1"),
        (X[:, :, :2], TAGS, InputError, "at least 3 x 3"),
        (X.to(torch.uint8), TAGS, TypeError, "floating point"),
        (X.numpy(), TAGS, TypeError, "images must be a tensor, got ndarray"),
        (X, None, InputError, "modality is needed by cse_resnet50"),
        (X, TAGS[:2], InputError, r"shape \[3\], got \[2\]"),
        (X, TAGS[:, None], InputError, r"shape \[3\], got \[3, 1\]"),
        (X, torch.tensor(1), InputError, r"got \[\]"),
        (X, torch.tensor([0, 2, 1]), InputError, r"0 \(sketch\) or 1 \(photo\), got \[2\]"),
        (X, torch.tensor([0, -1, 1]), InputError, r"got \[-1\]"),
        (X, TAGS.float(), TypeError, "integer tensor, got torch.float32"),
        (X, [0, 1, 1], TypeError, "int64 tensor, got list"),
        (X, TAGS.to("meta"), InputError, "modality is on meta but images are on cpu"),
    ],
)
def test_bad_batches(cse, images, modality, kind, message):
    with pytest.raises(kind, match=message):
        cse(images, modality)


def test_a_trunk_of_fixed_size_names_it():
    model = create_model("vit_tiny_patch16_224", num_classes=2).eval()
    with pytest.raises(
        InputError, match=r"images must be 224 x 224 for vit_tiny_patch16_224, got shape \[3, 3, 32, 32\].*img_size"
    ):
        model(X)
    assert model(torch.zeros(1, 3, 224, 224)).embedding.shape == (1, 512)
    any_size = create_model("vit_tiny_patch16_224", num_classes=2, dynamic_img_size=True).eval()
    assert any_size(X).embedding.shape == (3, 512)


def test_a_trunk_that_does_not_pool_is_named():
    with torch.device("meta"):
        model = create_model("qwen3_vit_306m_enc", num_classes=2).eval()
        images = torch.zeros(1, 3, *model.trunk.pretrained_cfg["input_size"][1:])
        with pytest.raises(InputError, match=r"arch qwen3_vit_306m_enc gives features of shape \[1, \d+, \d+\]"):
            model(images)


def test_features_and_heads_are_the_two_halves_of_a_model():
    model = create_model("test_resnet", num_classes=3, embedding_dim=4, imagenet_head=True).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = model.features(images)
        assert features.shape == (2, model.bottleneck.in_features)
        for half, whole in zip(model.heads(features), model(images), strict=True):
            assert torch.equal(half, whole)
    with pytest.raises(InputError, match="images must have shape"):
        model.features(images[0])
