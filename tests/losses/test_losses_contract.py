"""What every public loss promises: one loop over zsml.losses, so that a new loss cannot be forgotten."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_distillation import Distilled
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import zsml.losses
from zsml.errors import InputError
from zsml.losses import CrossBatchMemory, MATHMLoss, MemoryLoss, SupConLoss

CLASSES, WIDTH = 6, 8

# Constructor arguments of every public loss; several where they lead to other code.
ARGUMENTS = {
    "ModalityTripletLoss": [{}, {"terms": ("within",), "beta": 5.0, "weighting": "released"}],
    "MATHMLoss": [{}],
    "SupConLoss": [{}, {"pairs": "cross"}],
    "NTXentLoss": [{}, {"pairs": "within", "normalize": False, "temperature": 1.0}],
    "MEMSLoss": [{"num_classes": CLASSES, "embedding_dim": WIDTH}],
    "EMSLoss": [{"num_classes": CLASSES, "embedding_dim": WIDTH, "variant": v} for v in ("plain", "squared")],
    "CosFaceLoss": [{"num_classes": CLASSES, "embedding_dim": WIDTH}],
    "ArcFaceLoss": [{"num_classes": CLASSES, "embedding_dim": WIDTH, "annealing_steps": 5}],
    "ASoftmaxLoss": [{"num_classes": CLASSES, "embedding_dim": WIDTH}],
    "GaussianAlignmentLoss": [{}],
    "CrossBatchMemory": [{"loss": MATHMLoss(), "size": 30}, {"loss": SupConLoss(), "size": 30}],
    "MemoryLoss": [{"num_classes": CLASSES, "size": 3}],
    "DistillationLoss": [{}, {"temperature": 4.0, "bonus": 1.0}],
}
FITTED = {"DistillationLoss": Distilled}  # losses that take something else than embeddings, labels and modality
PUBLIC = [
    name for name in zsml.losses.__all__
    if isinstance(thing := getattr(zsml.losses, name), type) and issubclass(thing, nn.Module)
]  # fmt: skip
# Their training forward changes what the next one does, so that it may not be run twice for one step.
REMEMBERS = {"CrossBatchMemory", "ArcFaceLoss", "MemoryLoss"}

every_loss = pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(name, options, id=f"{name}-{i}") for name in PUBLIC for i, options in enumerate(ARGUMENTS.get(name, ()))],
)


def test_every_public_loss_is_in_the_table():
    missing = set(PUBLIC) - set(ARGUMENTS)
    assert not missing, f"add constructor arguments of {sorted(missing)} to ARGUMENTS"


def fresh(name: str, options: dict) -> nn.Module:
    loss = getattr(zsml.losses, name)(**copy.deepcopy(options))
    return FITTED[name](loss) if name in FITTED else loss


def build(name: str, options: dict) -> nn.Module:
    """The same loss every time, a memory with something in it."""
    torch.manual_seed(0)
    loss = fresh(name, options)
    if isinstance(loss, (CrossBatchMemory, MemoryLoss)):
        loss(*batch(seed=1))
    return loss


def batch(B: int = 24, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = (0.5 * torch.randn(B, WIDTH, generator=generator)).to(dtype)
    return x, torch.arange(B) % CLASSES, torch.arange(B) // CLASSES % 2


def results(loss: Callable, owner: nn.Module, inputs: tuple, scale: float = 1.0) -> list[Tensor]:
    """Value, and gradients into the embeddings and every parameter; a loss that draws, draws the same every time."""
    x = inputs[0].clone().requires_grad_()
    torch.manual_seed(5)
    value = loss(x, *inputs[1:])
    assert value.shape == () and value.isfinite()
    return [value.detach(), *torch.autograd.grad(scale * value, [x, *owner.parameters()])]


def assert_same(ours: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b), (a - b).abs().max()


@every_loss
def test_it_compiles_into_one_graph(name, options):
    torch.compiler.reset()
    eager, loss = build(name, options), build(name, options)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for seed in (0, 2):
        for ours, expected in zip(
            results(compiled, loss, batch(seed=seed)), results(eager, eager, batch(seed=seed)), strict=True
        ):
            torch.testing.assert_close(ours, expected)
    assert_same(list(loss.state_dict().values()), list(eager.state_dict().values()))


@pytest.mark.parametrize(
    "losses",
    [
        [("SupConLoss", {"temperature": t}) for t in (0.07, 0.1, 0.5)],
        [(name, {"num_classes": CLASSES, "embedding_dim": WIDTH}) for name in ("CosFaceLoss", "ArcFaceLoss")],
    ],
    ids=["temperature", "scale"],
)
def test_a_second_value_of_a_setting_compiles_as_well(losses):
    torch.compiler.reset()
    for name, options in losses:
        eager, loss = build(name, options), build(name, options)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for ours, expected in zip(results(compiled, loss, batch()), results(eager, eager, batch()), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", ["MEMSLoss", "ArcFaceLoss"])
def test_annealing_does_not_count_in_inference_mode(name):
    loss = build(name, {"num_classes": CLASSES, "embedding_dim": WIDTH, "annealing_steps": 3})
    for step in range(3):
        with torch.inference_mode():
            loss(*batch())
        assert loss.step.item() == step
        results(loss, loss, batch())
    assert loss.step.item() == 3 and not loss.step.is_inference()


@every_loss
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_it_exports(name, options, training):
    loss, exported = build(name, options).train(training), build(name, options).train(training)
    module = torch.export.export(exported, batch()).module()
    for seed in (0, 2):  # what a training forward remembers, the exported one does as well
        found = []
        for call in (module, loss):
            torch.manual_seed(5)
            found.append(call(*batch(seed=seed)))
        torch.testing.assert_close(*found)


@every_loss
def test_autocast_takes_embeddings_as_they_arrive(name, options):
    expected = results(loss := build(name, options), loss, batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = results(loss := build(name, options), loss, batch())
    for ours, right in zip(found, expected, strict=True):
        assert ours.dtype == right.dtype
        torch.testing.assert_close(ours, right)


@every_loss
def test_a_network_under_autocast_trains(name, options):
    loss, network = build(name, options), nn.Linear(5, WIDTH)
    optimiser = torch.optim.SGD([*network.parameters(), *loss.parameters()], lr=0.01)
    before = network.weight.detach().clone()
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = network(torch.randn(24, 5, generator=torch.Generator().manual_seed(3)))
        value = loss(embeddings, *batch()[1:])
    assert embeddings.dtype == torch.bfloat16 and value.dtype == torch.float32
    value.backward()
    optimiser.step()
    assert network.weight.isfinite().all() and not torch.equal(network.weight, before)


@every_loss
def test_checkpointing_gives_the_same_gradients(name, options):
    inputs = batch()
    plain, again = build(name, options), build(name, options)
    if name in REMEMBERS:
        plain.eval(), again.eval()
    assert_same(results(lambda *a: checkpoint(again, *a, use_reentrant=False), again, inputs), results(plain, plain, inputs))


@every_loss
def test_a_checkpointed_network_before_it_gets_the_same_gradients(name, options):
    inputs, network = batch(), nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, WIDTH))
    found = []
    for wrap in (network, lambda x: checkpoint(network, x, use_reentrant=False)):
        loss = build(name, options)
        found.append(results(lambda x, *ids, loss=loss, wrap=wrap: loss(wrap(x), *ids), network, inputs))
    assert_same(*found)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_scaled_loss_has_proportional_gradients(name, options, dtype):
    """As GradScaler multiplies it: nothing overflows in half precision, and what is unscaled is the gradient."""
    inputs = batch(B=256, dtype=dtype)
    wide = build(name, options)
    expected = results(wide, wide, (inputs[0].float(), *inputs[1:]))[1:]
    loss = build(name, options)
    embeddings = nn.Parameter(inputs[0].float().clone())
    optimiser = torch.optim.SGD([embeddings, *loss.parameters()], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    arrived = []
    half = embeddings.to(dtype)
    half.register_hook(arrived.append)
    torch.manual_seed(5)  # as in results()
    scaler.scale(loss(half, *inputs[1:])).backward()
    assert arrived[0].dtype == dtype and arrived[0].isfinite().all()
    scaler.unscale_(optimiser)
    for ours, right in zip([embeddings.grad, *(p.grad for p in loss.parameters())], expected, strict=True):
        allowed = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, right, rtol=allowed, atol=allowed * float(right.abs().max()))
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 65536.0 and not torch.equal(embeddings, inputs[0].float())  # the step was not skipped


@every_loss
def test_copies_pickles_and_state_dicts_carry_everything(name, options):
    loss = build(name, options)
    loss(*batch(seed=4))
    restored = fresh(name, options)
    restored.load_state_dict(loss.state_dict())
    saved = io.BytesIO()
    torch.save(loss.state_dict(), saved)
    saved.seek(0)
    loaded = fresh(name, options)
    loaded.load_state_dict(torch.load(saved, weights_only=True))
    others = [copy.deepcopy(loss), pickle.loads(pickle.dumps(loss)), restored, loaded]
    expected = [results(loss, loss, batch(seed=seed)) for seed in (5, 6)]
    for other in others:
        assert repr(other) == repr(loss)
        for seed, right in zip((5, 6), expected, strict=True):
            assert_same(results(other, other, batch(seed=seed)), right)


@every_loss
def test_gradients_have_the_same_bits_every_run_and_inputs_stay(name, options):
    """Deterministic mode fills torch.empty with NaN: an unwritten element would show."""
    inputs = batch()
    kept = [t.clone() for t in inputs]
    first = results(loss := build(name, options), loss, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            assert_same(results(loss := build(name, options), loss, inputs), first)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(list(inputs), kept)


@every_loss
def test_float64_stays_float64(name, options):
    loss = fresh(name, options).double()
    found = results(loss, loss, batch(dtype=torch.float64))
    assert all(t.dtype == torch.float64 for t in found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ref_emb": torch.zeros(4, WIDTH + 1)}, "ref_emb must have the width of embeddings, 8"),
        ({"ref_emb": torch.zeros(4, WIDTH)}, "ref_labels is missing: ref_emb needs"),
        ({"ref_emb": torch.zeros(4, WIDTH, device="meta")}, "ref_emb is on meta but embeddings is on cpu"),
        ({"ref_labels": torch.zeros(4).long()}, "ref_labels is given but ref_emb is not; pass ref_emb="),
        ({"exclude": torch.zeros(4).long()}, "exclude is given but ref_emb is not"),
    ],
)
@pytest.mark.parametrize("name", ["ModalityTripletLoss", "MATHMLoss", "SupConLoss", "NTXentLoss"])
def test_messages_speak_of_the_arguments_of_the_loss(name, given, message):
    with pytest.raises(InputError, match=message):
        build(name, {})(*batch()[:2], **given)


def test_centres_on_another_device():
    loss = build("MEMSLoss", {"num_classes": CLASSES, "embedding_dim": WIDTH})
    with pytest.raises(InputError, match="embeddings are on meta, the centers of the loss on cpu"):
        loss(torch.zeros(4, WIDTH, device="meta"), torch.zeros(4, device="meta").long())


def test_numbers_of_numpy_are_numbers():
    sizes = {"num_classes": np.int64(CLASSES), "embedding_dim": np.int32(WIDTH)}
    for loss, same in (
        (zsml.losses.ArcFaceLoss(**sizes, scale=np.float32(8), margin=np.float32(0.5)), ("ArcFaceLoss", {"scale": 8.0})),
        (MATHMLoss(margin=np.float32(0.25), beta=np.float32(4)), ("MATHMLoss", {"margin": 0.25, "beta": 4.0})),
        (SupConLoss(np.float32(0.5)), ("SupConLoss", {"temperature": 0.5})),
        (CrossBatchMemory(MATHMLoss(), np.int64(7)), ("CrossBatchMemory", {"loss": MATHMLoss(), "size": 7})),
    ):
        name, options = same
        if name == "ArcFaceLoss":
            options = options | {"num_classes": CLASSES, "embedding_dim": WIDTH}
        assert repr(loss) == repr(getattr(zsml.losses, name)(**options))
        assert loss(*batch()).isfinite()
    for bad in (np.bool_(True), np.float32(np.nan)):
        with pytest.raises(InputError, match="temperature"):
            SupConLoss(bad)
