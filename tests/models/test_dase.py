"""The trunks of DASE: gates with a sigmoid in the middle, which stages see the modality, and the published start."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from zsml.errors import InputError
from zsml.models import create_model
from zsml.models.conditional import ConditionalSE, modality_tag
from zsml.models.dase import DaseAlexNet

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TAGS = torch.tensor([0, 1, 1, 0])
SOURCES = {
    "dase_resnext101": "legacy_seresnext101_32x4d",
    "dase_resnet50": "legacy_seresnet50",
    "dase_resnet18": "legacy_seresnet18",
}


def gates(model: nn.Module) -> dict[str, ConditionalSE]:
    return {name: module for name, module in model.trunk.named_modules() if isinstance(module, ConditionalSE)}


def with_sigmoid_inside(net: nn.Module) -> nn.Module:
    """timm's network of plain gates, with the activation in the middle that DASE has."""
    for module in net.modules():
        if type(module).__name__ == "SEModule":
            module.relu = nn.Sigmoid()
    return net


def numbers_everywhere(net: nn.Module) -> nn.Module:
    """BatchNorm statistics as after a training, so that no two of them are alike."""
    for name, value in net.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif name.endswith("running_mean"):
            value.copy_(0.1 * torch.randn(value.shape))
    return net


# ---- the gate ----------------------------------------------------------------------------------------------------------------


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


@pytest.mark.parametrize(("mid_act", "act"), [("sigmoid", sigmoid), ("relu", lambda a: np.maximum(a, 0))])
def test_the_gate_is_its_formula_with_the_tag_appended(mid_act, act):
    gate = ConditionalSE(48, 16, mid_act=mid_act, tag_init="random").double()
    for parameter in gate.parameters():
        nn.init.normal_(parameter)
    u = torch.randn(4, 48, 3, 5, dtype=torch.float64)
    w1, b1, w2, b2, w_tag = (p.detach().flatten(1).numpy() if p.ndim > 1 else p.detach().numpy() for p in
                             (gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias, gate.fc_tag.weight))  # fmt: skip
    squeezed = act(u.numpy().mean((2, 3)) @ w1.T + b1)  # [B, 3]
    with_tag = np.concatenate([squeezed, TAGS.numpy()[:, None]], axis=1)  # [B, 4]
    expected = u.numpy() * sigmoid(with_tag @ np.concatenate([w2, w_tag], axis=1).T + b2)[:, :, None, None]
    np.testing.assert_allclose(gate(u, modality_tag(TAGS, u.dtype)).detach().numpy(), expected, rtol=1e-12, atol=1e-13)


def test_a_random_start_is_that_of_one_linear_layer_over_both():
    torch.manual_seed(0)
    gate = ConditionalSE(1024, 16, mid_act="sigmoid", tag_init="random")
    bound = 65**-0.5
    assert gate.fc_tag.weight.abs().max() <= bound and gate.fc2.weight.abs().max() <= bound
    for weight in (gate.fc_tag.weight, gate.fc2.weight):
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)  # of a uniform distribution


# ---- the residual trunks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["dase_resnet18", "dase_resnet50"])
def test_with_zero_tag_weights_both_modalities_see_plain_gates_with_the_sigmoid(arch):
    torch.manual_seed(0)
    plain = numbers_everywhere(with_sigmoid_inside(timm.create_model(SOURCES[arch], num_classes=0))).eval()
    model = create_model(arch, num_classes=3, embedding_dim=8).eval()
    missing, unexpected = model.trunk.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(name.endswith("fc_tag.weight") for name in missing)
    with torch.no_grad():
        features = plain(X)
        for tags in (TAGS, 1 - TAGS):
            assert torch.equal(model.features(X, tags), features) and features.any()
        for gate in gates(model).values():
            gate.mid_act = nn.ReLU()  # the sigmoid does matter
        assert not torch.allclose(model.features(X, TAGS), features, rtol=1e-3)


