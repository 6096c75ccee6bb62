"""A CUDA device without one: PyTorch's `FakeTensorMode`, made stricter and left out where the host computes.

Tensors on `cuda:0` are fake: they have shapes, types and a device, and no values. Tensors on the CPU stay real. So code
for CUDA runs as it stands, and the harness raises

- `WrongDevice` where a generator draws for another device, or a CUDA tensor is drawn without any;
- PyTorch's own error where tensors on two devices meet;
- `Wait` where a value of the device is read: `item`, `float`, `bool`, `tolist`, `.cpu()`, and masks as indices;
- `Wait` as well where the host's memory is copied to the device, if `strict`: from memory that is not pinned that
  waits too, as `torch.cuda.set_sync_debug_mode("error")` would say on a real device.

Where a read is right (a finished map, the range of a first batch), `allow` counts it and answers 1.
"""

from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
RealGenerator = torch.Generator


class WrongDevice(Exception):
    """A generator draws for another device, or a tensor on CUDA is drawn by the global generator."""


class Wait(Exception):
    """The host waits for the device, or the device for the host."""


class Generator(RealGenerator):
    """Stands in for `torch.Generator`, which cannot be made for CUDA without a driver: it says it is there."""

    def __new__(cls, device="cpu"):
        return super().__new__(cls, "cpu")

    def __init__(self, device="cpu"):
        self.place = torch.device(device)

    @property
    def device(self):
        return self.place

    def get_state(self):
        """On CUDA as there: sixteen bytes in the host's memory, the seed and how many numbers have been drawn."""
        if self.place.type == "cpu":
            return super().get_state()
        return torch.tensor([self.initial_seed(), 0]).view(torch.uint8)

    def set_state(self, state):
        if self.place.type == "cpu":
            return super().set_state(state)
        return self.manual_seed(int(state.view(torch.int64)[0]))


class _Draws(TorchFunctionMode):
    """Every tensor that a generator draws must lie on its device; and `backward` without PyTorch's engine."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.backward and isinstance(args[0], FakeTensor):
            return backward(args[0])
        found = func(*args, **(kwargs or {}))
        generator = (kwargs or {}).get("generator") or next((a for a in args if isinstance(a, RealGenerator)), None)
        if generator is not None and isinstance(found, torch.Tensor) and found.device.type != generator.device.type:
            raise WrongDevice(f"{func.__name__}: a tensor on {found.device}, its generator on {generator.device}")
        return found


@torch.no_grad()
def backward(loss):
    """`loss.backward()`, node by node: the engine would ask the driver for its streams."""
    order, seen, waiting = [], set(), [(loss.grad_fn, False)]
    while waiting:  # whoever comes later in `order` is nearer to the loss
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting += [(node, True), *((after, False) for after, _ in node.next_functions if after is not None)]
    gradients = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in reversed(order):
        given = gradients.pop(node, None)
        if given is None:
            continue
        if hasattr(node, "variable"):
            old = node.variable.grad
            node.variable.grad = given[0] if old is None else old + given[0]
            continue
        found = node(*given)
        found = found if isinstance(found, tuple) else (found,)
        for gradient, (after, slot) in zip(found, node.next_functions, strict=True):
            if after is not None and gradient is not None:
                wanted = after._input_metadata[slot]
                gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)  # as the engine does
                slots = gradients.setdefault(after, [None] * len(after._input_metadata))
                slots[slot] = gradient if slots[slot] is None else slots[slot] + gradient


INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class _Device(FakeTensorMode):
    avoid_device_init = True  # whatever torch.cuda.is_available is made to say

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.strict, self.reads, self.most_reads = False, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(isinstance(x, FakeTensor) or (isinstance(x, torch.device) and x.type == "cuda") for x in leaves):
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose():
            with self:  # in inference mode `to` and the like come whole
                return func.decompose(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return self._read(func, torch.ones((), dtype=args[0].dtype)).item()
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            source, target = args[0], kwargs["device"]
        elif func is aten.copy_.default:
            target, source = args[:2]
        else:
            source = target = None
        if target is not None and (_kind(source), _kind(target)) == ("cuda", "cpu"):
            if func is aten.copy_.default:
                return self._read(func, target.fill_(1))
            return self._read(func, torch.ones(source.shape, dtype=kwargs.get("dtype") or source.dtype))
        if target is not None and (_kind(source), _kind(target)) == ("cpu", "cuda"):
            self._upload(func)
        if func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                raise Wait(f"{func}: a mask as an index; how many it chooses must be read")
            if any(_kind(index) == "cpu" and index.ndim for index in indices):
                self._upload(func)
        found = super().__torch_dispatch__(func, types, args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags and not any(isinstance(x, RealGenerator) for x in leaves):
            if any(isinstance(x, torch.Tensor) and _kind(x) == "cuda" for x in tree_leaves(found)):
                raise WrongDevice(f"{func}: drawn on CUDA without a generator")
        return found

    def _read(self, func, answer):
        if self.reads >= self.most_reads:
            raise Wait(f"{func}: a value is read from the device")
        self.reads += 1
        return answer

    def _upload(self, func):
        if self.strict:
            raise Wait(f"{func}: copied from the host's memory")


def _kind(place):
    return place.type if isinstance(place, torch.device) else place.device.type


class FakeCuda:
    """The device under test; `reads` counts the values read so far."""

    def __init__(self, mode):
        self._mode = mode

    @property
    def reads(self):
        return self._mode.reads

    @contextmanager
    def allow(self, reads):
        """At most so many reads inside; each gives ones."""
        before = self._mode.most_reads
        self._mode.most_reads = self._mode.reads + reads
        try:
            yield
        finally:
            self._mode.most_reads = before

    @contextmanager
    def strict(self):
        """No copy from the host inside either."""
        self._mode.strict = True
        try:
            yield
        finally:
            self._mode.strict = False


@contextmanager
def fake_cuda(monkeypatch):
    """Everything inside may use `cuda:0`."""
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    # `Module.to` swaps fake parameters for new ones, which PyTorch refuses for those that a `FakeTensorMode` remembers.
    monkeypatch.setattr(torch.utils, "swap_tensors", lambda old, new: setattr(old, "data", new.data))
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())  # else it reads number by number
    with _Device() as mode, _Draws():
        yield FakeCuda(mode)
