"""Gives each op its schema and, where no kernel was loaded, its plain-torch stand-in."""

from __future__ import annotations

from collections.abc import Callable

import torch

from zsml import _ext

references: dict[str, Callable] = {}  # of every op, its plain-torch stand-in


def define(name: str, schema: str, reference: Callable) -> None:
    """Declare ``zsml::name`` and fill the devices that have no compiled kernel.

    Without any binary the reference serves every device. With the CPU kernels alone a CUDA tensor is an error that says how to
    get the CUDA kernels: a silent fallback there would be a silent slowdown.
    """
    qualified = f"zsml::{name}"
    torch.library.define(qualified, schema)
    references[name] = reference
    if _ext.cpu_reason:
        torch.library.impl(qualified, ("cpu", "cuda"), reference)
    elif _ext.cuda_reason:

        def no_cuda_kernel(*args, **kwargs):
            raise RuntimeError(f"zsml.ops.{name}: no CUDA kernels ({_ext.cuda_reason}); {_ext.BUILD_HINT}")

        torch.library.impl(qualified, "cuda", no_cuda_kernel)


def no_second_derivative(op: str) -> None:
    """Refuse to differentiate the gradient of an op, rather than return zeros."""

    def refuse(ctx, *grads):
        raise NotImplementedError(f"{op} has no second derivative; call backward without create_graph=True")

    torch.library.register_autograd(f"zsml::{op}_backward", refuse)
