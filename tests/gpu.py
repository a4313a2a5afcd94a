"""A GPU to pretend with: tensors on a device of their own, with real values in memory, that refuse to meet others.

What a GPU refuses is refused here: an operation on tensors of two devices, `numpy()` of a tensor that is not copied back.
Its numbers are the CPU's; 16-bit arithmetic is not pretended.
"""

from __future__ import annotations

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "pretended"
LIBRARY = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
COPIES = {"aten._to_copy.default", "aten.copy_.default"}  # which may take a tensor from one device to the other
PACKS = ("aten._pack_padded_sequence", "aten._pad_packed_sequence")  # whose lengths stay on the CPU
LOOKS_UP = ("aten.index.", "aten.index_put")  # by indices of any device


class OnGpu(torch.Tensor):
    """A tensor of the pretended GPU; `held` has its values."""

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(f"{NAME}:0"), requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return run(function, arguments, options or {})


class Pretend(TorchDispatchMode):
    """Sees also what is made on the GPU without any tensor of it: torch.zeros(3, device="pretended")."""

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is made on the CPU and then sent
        return super().__enter__()

    def __exit__(self, *problem):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*problem)

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        return run(function, arguments, options or {})


def run(function, arguments: tuple, options: dict):
    """Compute an operation where its tensors are; RuntimeError where they are on two devices."""
    tensors, name = [], str(function)
    tree_map(lambda x: tensors.append(x) if isinstance(x, torch.Tensor) else None, (arguments, options))
    ours = [x for x in tensors if isinstance(x, OnGpu)]
    others = [x for x in tensors if not isinstance(x, OnGpu) and x.dim() > 0]
    if name.startswith(PACKS) and isinstance(arguments[1], OnGpu):
        raise RuntimeError(f"{name}: the lengths must be on the CPU")
    if name.startswith(LOOKS_UP):  # by indices of either device, but values must be where the tensor is
        if ours and not isinstance(arguments[0], OnGpu):
            raise RuntimeError(f"{name}: a tensor of the CPU cannot be indexed by one of the GPU")
        others = [x for x in arguments[2:3] if isinstance(x, torch.Tensor) and not isinstance(x, OnGpu) and x.dim() > 0]
    if ours and others and name not in COPIES and not name.startswith(PACKS):
        raise RuntimeError(f"{name}: expected all tensors on the same device, found {NAME}:0 and cpu")
    target = options.get("device")
    options = {k: v for k, v in options.items() if k not in ("device", "pin_memory")}
    if target is not None:
        options["device"] = torch.device("cpu")
    lowered = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (arguments, options))
    made = function(*lowered[0], **lowered[1])
    if name == "aten.copy_.default":
        return arguments[0]
    if not (torch.device(target).type == NAME if target is not None else ours):
        return made
    same = {id(x.held): x for x in ours}  # what works in place gives back what it was given

    def lift(x):
        return same[id(x)] if id(x) in same else OnGpu(x) if isinstance(x, torch.Tensor) else x

    return (lift(made[0]), made[1]) if name.startswith(PACKS) else tree_map(lift, made)


def register() -> torch.device:
    """Make the device known to torch, once a process."""
    if not hasattr(torch, NAME):
        module = backend_registration._DummyBackendModule()
        module.get_amp_supported_dtype = lambda: []
        backend_registration._setup_privateuseone_for_python_backend(NAME, module)
        LIBRARY.fallback(torch.library.fallthrough_kernel)
    return torch.device(f"{NAME}:0")
