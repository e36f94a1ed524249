"""Where to compute and in which precision, decided once and refused with a reason."""

from __future__ import annotations

import torch

from zsml.errors import InputError


def resolve_device(device: str) -> torch.device:
    """Turn auto | cpu | cuda into a device.

    Raises:
        InputError: cuda was asked for and there is none, or an unknown name.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device!r} is not known; choose from auto, cpu, cuda")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU-only build"
        raise InputError(f"--device cuda: no usable GPU found (torch {torch.__version__} is {build}); use --device cpu or auto")
    return torch.device("cuda" if device != "cpu" and available else "cpu")


def resolve_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """Turn auto | off | bf16 | fp16 into the dtype to autocast to; None: full float32.

    Raises:
        InputError: fp16 was asked for on the CPU, where it is slow and overflows, or an unknown name.

    >>> resolve_amp("auto", torch.device("cpu")) is None
    True
    """
    if amp not in ("auto", "off", "bf16", "fp16"):
        raise InputError(f"--amp {amp!r} is not known; choose from auto, off, bf16, fp16")
    if amp == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16 needs a GPU; on the CPU use --amp bf16 or off")
    if amp == "auto":
        if device.type == "cpu":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
