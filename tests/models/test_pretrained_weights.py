"""Starting from ImageNet weights: files from disk, the bottleneck's initialisation, and what happens offline."""

from __future__ import annotations

import socket

import pytest
import timm
import torch
from safetensors.torch import save_file

from zsml.errors import InputError
from zsml.models import create_model
from zsml.models.pretrained import svd_bottleneck

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TAGS = torch.tensor([0, 1])


@pytest.fixture(scope="module")
def imagenet() -> torch.nn.Module:
    """Stands for the published network: timm's, with numbers of its own in every weight and statistic."""
    torch.manual_seed(0)
    net = timm.create_model("legacy_seresnet50", drop_rate=0.0).eval()
    for name, value in net.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(5))
    return net


@pytest.fixture(scope="module")
def weights(imagenet) -> dict[str, torch.Tensor]:
    return dict(imagenet.state_dict())


def features(net: torch.nn.Module) -> torch.Tensor:
    return net.forward_head(net.forward_features(X), pre_logits=True)


def write(path, weights, kind: str) -> None:
    without = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    if kind == "safetensors":
        save_file(weights, path)
    elif kind == "published":  # in 2018: before torch's zip format, before num_batches_tracked
        torch.save(without, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)


@pytest.mark.parametrize(
    ("arch", "kind"),
    [("cse_resnet50", "published"), ("cse_resnet50", "safetensors"), ("cse_resnet50", "wrapped"), ("se_resnet50", "published")],
)
def test_a_file_from_disk(tmp_path, imagenet, weights, arch, kind):
    path = tmp_path / "se_resnet50-ce0d4300.pth"  # the content tells the kind, not the name
    write(path, weights, kind)
    model = create_model(arch, num_classes=5, embedding_dim=4, pretrained=path if kind == "wrapped" else str(path)).eval()
    for name, value in model.trunk.state_dict().items():
        if ".fc_tag." in name:
            assert not value.any()
        elif not (name.endswith("num_batches_tracked") and kind == "published"):
            assert torch.equal(value, weights[name]), name
    with torch.no_grad():
        expected = model.bottleneck(features(imagenet))
        for tags in (TAGS, 1 - TAGS):
            assert torch.equal(model(X, tags).embedding, expected)
    assert "pretrained" not in model.config


