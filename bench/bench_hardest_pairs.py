"""MATHMLoss, forward and backward, against the same loss by hand: `zsml bench hardest_pairs`, and its flags.

    python bench/bench_hardest_pairs.py [--sizes 120 512 ...] [--threads 1 2] [--device cpu|cuda] [--save FOLDER]

The cases are in zsml/bench/cases.py, the other ways to compute the loss in zsml/bench/peers_pairs.py.
"""

import sys

from zsml.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "hardest_pairs", *sys.argv[1:]]))
