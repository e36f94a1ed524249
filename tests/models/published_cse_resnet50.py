"""CSE-ResNet50 written down a second time, from the published weight names alone: the oracle of these tests.

`random_checkpoint` fills the layout that MATHM (or SAKE and DSN) publishes, `forward` computes the network from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from published_layers import Filler, Weights, sigmoid
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)
STEM = "original_model.layer0"


def random_checkpoint(
    system: str = "mathm", classes: int = 7, dim: int = 16, seed: int = 0, cse_end: int = 4, counters: bool = True
) -> dict[str, Tensor]:
    """A state dict in published names without "module.": system "mathm" or "sake" (DSN's is the same as SAKE's)."""
    fill = Filler(seed, counters=counters)
    fill.conv(f"{STEM}.conv1", 64, 3, 7)
    fill.bn(f"{STEM}.bn1", 64)
    into = 64
    for layer, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), start=1):
        for block in range(blocks):
            p, out, squeezed = f"original_model.layer{layer}.{block}", 4 * width, width // 4
            for i, (o, n, side) in enumerate(((width, into, 1), (width, width, 3), (out, width, 1)), start=1):
                fill.conv(f"{p}.conv{i}", o, n, side)
                fill.bn(f"{p}.bn{i}", o)
            fill.linear(f"{p}.se_module.fc1", squeezed, out)
            fill.linear(f"{p}.se_module.fc2", out, squeezed + (system == "sake"))
            if system == "mathm" and layer <= cse_end:
                fill.normal(f"{p}.se_module.fc_tag.weight", out, 1, std=1.0)
            if block == 0:
                fill.conv(f"{p}.downsample.0", out, into, 1)
                fill.bn(f"{p}.downsample.1", out)
            into = out
    fill.linear("original_model.second_last_linear", dim, 2048)
    fill.linear("linear", classes, dim, bias=system == "sake")
    if system == "sake":
        fill.linear("original_model.last_linear", 1000, dim)
    return fill.state


def forward(state: dict[str, Tensor], images: Tensor, tag: Tensor) -> dict[str, Tensor | None]:
    """Embedding, logits and imagenet_logits in float64, in evaluation mode. tag: [B], 0 sketch and 1 photo."""
    w = Weights(state)
    y = tag.double()[:, None]  # [B, 1]

    def gate(x: Tensor, p: str) -> Tensor:
        z = torch.relu(w.linear(x.mean((2, 3)), f"{p}.fc1"))  # [B, c / 16]
        if f"{p}.fc_tag.weight" in w:  # MATHM
            return sigmoid(w.linear(z, f"{p}.fc2") + w.linear(y, f"{p}.fc_tag"))
        columns = w[f"{p}.fc2.weight"].shape[1]  # SAKE: the tag is the last input; a plain gate has no such column
        return sigmoid(w.linear(torch.cat([z, y], 1)[:, :columns], f"{p}.fc2"))

    x = w.conv(images.double(), f"{STEM}.conv1", stride=2, padding=3)
    x = F.max_pool2d(torch.relu(w.bn(x, f"{STEM}.bn1")), 3, stride=2, padding=0, ceil_mode=True)
    for layer, blocks in enumerate(BLOCKS, start=1):
        for block in range(blocks):
            p = f"original_model.layer{layer}.{block}"
            stride = 2 if block == 0 and layer > 1 else 1
            out = torch.relu(w.bn(w.conv(x, f"{p}.conv1", stride=stride), f"{p}.bn1"))
            out = torch.relu(w.bn(w.conv(out, f"{p}.conv2", padding=1), f"{p}.bn2"))
            out = w.bn(w.conv(out, f"{p}.conv3"), f"{p}.bn3")
            if block == 0:
                x = w.bn(w.conv(x, f"{p}.downsample.0", stride=stride), f"{p}.downsample.1")
            x = torch.relu(out * gate(out, f"{p}.se_module")[:, :, None, None] + x)
    embedding = w.linear(x.mean((2, 3)), "original_model.second_last_linear")
    return {
        "embedding": embedding,
        "logits": w.linear(embedding, "linear"),
        "imagenet_logits": w.linear(embedding, "original_model.last_linear"),
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
