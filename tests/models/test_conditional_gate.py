"""The conditional gate and the CSE-ResNet50 trunk around it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from timm.models.senet import SEModule

from zsml.models import EmbeddingModel, create_model
from zsml.models.conditional import ConditionalSE, modality_tag

TAGS = torch.tensor([0, 1, 1, 0])


def random_gate(channels: int = 32, reduction: int = 16) -> ConditionalSE:
    gate = ConditionalSE(channels, reduction).double()
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return gate


def conditional_model(seed: int = 0) -> EmbeddingModel:
    """cse_resnet50 in eval mode with tag weights that matter."""
    torch.manual_seed(seed)
    model = create_model("cse_resnet50", num_classes=5, embedding_dim=8).eval()
    for block in (block for layer in model.trunk.stages() for block in layer):
        torch.nn.init.normal_(block.se_module.fc_tag.weight)
    return model


def test_the_gate_is_its_equation_number_by_number():
    gate = random_gate()
    x, tags = torch.randn(4, 32, 3, 5, dtype=torch.float64), TAGS
    w1, b1, w2, b2 = (p.detach().flatten(1) if p.ndim > 1 else p.detach() for p in
                      (gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias))  # fmt: skip
    out = gate(x, modality_tag(tags, x.dtype))
    for i in range(4):
        z = [max(0.0, float(sum(w1[j, c] * x[i, c].mean() for c in range(32)) + b1[j])) for j in range(2)]
        for c in range(32):
            a = sum(w2[c, j] * z[j] for j in range(2)) + b2[c] + gate.fc_tag.weight[c, 0] * tags[i]
            torch.testing.assert_close(out[i, c], x[i, c] / (1 + torch.exp(-a)), rtol=1e-12, atol=1e-12)


def test_a_new_gate_is_plain_squeeze_and_excitation_for_both_modalities():
    gate, plain = ConditionalSE(32, 16), SEModule(32, 16)
    plain.load_state_dict({name: value for name, value in gate.state_dict().items() if name != "fc_tag.weight"})
    x = torch.randn(4, 32, 7, 7)
    for tags in (TAGS, 1 - TAGS):
        assert torch.equal(gate(x, modality_tag(tags, x.dtype)), plain(x))


def test_sakes_column_form_is_the_same_gate():
    gate = random_gate(64)
    x = torch.randn(4, 64, 3, 3, dtype=torch.float64)
    column = torch.cat([gate.fc2.weight[:, :, 0, 0], gate.fc_tag.weight], dim=1)  # [C, C / 16 + 1]
    z = torch.relu(x.mean((2, 3)) @ gate.fc1.weight[:, :, 0, 0].T + gate.fc1.bias)
    a = torch.cat([z, TAGS[:, None].double()], dim=1) @ column.T + gate.fc2.bias
    torch.testing.assert_close(gate(x, modality_tag(TAGS, x.dtype)), x * a.sigmoid()[:, :, None, None], rtol=1e-12, atol=1e-12)


def test_gradients_of_the_gate():
    gate = random_gate(16)
    x = torch.randn(3, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    tag = modality_tag(TAGS[:3], x.dtype)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(gate, {"fc_tag.weight": w}, (x, tag)),
                                    (x, gate.fc_tag.weight))  # fmt: skip


def test_with_zero_tag_weights_both_modalities_see_timms_network():
    torch.manual_seed(0)
    timms = timm.create_model("legacy_seresnet50", num_classes=0).eval()  # eval: timm's has dropout in training
    model = create_model("cse_resnet50", num_classes=3, embedding_dim=8).eval()
    plain = create_model("se_resnet50", num_classes=3, embedding_dim=8).eval()
    model.trunk.load_state_dict(timms.state_dict(), strict=False)
    plain.trunk.load_state_dict(timms.state_dict())
    plain.bottleneck.load_state_dict(model.bottleneck.state_dict())
    x = torch.randn(4, 3, 65, 64)
    features = timms(x)
    assert torch.equal(model.trunk(x, modality_tag(TAGS, x.dtype)), features)
    assert torch.equal(model(x, TAGS).embedding, model(x, 1 - TAGS).embedding)
    assert torch.equal(model(x, TAGS).embedding, plain(x).embedding)
    model.train(), plain.train()  # no dropout in either
    assert torch.equal(model(x, TAGS).embedding, plain(x).embedding)


def test_the_tag_of_a_row_changes_that_row_and_no_other():
    model, x = conditional_model(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        before, after = model(x, TAGS).embedding, model(x, torch.tensor([0, 1, 0, 0])).embedding
        assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
        assert not torch.allclose(before[2], after[2], atol=1e-3)
        for i in range(4):  # batches of one
            torch.testing.assert_close(model(x[i : i + 1], TAGS[i : i + 1]).embedding[0], before[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64])
def test_integer_types_of_modality(dtype):
    model, x = conditional_model(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(x, TAGS.to(dtype)).embedding, model(x, TAGS).embedding)


def test_threads_and_several_models_do_not_disturb_each_other():
    models = [conditional_model(seed) for seed in (0, 1)]
    x = torch.randn(4, 3, 32, 32)
    jobs = [(i % 2, torch.randint(0, 2, (1 + i % 4,))) for i in range(32)]

    def run(job):
        with torch.no_grad():
            return models[job[0]](x[: len(job[1])], job[1]).embedding

    expected = [run(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        for got, alone in zip(pool.map(run, jobs), expected, strict=True):
            torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-6)


def test_stages_with_conditional_gates():
    for cse_end, tags in ((0, 0), (1, 3), (3, 13), (4, 16)):
        model = create_model("cse_resnet50", num_classes=0, cse_end=cse_end)
        assert sum(".fc_tag." in name for name in model.state_dict()) == tags
        assert model.eval()(torch.zeros(1, 3, 32, 32), torch.tensor([1])).logits is None


def test_compiled_whole_without_graph_break():
    model, x = conditional_model(), torch.randn(4, 3, 32, 32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for tags in (TAGS, 1 - TAGS):
            torch.testing.assert_close(compiled(x, tags), model(x, tags), rtol=1e-5, atol=1e-5)
        unknown = compiled(x, torch.tensor([0, 2, 1, -1])).embedding
        assert unknown.isnan().any(1).tolist() == [False, True, False, True]


def test_exported_with_any_batch():
    model, x = conditional_model(), torch.randn(4, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x, TAGS), dynamic_shapes=({0: batch}, {0: batch})).module()
    with torch.no_grad():
        for size in (1, 3, 4):
            torch.testing.assert_close(program(x[:size], TAGS[:size]), model(x[:size], TAGS[:size]), rtol=1e-5, atol=1e-5)


def test_autocast_and_channels_last():
    model, x = conditional_model(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        full = model(x, TAGS).embedding
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x, TAGS).embedding
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), TAGS).embedding
    assert half.dtype == torch.bfloat16 and (half - full).abs().max() <= 0.05 * full.abs().max()
    torch.testing.assert_close(last, full, rtol=1e-3, atol=1e-5 * float(full.abs().max()))