@pytest.mark.parametrize(("arch", "blocks"), [("dase_resnext101", (3, 4, 23, 3)), ("dase_resnet18", (2, 2, 2, 2))])
def test_names_and_shapes_are_timms_and_the_tag_is_in_stages_1_to_3(arch, blocks):
    with torch.device("meta"):
        model = create_model(arch, num_classes=0)  # no weights: shapes alone
        source = timm.create_model(SOURCES[arch], num_classes=0)
    shapes = {name: tuple(value.shape) for name, value in model.trunk.state_dict().items()}
    tags = {name: shape for name, shape in shapes.items() if ".fc_tag." in name}
    assert {n: s for n, s in shapes.items() if n not in tags} == {n: tuple(v.shape) for n, v in source.state_dict().items()}
    widths = [64 * 2**stage * (1 if arch == "dase_resnet18" else 4) for stage in range(4)]
    assert tags == {f"layer{stage + 1}.{block}.se_module.fc_tag.weight": (widths[stage], 1)
                    for stage in range(3) for block in range(blocks[stage])}  # fmt: skip
    assert all(isinstance(gate.mid_act, nn.Sigmoid) for gate in gates(model).values()) and len(gates(model)) == sum(blocks)
    assert gates(model)["layer4.0.se_module"].fc2.weight.shape == (widths[3], widths[3] // 16, 1, 1)
    assert model.bottleneck.weight.shape == (512, widths[3]) and model.conditional
    assert sum(p.numel() for p in model.parameters()) == (
        sum(p.numel() for p in source.parameters()) + sum(n * w for n, w in zip(blocks[:3], widths, strict=False))
        + 512 * widths[3] + 512)  # fmt: skip


def test_the_modality_counts_in_stages_1_to_3_and_not_in_stage_4():
    torch.manual_seed(0)
    model = create_model("dase_resnet18", num_classes=0, embedding_dim=8).eval()
    for gate in gates(model).values():
        if gate.fc_tag is not None:
            nn.init.normal_(gate.fc_tag.weight)
    with torch.no_grad():
        before, after = (model(X, tags).embedding for tags in (TAGS, torch.tensor([0, 1, 0, 0])))
        assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]]) and not torch.allclose(before[2], after[2], atol=1e-4)
        maps = torch.randn(2, 256, 2, 2)
        last = [model.trunk.layer4[0](maps, torch.full((2, 1), tag)) for tag in (0.0, 1.0)]
    assert torch.equal(*last)
    assert all(gate.fc_tag is not None for gate in gates(create_model("dase_resnet18", num_classes=0, cse_end=4)).values())
    model.train()(X, TAGS).embedding.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if ".fc_tag." in name)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A file with the names and shapes of timm's SE-ResNet18, and what it holds."""
    torch.manual_seed(0)
    net = numbers_everywhere(timm.create_model("legacy_seresnet18"))
    path = tmp_path_factory.mktemp("imagenet") / "seresnet18-4bb0ce65.pth"
    torch.save(net.state_dict(), path)
    return path, net.state_dict()


def test_pretrained_weights(imagenet):
    path, weights = imagenet
    model = create_model("dase_resnet18", num_classes=3, embedding_dim=16, pretrained=path).eval()
    for name, value in model.trunk.state_dict().items():
        assert torch.equal(value, torch.zeros_like(value) if ".fc_tag." in name else weights[name]), name
    values = torch.linalg.svdvals(weights["last_linear.weight"].double())
    torch.testing.assert_close(torch.linalg.svdvals(model.bottleneck.weight.double()),
                               values[:16] * values.sum() / values[:16].sum(), rtol=1e-4, atol=1e-6)  # fmt: skip
    with torch.no_grad():
        assert torch.equal(model(X, TAGS).embedding, model(X, 1 - TAGS).embedding)


