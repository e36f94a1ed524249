"""CSE-ResNet50 written down a second time, from the published weight names alone: the oracle of these tests.

`random_checkpoint` fills the layout that MATHM (or SAKE and DSN) publishes, `forward` computes the network from it with
plain functions. Neither uses anything of zsml or timm.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
STEM = "original_model.layer0"


def random_checkpoint(
    system: str = "mathm", classes: int = 7, dim: int = 16, seed: int = 0, cse_end: int = 4, counters: bool = True
) -> dict[str, Tensor]:
    """A state dict in published names without "module.": system "mathm" or "sake" (DSN's is the same as SAKE's)."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def normal(name: str, *shape: int, std: float) -> None:
        state[name] = std * torch.randn(shape, generator=generator)

    def uniform(name: str, size: int) -> None:
        state[name] = 0.5 + torch.rand(size, generator=generator)

    def conv(name: str, out: int, into: int, side: int) -> None:
        normal(f"{name}.weight", out, into, side, side, std=math.sqrt(2 / (into * side * side)))

    def bn(name: str, size: int) -> None:
        uniform(f"{name}.weight", size)
        normal(f"{name}.bias", size, std=0.1)
        normal(f"{name}.running_mean", size, std=0.1)
        uniform(f"{name}.running_var", size)
        if counters:
            state[f"{name}.num_batches_tracked"] = torch.tensor(1000)

    conv(f"{STEM}.conv1", 64, 3, 7)
    bn(f"{STEM}.bn1", 64)
    into = 64
    for layer, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for block in range(blocks):
            p, out, squeezed = f"original_model.layer{layer}.{block}", 4 * width, width // 4
            for i, (o, n, side) in enumerate(((width, into, 1), (width, width, 3), (out, width, 1)), start=1):
                conv(f"{p}.conv{i}", o, n, side)
                bn(f"{p}.bn{i}", o)
            normal(f"{p}.se_module.fc1.weight", squeezed, out, std=1 / math.sqrt(out))
            normal(f"{p}.se_module.fc1.bias", squeezed, std=0.1)
            columns = squeezed + (system == "sake")
            normal(f"{p}.se_module.fc2.weight", out, columns, std=1 / math.sqrt(squeezed))
            normal(f"{p}.se_module.fc2.bias", out, std=0.1)
            if system == "mathm" and layer <= cse_end:
                normal(f"{p}.se_module.fc_tag.weight", out, 1, std=1.0)
            if block == 0:
                conv(f"{p}.downsample.0", out, into, 1)
                bn(f"{p}.downsample.1", out)
            into = out
    normal("original_model.second_last_linear.weight", dim, 2048, std=1 / math.sqrt(2048))
    normal("original_model.second_last_linear.bias", dim, std=0.1)
    normal("linear.weight", classes, dim, std=1 / math.sqrt(dim))
    if system == "sake":
        normal("linear.bias", classes, std=0.1)
        normal("original_model.last_linear.weight", 1000, dim, std=1 / math.sqrt(dim))
        normal("original_model.last_linear.bias", 1000, std=0.1)
    return state


def forward(state: dict[str, Tensor], images: Tensor, tag: Tensor) -> dict[str, Tensor | None]:
    """Embedding, logits and imagenet_logits in float64, in evaluation mode. tag: [B], 0 sketch and 1 photo."""
    w = {name: value.double() for name, value in state.items()}
    y = tag.double()[:, None]  # [B, 1]

    def bn(x: Tensor, p: str) -> Tensor:
        mean, var = w[f"{p}.running_mean"][:, None, None], w[f"{p}.running_var"][:, None, None]
        return (x - mean) / torch.sqrt(var + 1e-5) * w[f"{p}.weight"][:, None, None] + w[f"{p}.bias"][:, None, None]

    def gate(x: Tensor, p: str) -> Tensor:
        z = torch.clamp(x.mean((2, 3)) @ w[f"{p}.fc1.weight"].T + w[f"{p}.fc1.bias"], min=0)  # [B, c / 16]
        if f"{p}.fc_tag.weight" in w:  # MATHM
            a = z @ w[f"{p}.fc2.weight"].T + y @ w[f"{p}.fc_tag.weight"].T
        else:  # SAKE: the tag is the last input; a plain gate has no such column
            columns = w[f"{p}.fc2.weight"].shape[1]
            a = torch.cat([z, y], 1)[:, :columns] @ w[f"{p}.fc2.weight"].T
        return 1 / (1 + torch.exp(-(a + w[f"{p}.fc2.bias"])))

    def linear(x: Tensor, p: str) -> Tensor | None:
        if f"{p}.weight" not in w:
            return None
        return x @ w[f"{p}.weight"].T + w.get(f"{p}.bias", torch.zeros((), dtype=torch.float64))

    x = F.conv2d(images.double(), w[f"{STEM}.conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(torch.relu(bn(x, f"{STEM}.bn1")), 3, stride=2, padding=0, ceil_mode=True)
    for layer, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            p = f"original_model.layer{layer}.{block}"
            stride = 2 if block == 0 and layer > 1 else 1
            out = torch.relu(bn(F.conv2d(x, w[f"{p}.conv1.weight"], stride=stride), f"{p}.bn1"))
            out = torch.relu(bn(F.conv2d(out, w[f"{p}.conv2.weight"], padding=1), f"{p}.bn2"))
            out = bn(F.conv2d(out, w[f"{p}.conv3.weight"]), f"{p}.bn3")
            if block == 0:
                x = bn(F.conv2d(x, w[f"{p}.downsample.0.weight"], stride=stride), f"{p}.downsample.1")
            x = torch.relu(out * gate(out, f"{p}.se_module")[:, :, None, None] + x)
    embedding = linear(x.mean((2, 3)), "original_model.second_last_linear")
    return {
        "embedding": embedding,
        "logits": linear(embedding, "linear"),
        "imagenet_logits": linear(embedding, "original_model.last_linear"),
    }


def sake_from_mathm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network with its tag weights appended to fc2, as SAKE stores them, and the heads SAKE adds."""
    out = {name: value for name, value in state.items() if ".fc_tag." not in name}
    for name in state:
        if ".fc_tag." in name:
            fc2 = name.replace(".fc_tag.", ".fc2.")
            out[fc2] = torch.cat([state[fc2], state[name]], dim=1)
    extra = random_checkpoint("sake", *state["linear.weight"].shape, seed=99)
    for name in ("linear.bias", "original_model.last_linear.weight", "original_model.last_linear.bias"):
        out[name] = extra[name]
    return out
