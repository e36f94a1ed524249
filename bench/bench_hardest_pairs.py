"""MATHMLoss forward + backward against the same loss written by hand: time and peak extra memory.

    python bench/bench_hardest_pairs.py [--sizes 120 512 ...] [--threads 2] [--device cpu|cuda] [--save NAME]

Providers: zsml (fused), dense (the usual B x B way, eager), dense-compiled (torch.compile of it), chunked-compiled (the best
memory-bounded hand-written version). A size is timed only after value and gradient of every provider agreed in this process.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "losses"))  # the peers are the tests' references
import dense as by_hand
import measure

from zsml.losses import MATHMLoss

PROVIDERS = {
    "zsml": MATHMLoss(),
    "dense": by_hand.dense,
    "dense-compiled": by_hand.compiled_dense,
    "chunked-compiled": by_hand.chunked_compiled,
}


def batch(B: int, D: int, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Clustered embeddings, 8 per class, half sketches half photos: what a class-by-modality sampler yields."""
    generator = torch.Generator().manual_seed(B)
    labels = torch.arange(B) // 8
    centres = torch.randn(int(labels.max()) + 1, D, generator=generator)
    x = F.normalize(centres[labels] + 0.8 * torch.randn(B, D, generator=generator), dim=1)
    order = torch.randperm(B, generator=generator)
    return x[order].to(device), labels[order].to(device), (torch.arange(B) % 2)[order].to(device)


def step(loss, x, labels, modality):
    x = x.detach().requires_grad_()
    value = loss(x, labels, modality)
    value.backward()
    return value.detach(), x.grad


def agreeing(providers: dict, data: tuple) -> dict:
    """The providers that can run at this size, after a check against the fused loss in float64."""
    x, labels, modality = data
    truth_value, truth_grad = step(PROVIDERS["zsml"], x.double(), labels, modality)
    able = {}
    for name, loss in providers.items():
        try:
            value, grad = step(loss, *data)
        except (RuntimeError, MemoryError) as error:  # out of memory
            print(f"  {name}: left out ({str(error).splitlines()[0][:100]})", file=sys.stderr)
            continue
        error = abs(value.double() - truth_value) / truth_value
        gradient_error = (grad.double() - truth_grad).norm() / truth_grad.norm()
        if error > 1e-4 or gradient_error > 2e-2:  # float32 search may swap partners at equal distance up to rounding
            sys.exit(
                f"{name} disagrees at B = {len(x)}: value by {error:.1e}, gradient by {gradient_error:.1e}; nothing is timed"
            )
        able[name] = loss
    return able


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[120, 512, 1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--depth", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds per provider and size")
    parser.add_argument("--save", help="write bench/results/NAME.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = measure.describe_machine(arguments.device)
    print(f"{machine['device']}, {arguments.threads} threads, torch {machine['torch']}, D = {arguments.depth}, float32, f + b")
    rows = []
    for B in arguments.sizes:
        data = batch(B, arguments.depth, arguments.device)
        torch.compiler.reset()
        providers = agreeing(PROVIDERS, data)
        calls = {name: (lambda loss=loss, data=data: step(loss, *data)) for name, loss in providers.items()}
        peaks = {}
        for name, call in calls.items():
            gc.collect()
            peaks[name] = measure.peak_extra_mib(call, arguments.device)
        samples = measure.rounds(calls, arguments.budget)
        base = statistics.median(samples["zsml"])
        for name, seconds in samples.items():
            rows.append(
                measure.row(
                    "mathm_loss",
                    name,
                    "forward+backward",
                    {"B": B, "D": arguments.depth},
                    "float32",
                    seconds,
                    peaks[name],
                    machine,
                )
            )
            slower = statistics.median(seconds) / base
            print(
                f"B {B:6d}  {name:18s} {rows[-1]['median_ms']:10.2f} ms  x{slower:6.1f}  peak +{peaks[name]:8.1f} MiB", flush=True
            )
    if arguments.save:
        print(f"saved {measure.save(rows, arguments.save)}")


if __name__ == "__main__":
    main()
