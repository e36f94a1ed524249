"""GFLOP/s of the bare register tile on one thread, per instruction set and dtype.

``make native``, then ``python bench/native_tile.py``: what the inner loop of every CPU kernel can reach on this machine, with
both panels in the first-level cache. A fused multiply-add counts as two operations.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "build" / "native"))

DEPTH = 64  # both panels together are then at most 15 KiB
ROUNDS = 30


def gflops(module, isa: str, dtype: str) -> float:
    """The fastest of several rounds of about 10 ms each: everything slower was somebody else's work."""
    rows, cols = module.tile_shape(isa, dtype)
    operations = 2 * rows * cols * DEPTH
    repeats = max(1, round(0.01 / (module.tile_seconds(isa, dtype, DEPTH, 1000) / 1000)))
    return max(operations * repeats / module.tile_seconds(isa, dtype, DEPTH, repeats) / 1e9 for _ in range(ROUNDS))


def main() -> None:
    try:
        import zsml_internals as module
    except ImportError:
        sys.exit("zsml_internals is not built; run: make native")
    print(f"{platform.processor() or platform.machine()}, depth {DEPTH}, GFLOP/s on one thread")
    print(f"{'':10}{'float32':>18}{'float64':>18}")
    for isa in ("portable", "avx2", "avx512"):
        cells = []
        for dtype in ("float32", "float64"):
            rows, cols = module.tile_shape(isa, dtype)
            speed = f"{gflops(module, isa, dtype):.1f}" if module.available(isa) else "not available"
            cells.append(f"{speed} ({rows} x {cols})")
        print(f"{isa:10}{cells[0]:>18}{cells[1]:>18}")


if __name__ == "__main__":
    main()