def test_the_bottleneck_splits_the_imagenet_classifier(tmp_path, weights):
    write(tmp_path / "w.pth", weights, "published")
    wc = weights["last_linear.weight"].double()
    u, s, vt = torch.linalg.svd(wc, full_matrices=False)
    sake = create_model("cse_resnet50", num_classes=5, embedding_dim=64, imagenet_head=True, pretrained=tmp_path / "w.pth")
    truncated = (u[:, :64] * s[:64]) @ vt[:64]
    product = sake.imagenet_classifier.weight.double() @ sake.bottleneck.weight.double()
    assert (product - truncated).abs().max() <= 1e-6 * truncated.abs().max()
    mathm = create_model("cse_resnet50", num_classes=5, embedding_dim=64, pretrained=tmp_path / "w.pth").bottleneck.weight
    assert mathm.shape == (64, 2048)
    torch.testing.assert_close(torch.linalg.svdvals(mathm.double()), s[:64] * s.sum() / s[:64].sum(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(mathm.double() @ vt[:64].T @ vt[:64], mathm.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize(("classes", "width", "dim"), [(10, 20, 4), (10, 20, 10), (10, 20, 15), (20, 10, 12), (3, 3, 1)])
def test_svd_bottleneck(classes, width, dim, rotate):
    w = torch.randn(classes, width, dtype=torch.float64, generator=torch.Generator().manual_seed(dim))
    bottleneck, classifier = svd_bottleneck(w, dim, rotate=rotate)
    assert bottleneck.shape == (dim, width) and classifier.shape == (classes, dim)
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    kept = min(dim, len(s))
    torch.testing.assert_close(classifier @ bottleneck, (u[:, :kept] * s[:kept]) @ vt[:kept], rtol=1e-10, atol=1e-12)
    values = torch.linalg.svdvals(bottleneck)[:kept]
    torch.testing.assert_close(values, s[:kept] * (s.sum() / s[:kept].sum() if rotate else 1.0), rtol=1e-10, atol=1e-12)
    gram = bottleneck @ bottleneck.T
    is_diagonal = torch.allclose(gram, torch.diag(gram.diag()), atol=1e-9)
    assert is_diagonal == (not rotate or dim == 1)


def test_everything_that_does_not_fit_is_listed(tmp_path, weights):
    broken = dict(weights)
    del broken["layer3.1.conv2.weight"], broken["layer0.bn1.running_mean"]
    broken["layer2.0.se_module.fc1.weight"] = torch.zeros(31, 512, 1, 1)
    broken["last_linear.weight"] = torch.zeros(999, 2048)
    broken["extra.weight"] = torch.zeros(1)
    write(tmp_path / "w.pth", broken, "published")
    with pytest.raises(InputError) as error:
        create_model("cse_resnet50", num_classes=5, pretrained=tmp_path / "w.pth")
    for part in ("w.pth", "layer3.1.conv2.weight", "layer0.bn1.running_mean", "layer2.0.se_module.fc1.weight",
                 "last_linear.weight", "999", "extra.weight"):  # fmt: skip
        assert part in str(error.value)


def test_other_timm_models_read_their_file(tmp_path):
    net = timm.create_model("resnet18").eval()
    torch.save(net.state_dict(), tmp_path / "r.pth")
    model = create_model("resnet18", num_classes=3, embedding_dim=4, pretrained=tmp_path / "r.pth").eval()
    expected = torch.nn.functional.linear(features(net), model.bottleneck.weight, model.bottleneck.bias)
    torch.testing.assert_close(model(X).embedding, expected)
    values = torch.linalg.svdvals(net.fc.weight)
    torch.testing.assert_close(torch.linalg.svdvals(model.bottleneck.weight), values[:4] * values.sum() / values[:4].sum(),
                               rtol=1e-4, atol=1e-5)  # fmt: skip
    with pytest.raises(InputError, match=r"does not fit resnet34.*Missing key.*layer1\.2\.conv1.* and 75 more"):
        create_model("resnet34", num_classes=3, pretrained=tmp_path / "r.pth")
    with pytest.raises(InputError, match="does not fit legacy_seresnet50"):
        create_model("cse_resnet50", num_classes=3, pretrained=tmp_path / "r.pth")


def test_what_stands_on_a_backbone_without_linear_classifier_starts_random(tmp_path):
    net = timm.create_model("vit_tiny_patch16_224", img_size=32)
    torch.save(net.state_dict(), tmp_path / "v.pth")
    options = {"num_classes": 3, "embedding_dim": 4, "img_size": 32, "pretrained": tmp_path / "v.pth"}
    assert create_model("vit_tiny_patch16_224", imagenet_head=True, **options).imagenet_classifier.weight.shape == (1000, 4)
    net = timm.create_model("vit_small_patch14_dinov2", img_size=28)
    torch.save(net.state_dict(), tmp_path / "v.pth")
    model = create_model("vit_small_patch14_dinov2", imagenet_head=True, **{**options, "img_size": 28})
    assert torch.equal(model.trunk.blocks[3].attn.qkv.weight, net.blocks[3].attn.qkv.weight)
    for layer in (model.bottleneck, model.imagenet_classifier):
        bound = layer.in_features**-0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("content", [None, b"", b"no weights\n", torch.zeros(3), {"a": [1]}, {}, {"state_dict": {}}])
def test_files_that_hold_no_weights(tmp_path, content):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(InputError, match=r"w\.pth"):
        create_model("resnet18", num_classes=3, pretrained=path)


def test_a_damaged_safetensors_file(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-4])
    with pytest.raises(InputError, match="damaged"):
        create_model("resnet18", num_classes=3, pretrained=tmp_path / "w.safetensors")


@pytest.mark.parametrize(("arch", "source"), [("cse_resnet50", "se_resnet50-ce0d4300.pth"), ("resnet18", "resnet18")])
def test_pretrained_true_without_a_network(monkeypatch, tmp_path, arch, source):
    def unplugged(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", unplugged)
    monkeypatch.setattr(socket.socket, "connect", unplugged)
    for cache in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(cache, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # its five patient retries take a minute
    with pytest.raises(InputError, match=rf"pretrained=True: timm could not get .*{source}.*pretrained=PATH"):
        create_model(arch, num_classes=3, pretrained=True)
