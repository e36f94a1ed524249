"""The frozen ImageNet teacher: what it computes, that it stays as it is, and what it refuses."""

from __future__ import annotations

import pytest
import timm
import torch

from zsml.errors import InputError
from zsml.models import create_model
from zsml.models.teacher import build_teacher

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_teacher_is_the_network_in_the_file(tmp_path, wrapped):
    net = timm.create_model("test_resnet").eval()
    torch.save({"state_dict": net.state_dict()} if wrapped else net.state_dict(), tmp_path / "t.pth")
    teacher = build_teacher("test_resnet", tmp_path / "t.pth")
    with torch.no_grad():
        assert torch.equal(teacher(X), net(X))


def test_the_teacher_of_a_conditional_student_is_plain_and_equals_its_start(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("legacy_seresnet50", drop_rate=0.0)
    torch.save(net.state_dict(), tmp_path / "t.pth")
    teacher = build_teacher("cse_resnet50", str(tmp_path / "t.pth"))
    student = create_model("cse_resnet50", num_classes=2, embedding_dim=4, pretrained=tmp_path / "t.pth").eval()
    with torch.no_grad():
        features = student.features(X, torch.tensor([0, 1]))
        torch.testing.assert_close(teacher(X), net.eval().last_linear(features))


def test_nothing_moves_a_teacher():
    parent = torch.nn.Module()
    parent.teacher = build_teacher("test_resnet", "random")
    before = {name: value.clone() for name, value in parent.state_dict().items()}
    parent.train()
    assert not any(module.training for module in parent.teacher.modules())
    assert not any(parameter.requires_grad for parameter in parent.parameters())
    logits = parent.teacher(X)
    assert logits.shape == (2, 1000) and not logits.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in parent.state_dict().items())


@pytest.mark.parametrize(
    ("arch", "source", "error", "message"),
    [
        (3, "random", TypeError, "arch must be a str, got int"),
        ("test_resnet", None, TypeError, "source must be 'imagenet', 'random' or the path"),
        ("no_such_net", "random", InputError, "arch 'no_such_net' has no teacher"),
        ("dase_alexnet", "random", InputError, "arch .dase_alexnet. has no teacher: there are no ImageNet weights"),
        ("test_resnet.no_tag", "random", InputError, "arch .test_resnet.no_tag. has no teacher: Invalid pretrained tag"),
        ("test_resnet", "", InputError, "--teacher is missing: imagenet, the path of a weight file, or random"),
        ("test_resnet", "missing.pth", InputError, r"--teacher: missing\.pth is not there"),
    ],
)
def test_what_is_no_teacher(arch, source, error, message):
    with pytest.raises(error, match=message):
        build_teacher(arch, source)


def test_weights_that_make_no_teacher(tmp_path, monkeypatch):
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), tmp_path / "t.pth")
    with pytest.raises(InputError, match=r"(?s)--teacher: .*t\.pth does not fit test_resnet.*1000"):
        build_teacher("test_resnet", tmp_path / "t.pth")
    net = timm.create_model("vit_small_patch14_dinov2", img_size=28)  # self-supervised: no classifier
    torch.save(net.state_dict(), tmp_path / "v.pth")
    with pytest.raises(InputError, match="tells 0 classes apart, and a teacher must know the 1000"):
        build_teacher("vit_small_patch14_dinov2", tmp_path / "v.pth", img_size=28)


def test_a_teacher_without_a_network(monkeypatch):
    def unplugged(*args, pretrained=False, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("zsml.models.pretrained.timm.create_model", unplugged)
    with pytest.raises(InputError, match=r"--teacher imagenet: timm could not get .*convnextv2_tiny_1k.*pass --teacher FILE"):
        build_teacher("convnextv2_tiny", "imagenet")


def test_the_parts_of_a_teacher_that_may_learn():
    teacher = build_teacher("test_resnet", "random")
    assert teacher.parts("none") == [] and len(teacher.parts("all")) == len(list(teacher.parameters()))
    assert [id(p) for p in teacher.parts("head")] == [id(teacher.net.fc.weight), id(teacher.net.fc.bias)]
    with pytest.raises(InputError, match="what must be one of none, head, all, got 'tail'"):
        teacher.parts("tail")