def test_the_published_start_leaves_w1_b1_and_b2_loaded(imagenet):
    path, weights = imagenet
    torch.manual_seed(1)
    model = create_model("dase_resnet18", num_classes=3, embedding_dim=512, pretrained=path, tag_init="random").eval()
    for name, value in model.trunk.state_dict().items():
        if name.startswith(("layer1", "layer2", "layer3")) and name.endswith(("fc2.weight", "fc_tag.weight")):
            channels = value.shape[0]
            bound = (channels // 16 + 1) ** -0.5
            assert 0.9 * bound < value.abs().max() <= bound and value.std() > 0.4 * bound, name
        else:  # also W2 of stage 4
            assert torch.equal(value, weights[name]), name
    bound = 512**-0.5  # torch's default for a linear layer of 512 inputs, not the ImageNet classifier's directions
    assert model.bottleneck.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert model.bottleneck.weight.abs().max() <= bound
    with torch.no_grad():
        assert not torch.allclose(model(X, TAGS).embedding, model(X, 1 - TAGS).embedding, atol=1e-4)


def test_pretrained_weights_of_the_resnext_are_timms_by_name(tmp_path):
    with torch.device("meta"):
        names = {name: value.shape for name, value in timm.create_model("legacy_seresnext101_32x4d").state_dict().items()}
    weights = {name: torch.tensor(i / 1024).expand(shape) for i, (name, shape) in enumerate(names.items())}
    torch.save(weights, tmp_path / "se_resnext101_32x4d-3b2fe3d8.pth")  # one number each
    # The classifier's directions take a singular value decomposition of seconds; a random start needs none.
    model = create_model("dase_resnext101", num_classes=0, pretrained=tmp_path / "se_resnext101_32x4d-3b2fe3d8.pth",
                         tag_init="random")  # fmt: skip
    kept = 3 + 4 + 23
    different = [
        name for name, value in model.trunk.state_dict().items() if not torch.equal(value, weights.get(name, X).to(value))
    ]
    assert len(different) == 2 * kept and all(name.endswith(("fc2.weight", "fc_tag.weight")) for name in different)


# ---- AlexNet -----------------------------------------------------------------------------------------------------------------


def alexnet_by_hand(trunk: DaseAlexNet, x: torch.Tensor, tags: torch.Tensor | None) -> torch.Tensor:
    """Five convolutions and one linear layer at test time, in float64, from the weights alone."""
    w = {name: value.double() for name, value in trunk.state_dict().items()}
    f = nn.functional

    def normalise(x, name):
        return f.batch_norm(x, *(w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    for k, (stride, padding, pooled) in enumerate([(4, 2, True), (1, 2, True), (1, 1, False), (1, 1, False), (1, 1, True)]):
        x = f.conv2d(x, w[f"layers.{k}.conv.weight"], stride=stride, padding=padding)
        x = normalise(x, f"layers.{k}.bn").clamp(min=0)
        gate = f"layers.{k}.se_module"
        z = torch.sigmoid(x.mean((2, 3)) @ w[f"{gate}.fc1.weight"].flatten(1).T + w[f"{gate}.fc1.bias"])
        a = z @ w[f"{gate}.fc2.weight"].flatten(1).T + w[f"{gate}.fc2.bias"]
        if tags is not None:
            a = a + tags.double()[:, None] * w[f"{gate}.fc_tag.weight"].T
        x = x * torch.sigmoid(a)[:, :, None, None]
        x = f.max_pool2d(x, 3, 2, 1) if pooled else x
    return normalise(x.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"], "bn").clamp(min=0)


@pytest.mark.parametrize("published", [False, True])
def test_alexnet(published):
    torch.manual_seed(0)
    model = create_model("dase_alexnet", num_classes=3, embedding_dim=8, published=published).double().eval()
    for name, value in model.trunk.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape) + 0.5)
        elif name.endswith(("running_mean", "bn.bias", "fc_tag.weight")):
            value.copy_(torch.randn(value.shape) / 4)
    x, tags = X.double(), None if published else TAGS
    expected = alexnet_by_hand(model.trunk, x, tags)
    torch.testing.assert_close(model.features(x, tags), expected, rtol=1e-10, atol=1e-12)
    assert expected.count_nonzero() > 4096
    widths = [64, 192, 384, 256, 256]
    reduced = [width // (1 if published else 16) for width in widths]
    assert [gate.fc1.weight.shape[:2] for gate in gates(model).values()] == list(zip(reduced, widths, strict=True))
    assert model.conditional != published and [g.fc_tag is None for g in gates(model).values()] == [published] * 5
    if not published:
        assert not torch.allclose(model.features(x, 1 - TAGS), expected)
    twin = create_model(**json.loads(json.dumps(model.config))).double().eval()
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin(x, tags).embedding, model(x, tags).embedding)


def test_the_last_map_of_the_alexnet_is_7_by_7():
    trunk, maps = DaseAlexNet().eval(), []
    trunk.layers[-1].register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    trunk(torch.zeros(1, 3, 224, 224), torch.zeros(1, 1))
    assert maps == [(1, 256, 7, 7)]


# ---- what is refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"arch": "dase_resnext10"}, InputError, "did you mean dase_resnext101"),
        ({"arch": "dase_resnet18", "tag_init": "ones"}, InputError, "tag_init must be one of zero, random, got 'ones'"),
        ({"arch": "dase_resnet18", "mid_act": "tanh"}, InputError, "mid_act must be one of relu, sigmoid, got 'tanh'"),
        ({"arch": "dase_resnet18", "mid_act": 1}, TypeError, "mid_act must be a str, got int"),
        ({"arch": "dase_resnet18", "cse_end": 5}, InputError, "cse_end must be 0 to 4"),
        ({"arch": "dase_resnet18", "published": True}, TypeError, "has no option published; its own options are: cse_end, mid"),
        ({"arch": "dase_alexnet", "published": "yes"}, TypeError, "published must be True or False, got 'yes'"),
        ({"arch": "dase_alexnet", "published": True, "tag_init": "random"}, InputError, "no meaning with published=True"),
        ({"arch": "dase_alexnet", "cse_end": 3}, TypeError, "has no option cse_end; its own options are: published, tag_init"),
        ({"arch": "dase_alexnet", "pretrained": True}, InputError, "no ImageNet weights of dase_alexnet; pass pretrained=False"),
    ],
)
def test_bad_options(arguments, kind, message):
    with pytest.raises(kind, match=message):
        create_model(num_classes=2, **arguments)


def test_bad_batches():
    model = create_model("dase_alexnet", num_classes=2).eval()
    with pytest.raises(InputError, match="modality is needed by dase_alexnet"):
        model(X)
    with pytest.raises(InputError, match=r"images must be at least 7 x 7 pixels for dase_alexnet, got shape \[4, 3, 6, 32\]"):
        model(X[:, :, :6], TAGS)
    assert model(X[:, :, :7], TAGS).embedding.shape == (4, 512)
