"""What a fused op gains on this machine: hardest_pairs against the same by a distance matrix, checked before it is timed.

    python examples/kernel_bench.py

For every op against every packaged way to the same answer: `zsml bench all`.
"""

from __future__ import annotations

import torch
from torch.utils.benchmark import Timer

from zsml.ops import hardest_pairs


def dense(x: torch.Tensor, labels: torch.Tensor, modality: torch.Tensor) -> torch.Tensor:
    """Distances [4, B]: farthest of the class and nearest of another, within the modality and across, by a [B, B] matrix."""
    squared = x.square().sum(dim=1)  # [B]
    distance = (squared[:, None] + squared - 2 * x @ x.T).clamp(min=1e-12).sqrt()  # [B, B]
    same, other = labels[:, None] == labels, torch.eye(len(x), dtype=torch.bool, device=x.device).logical_not()
    within = modality[:, None] == modality
    rows = []
    for side in (within, ~within):
        rows.append(distance.masked_fill(~(same & side & other), -torch.inf).amax(dim=1))
        rows.append(distance.masked_fill(same | ~side, torch.inf).amin(dim=1))
    return torch.stack(rows)


def main(batches: tuple[int, ...] = (120, 1024, 4096), width: int = 512, seconds: float = 1.0) -> list[float]:
    """Milliseconds forward and backward of both, by batch size; returns how many times faster the op was."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gains = []
    for batch in batches:
        x = torch.randn(batch, width, device=device, requires_grad=True)  # [B, D]
        labels, modality = torch.arange(batch, device=device) // 8, torch.arange(batch, device=device) % 2
        ways = {"fused": lambda *args: hardest_pairs(*args).distance, "dense": dense}
        found = {name: way(x, labels, modality) for name, way in ways.items()}
        torch.testing.assert_close(found["fused"], found["dense"], rtol=1e-3, atol=1e-3)
        spent = {}
        for name, way in ways.items():
            names = {"way": way, "args": (x, labels, modality), "x": x}
            timer = Timer("x.grad = None; way(*args).sum().backward()", globals=names, num_threads=torch.get_num_threads())
            spent[name] = timer.blocked_autorange(min_run_time=seconds).median
        gains.append(spent["dense"] / spent["fused"])
        both = ", ".join(f"{name} {1e3 * time:.2f} ms" for name, time in spent.items())
        print(f"B = {batch}, D = {width}, {device}: {both}, {gains[-1]:.1f} times as fast")
    return gains


if __name__ == "__main__":
    main()
