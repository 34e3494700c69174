"""Arrays on CUDA devices: streams, new arrays, refusals; on a driver that computes nothing.

ATTN_CUDA_TESTS names the build folder of cuda/tests, which has that driver and a plugin for it.
The frameworks are stand-ins too, with the few functions that the binding calls.
"""

import ctypes
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import attn
from attn import _cuda

FOLDER = os.environ.get("ATTN_CUDA_TESTS")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="ATTN_CUDA_TESTS is not set")


@pytest.fixture(scope="module")
def driver():
    """The fake driver; dlopen finds it by its name from now on."""
    library = ctypes.CDLL(str(Path(FOLDER) / "driver" / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    library.fake_cuda_add_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.fake_cuda_last_symbol.restype = ctypes.c_char_p
    library.fake_cuda_stream.restype = ctypes.c_void_p
    library.fake_cuda_last_stream.restype = ctypes.c_void_p
    library.fake_cuda_last_q.restype = ctypes.c_void_p
    library.fake_cuda_reset()
    return library


class DeviceArray:
    """NumPy memory that says it lies on a GPU."""

    driver = None
    device = 0

    def __init__(self, array):
        self.array = array
        self.streams = []
        self.driver.fake_cuda_add_memory(array.ctypes.data, max(array.nbytes, 1), self.device)

    def __dlpack_device__(self):
        return 2, self.device

    def __dlpack__(self, *, stream=None, max_version=None):
        self.streams.append(stream)
        capsule = self.array.__dlpack__()
        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype, pointer_of.argtypes = (
            ctypes.c_void_p,
            [ctypes.py_object, ctypes.c_char_p],
        )
        place = pointer_of(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)
        (ctypes.c_int32 * 2).from_address(place)[:] = [2, self.device]
        return capsule


def aligned(shape, dtype):
    """As the frameworks' allocators align."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 512, np.uint8)
    start = -memory.ctypes.data % 512
    return memory[start : start + size].view(dtype).reshape(shape)


class TorchTensor(DeviceArray):
    __module__ = "torch"


class JaxArray(DeviceArray):
    __module__ = "jaxlib.xla_extension"

    def block_until_ready(self):
        return self


class ForeignArray(DeviceArray):
    pass


@pytest.fixture
def context(driver):
    DeviceArray.driver = driver
    return attn.Context(num_threads=1, backend_dir=Path(FOLDER) / "plugin")


@pytest.fixture
def stream(driver, context):
    return driver.fake_cuda_stream(0, 1)


@pytest.fixture
def torch(monkeypatch, stream):
    """A module with what the binding asks of PyTorch."""
    module = types.ModuleType("torch")
    current = types.SimpleNamespace(cuda_stream=stream)
    module.cuda = types.SimpleNamespace(current_stream=lambda device: current)
    for name in ("float32", "float16", "uint8"):
        setattr(module, name, np.dtype(name))
    module.empty = lambda shape, dtype, device: TorchTensor(aligned(shape, dtype))
    monkeypatch.setitem(sys.modules, "torch", module)
    _cuda._make.cache_clear()
    return module


@pytest.fixture
def jax(monkeypatch, stream):
    module = types.ModuleType("jax")
    module.devices = lambda kind: [types.SimpleNamespace(id=0)]
    module.numpy = types.SimpleNamespace(
        empty=lambda shape, dtype, device: JaxArray(aligned(shape, dtype))
    )
    monkeypatch.setitem(sys.modules, "jax", module)
    _cuda._make.cache_clear()
    return module


def arrays(kind, dtype=np.float16):
    return [kind(aligned((2, 4, 40, 64), dtype)) for _ in range(3)]


def test_torch_runs_in_its_stream(driver, context, stream, torch):
    q, k, v = arrays(TorchTensor, np.float32)
    out, lse = attn.attention(q, k, v, causal=True, lse=True, context=context)
    assert type(out) is type(lse) is TorchTensor
    assert out.array.shape == (2, 4, 40, 64) and out.array.dtype == np.float32
    assert lse.array.shape == (2, 4, 40)
    assert driver.fake_cuda_last_symbol() == b"fake_mma_f32"
    assert driver.fake_cuda_last_stream() == stream
    assert driver.fake_cuda_last_q() == q.array.ctypes.data  # no copy
    assert set(q.streams) == {stream}
    given = TorchTensor(np.zeros_like(q.array))
    assert attn.attention(q, k, v, out=given, context=context) is given


def test_the_default_stream_has_a_handle(driver, context, torch):
    torch.cuda.current_stream = lambda device: types.SimpleNamespace(cuda_stream=0)
    q, k, v = arrays(TorchTensor)
    attn.attention(q, k, v, context=context)
    assert q.streams[0] == 1  # DLPack forbids 0
    assert driver.fake_cuda_last_stream() == 1


def test_lengths_on_the_device(driver, context, torch):
    lengths = TorchTensor(np.array([40, 3], np.int32))
    attn.attention(*arrays(TorchTensor), seqlens_k=lengths, context=context)
    assert driver.fake_cuda_last_symbol() == b"fake_wgmma_f16"
    with pytest.raises(TypeError, match="seqlens_k: .*int32"):
        wrong = TorchTensor(np.array([40, 3], np.int64))
        attn.attention(*arrays(TorchTensor), seqlens_k=wrong, context=context)
    with pytest.raises(attn.InvalidArgument, match="seqlens_k"):  # a list lies on the CPU
        attn.attention(*arrays(TorchTensor), seqlens_k=[40, 3], context=context)


def test_packed_needs_bounds(driver, context, torch):
    q, k, v = (TorchTensor(aligned((1, 4, 60, 64), np.float16)) for _ in range(3))
    offsets = TorchTensor(np.array([0, 20, 60], np.int32))
    packed = {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets, "context": context}
    with pytest.raises(attn.InvalidArgument, match="max_seqlen_q"):
        attn.attention(q, k, v, **packed)
    attn.attention(q, k, v, max_seqlen_q=40, max_seqlen_k=40, **packed)
    assert driver.fake_cuda_last_symbol() == b"fake_wgmma_f16"


def test_jax_gets_a_new_array_and_waits(driver, context, jax, monkeypatch):
    waited = []
    monkeypatch.setattr(_cuda, "synchronize", waited.append)
    q, k, v = arrays(JaxArray)
    out = attn.attention(q, k, v, context=context)
    assert type(out) is JaxArray
    assert q.streams == [1]
    assert driver.fake_cuda_last_stream() == 1
    assert waited == [0]


def test_plans(driver, context, stream, torch):
    plan = attn.Plan(
        heads_q=4, head_dim=64, max_batch=2, max_seqlen_q=40, max_seqlen_k=40, dtype="f16",
        device="cuda:0", context=context,
    )  # fmt: skip
    assert plan.info.backend == "cuda"
    assert plan.info.kernel.startswith("fake_wgmma_f16 (sm_90a)")
    q, k, v = arrays(TorchTensor)
    assert type(plan.run(q, k, v)) is TorchTensor
    step = plan.bind(q, k, v)
    assert step() is step()
    assert driver.fake_cuda_last_stream() == stream
    with pytest.raises(attn.InvalidArgument, match="uint8"):
        plan.new_workspace()
    with pytest.raises(attn.InvalidArgument, match="device: 'tpu'"):
        attn.Plan(heads_q=4, head_dim=64, max_seqlen_q=4, max_seqlen_k=4, device="tpu")


def test_merge(driver, context, stream, torch):
    parts = [
        (
            TorchTensor(np.zeros((1, 2, 5, 8), np.float32)),
            TorchTensor(np.zeros((1, 2, 5), np.float32)),
        )
        for _ in range(2)
    ]
    out, lse = attn.merge(parts, context=context)
    assert type(out) is type(lse) is TorchTensor
    assert driver.fake_cuda_last_symbol() == b"fake_merge"
    assert driver.fake_cuda_last_stream() == stream


def test_places_do_not_mix(context, torch):
    q, k, v = arrays(TorchTensor)
    with pytest.raises(attn.InvalidArgument, match="k is on device"):
        attn.attention(q, k.array, v, context=context)
    with pytest.raises(attn.InvalidArgument, match="o is on device"):
        attn.attention(q, k, v, out=np.zeros_like(q.array), context=context)


def test_other_frameworks_are_refused(context):
    with pytest.raises(attn.Unsupported, match="q: lies on a GPU as .*ForeignArray"):
        attn.attention(*arrays(ForeignArray), context=context)


def test_memory_of_another_device(driver, context, torch):
    q, k, v = arrays(TorchTensor)
    driver.fake_cuda_add_memory(k.array.ctypes.data, k.array.nbytes, 1)
    with pytest.raises(attn.InvalidArgument, match="k is at .* CUDA device 1"):
        attn.attention(q, k, v, context=context)
