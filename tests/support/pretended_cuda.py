"""GPUs in name only: tensors compute on the CPU, say that they are on a GPU, and refuse to be mixed with others.

What lives on the pretended GPU is counted, so that tests can say what a stage keeps there. Not covered: training (the engine of
autograd), Triton, random generators of a device.
"""

from __future__ import annotations

import ctypes
import subprocess
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_OPS = torch.ops.aten
_MOVES = {_OPS._to_copy.default, _OPS.copy_.default}
_INDEXED_BY_CPU = {_OPS.index.Tensor, _OPS.index_put_.default, _OPS._index_put_impl_.default}
_CPU = torch.device("cpu")


def load_guard(folder: Path) -> None:
    """Compile what PyTorch asks for the current device into `folder`, and load it; once per process."""
    source, library, root = Path(__file__).with_suffix(".cpp"), folder / "pretended_cuda.so", Path(torch.__file__).parent
    flags = ["-O1", "-shared", "-fPIC", "-std=c++20", f"-I{root / 'include'}", f"-L{root / 'lib'}", "-lc10"]
    subprocess.run(["g++", str(source), "-o", str(library), *flags], check=True)
    ctypes.CDLL(str(library))


class Memory:
    """Bytes that live on the pretended GPU: now, and at most since `restart`; and the shapes of what lived there then."""

    def __init__(self) -> None:
        self._storages: dict[int, list[int]] = {}  # address → tensors that use it, bytes
        self.now = self.peak = 0

    def restart(self) -> None:
        """Begin to look for the peak."""
        self.peak = self.now

    def add(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        """Count the memory of `data` as long as `tensor` lives."""
        storage = data.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._storages:
            self._storages[address] = [0, size]
            self.now += size
            self.peak = max(self.peak, self.now)
        self._storages[address][0] += 1
        weakref.finalize(tensor, self._drop, address)

    def _drop(self, address: int) -> None:
        self._storages[address][0] -= 1
        if not self._storages[address][0]:
            self.now -= self._storages.pop(address)[1]


MEMORY = Memory()


class Pretended(torch.Tensor):
    """A tensor of the CPU, `data`, that says it is on a GPU."""

    @staticmethod
    def __new__(cls, data: torch.Tensor, device: torch.device) -> Pretended:
        layout = {"strides": data.stride(), "storage_offset": data.storage_offset(), "dtype": data.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, data.shape, **layout, device=device, requires_grad=False)
        tensor.payload = data
        MEMORY.add(tensor, data)
        return tensor

    def __repr__(self) -> str:
        return f"Pretended({self.payload!r}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})

    def tolist(self):
        return self.payload.tolist()

    def numpy(self):
        raise TypeError("a tensor of a pretended GPU has no NumPy array")

    def record_stream(self, stream) -> None:
        pass


def _target(func, args: tuple, kwargs: dict, tensors: list[torch.Tensor]) -> torch.device:
    """The device of what an operation returns."""
    device = kwargs.get("device")
    if device is None and func is _OPS.copy_.default:
        device = args[0].device
    elif device is None:
        device = next((tensor.device for tensor in tensors if isinstance(tensor, Pretended)), _CPU)
    device = torch.device(device)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def _dispatch(func, args: tuple, kwargs: dict):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    devices = {str(tensor.device) for tensor in tensors if tensor.dim() or isinstance(tensor, Pretended)}
    if func in _INDEXED_BY_CPU:
        devices = {str(args[0].device)} | {str(tensor.device) for tensor in tensors if isinstance(tensor, Pretended)}
    if len(devices - {"meta"}) > 1 and func not in _MOVES:
        raise RuntimeError(f"{func}: tensors on different devices: {sorted(devices)}")
    device = _target(func, args, kwargs, tensors)
    if device.type == "meta":
        payloads = tree_map(lambda leaf: leaf.payload.to("meta") if isinstance(leaf, Pretended) else leaf, (args, kwargs))
        return func(*payloads[0], **payloads[1])
    owners = {id(tensor.payload): tensor for tensor in tensors if isinstance(tensor, Pretended)}

    def plain(leaf):
        if isinstance(leaf, torch.device):
            return _CPU
        return leaf.payload if isinstance(leaf, Pretended) else leaf

    def wrapped(leaf):
        if not isinstance(leaf, torch.Tensor) or isinstance(leaf, Pretended):
            return leaf
        if id(leaf) in owners:
            return owners[id(leaf)]
        return Pretended(leaf, device) if device.type == "cuda" else leaf

    plain_args, plain_kwargs = tree_map(plain, (args, kwargs))
    plain_kwargs = {name: value for name, value in plain_kwargs.items() if name not in ("non_blocking", "pin_memory")}
    if func is _OPS._to_copy.default and plain_kwargs.get("device") is not None:
        result = plain_args[0].to(plain_kwargs.get("dtype") or plain_args[0].dtype, copy=True)
        return wrapped(result)
    return tree_map(wrapped, func(*plain_args, **plain_kwargs))


class _Stream:
    """A queue of work that is done at once."""

    def wait_stream(self, other: _Stream) -> None:
        pass

    def synchronize(self) -> None:
        pass


class PretendedCuda(TorchDispatchMode):
    """While open, ``cuda`` is there."""

    def __init__(self) -> None:
        super().__init__()
        self._monkeypatch = pytest.MonkeyPatch()

    def __enter__(self):
        answers = {
            "_lazy_init": None,
            "is_available": True,
            "device_count": 0,
            "synchronize": None,
            "current_stream": _Stream(),
        }
        for name, answer in answers.items():
            self._monkeypatch.setattr(torch.cuda, name, lambda *args, answer=answer: answer)
        self._monkeypatch.setattr(torch.cuda, "Stream", _Stream)
        self._monkeypatch.setattr(torch.cuda, "stream", nullcontext)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") is made on the CPU, then moved
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # module.to() must replace parameters
        return super().__enter__()

    def __exit__(self, *exception):
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch._C._set_only_lift_cpu_tensors(False)
        self._monkeypatch.undo()
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})
