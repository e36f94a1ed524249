"""Reads the compiler's resource report (ptxas -v); a kernel that spills registers fails, unless it is listed with a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# substring of the demangled kernel name -> why its spills are accepted
ALLOWED: dict[str, str] = {}

log = Path(sys.argv[1]).read_text(errors="replace")
pattern = re.compile(
    r"Compiling entry function '(\S+)' for '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
kernels = pattern.findall(log)
if not kernels:
    sys.exit(f"{sys.argv[1]}: no ptxas report found; compile with -Xptxas=-v")
names = subprocess.run(
    ["c++filt"], input="\n".join(k[0] for k in kernels), capture_output=True, text=True, check=True
).stdout.splitlines()
failures = 0
registers: dict[str, list[str]] = {}
for (_, target, stores, loads, used), name in zip(kernels, names, strict=True):
    short = re.sub(r"\(.*", "", name).removeprefix("void ").replace("zsml::cuda::", "").replace("c10::", "")
    registers.setdefault(short, []).append(f"{target}: {used}")
    if (stores, loads) != ("0", "0"):
        reason = next((why for part, why in ALLOWED.items() if part in short), None)
        print(
            f"{short} for {target} spills: {stores} bytes stored, {loads} loaded" + (f" (accepted: {reason})" if reason else "")
        )
        failures += reason is None
for short, used in sorted(registers.items()):
    print(f"{short:60s} registers {', '.join(used)}")
print(f"{len(kernels)} kernels compiled, {failures} with spills that are not listed")
sys.exit(1 if failures else 0)
