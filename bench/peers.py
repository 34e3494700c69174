"""The peers' side of the benchmark: one process for each peer, asked over stdin and stdout.

    python peers.py {ort|openvino|torch}

The first line of stdout is {"version"}, or {"reason"} if the peer is not there. Each line of stdin
is {"case", "seconds"}: run that case for at least so many seconds. The answer is {"seconds"}, the
mean of a run, or {"reason"}, why the peer does not serve the case. Every case's result is compared
with NumPy's before it is timed. From short cases the time of a model is subtracted that does
nothing: what it costs the peer to run any model at all.
"""

import itertools
import json
import math
import os
import sys
import time

import numpy as np

from cases import Case

SHORT = 256  # the longest sequence from which a peer's cost of running any model is subtracted


class NotServed(Exception):
    """Why a peer does not serve a case, in words."""


def aligned_empty(shape):
    """Uninitialised f32 memory at a multiple of 64 bytes, as the library's own rows have it."""
    size = math.prod(shape) * 4
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def make_inputs(case):
    """q, k, v [1, heads, seqlen, head_dim], of decode rows one query and heads_kv."""
    random = np.random.default_rng(1)
    q = aligned_empty((1, case.heads, case.seqlen_q or case.seqlen, case.head_dim))
    k, v = (aligned_empty((1, case.heads_kv, case.seqlen, case.head_dim)) for _ in range(2))
    for tensor in (q, k, v):
        random.standard_normal(dtype=np.float32, out=tensor)
    return q, k, v


def check_result(case, q, k, v, o):
    """Compares some rows of the first and the last head with exact arithmetic (in f64)."""
    tolerance = {"f32": 1e-4, "f16": 4e-3, "bf16": 3e-2}[case.dtype]
    for head in {0, case.heads - 1}:
        head_kv = head // (q.shape[1] // k.shape[1])
        for i in {0, q.shape[2] // 2, q.shape[2] - 1}:
            keys = i + 1 if case.causal else case.seqlen
            scores = k[0, head_kv, :keys].astype(np.float64) @ q[0, head, i]
            scores /= math.sqrt(case.head_dim)
            weights = np.exp(scores - scores.max())
            expected = weights @ v[0, head_kv, :keys] / weights.sum()
            if not np.abs(o[0, head, i] - expected).max() <= tolerance:
                raise NotServed(f"its result is wrong in row {i} of head {head}")


def refuse_unless(served, words):
    if not served:
        raise NotServed(f"measured for {words} only")


class Ort:
    """ONNX Runtime's com.microsoft.MultiHeadAttention through IO binding; for decode rows its
    GroupQueryAttention, which appends the last key to a cache."""

    def __init__(self):
        import onnxruntime

        self.module = onnxruntime
        self.version = onnxruntime.__version__

    def session(self, case, graph):
        from onnx import helper

        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = self.module.SessionOptions()
        options.intra_op_num_threads = case.threads
        options.inter_op_num_threads = 1
        # Its threads spin within a run, but not while others are being measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return self.module.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def prepare(self, case, q, k, v):
        from onnx import TensorProto, helper

        refuse_unless(case.dtype == "f32" and not case.feature, "f32 without features")
        if case.kind == "decode":
            return self.prepare_decode(case, q, k, v)
        refuse_unless(case.kind == "prefill", "prefill and decode")
        # The operator's own layout: [batch, seqlen, heads * head_dim].
        shape = (1, case.seqlen, case.heads * case.head_dim)
        node = helper.make_node(
            "MultiHeadAttention",
            ["q", "k", "v"],
            ["o"],
            domain="com.microsoft",
            num_heads=case.heads,
            unidirectional=int(case.causal),
        )
        values = {
            name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "qkvo"
        }
        graph = helper.make_graph([node], "attention", [values[n] for n in "qkv"], [values["o"]])
        session = self.session(case, graph)
        binding = session.io_binding()
        tensors = {name: aligned_empty(shape) for name in "qkvo"}
        heads_last = (1, case.seqlen, case.heads, case.head_dim)
        for name, tensor in zip("qkv", (q, k, v)):
            tensors[name].reshape(heads_last)[:] = tensor.transpose(0, 2, 1, 3)
        for name, tensor in tensors.items():
            bind = binding.bind_output if name == "o" else binding.bind_input
            bind(name, "cpu", 0, np.float32, shape, tensor.ctypes.data)
        o = tensors["o"].reshape(heads_last).transpose(0, 2, 1, 3)
        # The binding holds addresses only: the closure keeps the tensors.
        return lambda: (session.run_with_iobinding(binding), tensors), o

    def prepare_identity(self, case):
        from onnx import TensorProto, helper

        values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1,)) for n in "qkvo"]
        node = helper.make_node("Identity", ["q"], ["o"])
        session = self.session(case, helper.make_graph([node], "identity", values[:3], values[3:]))
        binding = session.io_binding()
        tensors = {name: aligned_empty((1,)) for name in "qkvo"}
        for name, tensor in tensors.items():
            bind = binding.bind_output if name == "o" else binding.bind_input
            bind(name, "cpu", 0, np.float32, (1,), tensor.ctypes.data)
        return lambda: (session.run_with_iobinding(binding), tensors)

    def prepare_decode(self, case, q, k, v):
        from onnx import TensorProto, helper

        heads_q, heads_kv = case.heads, case.heads_kv
        cache = (1, heads_kv, case.seqlen, case.head_dim)
        row_q, row_kv = (1, 1, heads_q * case.head_dim), (1, 1, heads_kv * case.head_dim)
        floats = {"q": row_q, "k": row_kv, "v": row_kv, "past_k": cache, "past_v": cache}
        results = {"o": row_q, "present_k": cache, "present_v": cache}
        node = helper.make_node(
            "GroupQueryAttention",
            [*floats, "seqlens_k", "total_seqlen"],
            list(results),
            domain="com.microsoft",
            num_heads=heads_q,
            kv_num_heads=heads_kv,
        )
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in floats.items()
        ]
        inputs.append(helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, (1,)))
        inputs.append(helper.make_tensor_value_info("total_seqlen", TensorProto.INT32, ()))
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in results.items()
        ]
        session = self.session(case, helper.make_graph([node], "decode", inputs, outputs))
        last = np.array([case.seqlen - 1], np.int32)  # the keys without the one to be appended
        total = np.array(case.seqlen, np.int32)
        o = aligned_empty(row_q)
        tensors = {
            "q": aligned_empty(row_q),
            "k": aligned_empty(row_kv),
            "v": aligned_empty(row_kv),
        }
        tensors["q"][:] = q.reshape(row_q)
        tensors["k"][:] = k[:, :, -1].reshape(row_kv)
        tensors["v"][:] = v[:, :, -1].reshape(row_kv)

        # In turns over so much memory that no cache serves it; past and present are the same.
        bindings, kept = [], []
        for _ in range(math.ceil((512 << 20) / case.kv_bytes)):
            own = {"k": aligned_empty(cache), "v": aligned_empty(cache)}
            own["k"][:], own["v"][:] = k, v
            kept.append(own)
            binding = session.io_binding()
            for name, tensor in tensors.items():
                binding.bind_input(name, "cpu", 0, np.float32, tensor.shape, tensor.ctypes.data)
            for name, tensor in own.items():
                where = ("cpu", 0, np.float32, cache, tensor.ctypes.data)
                binding.bind_input(f"past_{name}", *where)
                binding.bind_output(f"present_{name}", *where)
            binding.bind_input("seqlens_k", "cpu", 0, np.int32, (1,), last.ctypes.data)
            binding.bind_input("total_seqlen", "cpu", 0, np.int32, (), total.ctypes.data)
            binding.bind_output("o", "cpu", 0, np.float32, row_q, o.ctypes.data)
            bindings.append(binding)
        turns = itertools.cycle(bindings)
        # The bindings hold addresses only: the closure keeps the memory.
        memory = (tensors, kept, last, total, o)
        return lambda: (session.run_with_iobinding(next(turns)), memory), o.reshape(q.shape)


class OpenVino:
    """OpenVINO's ScaledDotProductAttention on the CPU."""

    def __init__(self):
        import openvino

        self.module = openvino
        self.version = openvino.__version__.split("-")[0]

    def prepare(self, case, q, k, v):
        from openvino import opset13

        # In bf16 the inputs stay f32, and are converted on the way in.
        # Without instructions for it, it is emulated at a hundredth of the speed.
        capabilities = self.module.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        served = {"f32"} | ({"bf16"} if "BF16" in capabilities else set())
        refuse_unless(case.dtype in served, " and ".join(sorted(served)))
        refuse_unless(case.kind == "prefill" and not case.feature, "prefill without features")
        shape = list(q.shape)
        parameters = [opset13.parameter(shape, self.module.Type.f32) for _ in range(3)]
        node = opset13.scaled_dot_product_attention(*parameters, causal=case.causal)
        o = aligned_empty(shape)
        return self.compile(case, node, parameters, [q, k, v, o]), o

    def prepare_identity(self, case):
        from openvino import opset13

        parameters = [opset13.parameter([1], self.module.Type.f32) for _ in range(3)]
        node = opset13.relu(parameters[0])  # what returns its input as it is may be left out
        return self.compile(case, node, parameters, [aligned_empty((1,)) for _ in range(4)])

    def compile(self, case, node, parameters, tensors):
        """A run of the model with these inputs and this output, the last tensor."""
        model = self.module.Model([node.output(0)], parameters)
        compiled = self.module.Core().compile_model(
            model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": case.threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": case.dtype,
            },
        )
        request = compiled.create_infer_request()
        tensors = [self.module.Tensor(t, shared_memory=True) for t in tensors]
        for i, tensor in enumerate(tensors[:3]):
            request.set_input_tensor(i, tensor)
        request.set_output_tensor(0, tensors[3])
        # The request holds addresses only: the closure keeps the tensors and the model.
        return lambda: (request.infer(), tensors, compiled)


class Torch:
    """PyTorch's scaled_dot_product_attention, with the flash kernel for CPUs."""

    def __init__(self):
        import torch

        self.module = torch
        self.version = torch.__version__

    def prepare(self, case, q, k, v):
        refuse_unless(case.kind == "prefill" and not case.feature, "prefill without features")
        torch = self.module
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[case.dtype]
        tensors = [torch.from_numpy(tensor).to(dtype) for tensor in (q, k, v)]
        o = np.empty(q.shape, np.float32)
        result = torch.from_numpy(o)
        attention = torch.nn.functional.scaled_dot_product_attention

        def run():
            torch.set_num_threads(case.threads)
            with torch.inference_mode():
                return attention(*tensors, is_causal=case.causal)

        result.copy_(run())
        return run, o

    def prepare_identity(self, case):
        return lambda: None  # no model is run, a function is called


PEERS = {"ort": Ort, "openvino": OpenVino, "torch": Torch}


class Measurer:
    """Keeps what it prepared as long as the cases have the same head_dim and seqlen."""

    def __init__(self, peer):
        self.peer = peer
        self.prepared = {}
        self.identities = {}

    def prepare(self, case):
        def shape(c):
            return c.kind, c.dtype, c.head_dim, c.seqlen, c.own_heads

        if any(shape(c) != shape(case) for c in self.prepared):
            self.prepared.clear()
        if case not in self.prepared:
            q, k, v = make_inputs(case)
            run, o = self.peer.prepare(case, q, k, v)
            run()
            check_result(case, q, k, v, o)
            self.prepared[case] = run
        return self.prepared[case]

    def prepare_identity(self, case):
        if case.threads not in self.identities:
            self.identities[case.threads] = self.peer.prepare_identity(case)
        return self.identities[case.threads]

    def measure(self, case, seconds):
        """Seconds of a run."""
        elapsed = mean_time(self.prepare(case), seconds)
        if case.kind == "prefill" and case.seqlen <= SHORT:
            elapsed -= mean_time(self.prepare_identity(case), seconds)
        return elapsed


def mean_time(run, seconds):
    """The mean of enough runs to fill `seconds`, after one run apart (as Google Benchmark)."""
    runs, elapsed = 1, time_runs(run, 1)
    if elapsed < seconds:
        runs = math.ceil(seconds / elapsed)
        elapsed = time_runs(run, runs)
    return elapsed / runs


def time_runs(run, n):
    start = time.perf_counter()
    for _ in range(n):
        run()
    return time.perf_counter() - start


def serve(name):
    # The protocol keeps stdout for itself: what libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**fields):
        answers.write(json.dumps(fields) + "\n")

    try:
        peer = PEERS[name]()
    except ImportError as error:
        answer(reason=f"not installed ({error})")
        return
    answer(version=peer.version)
    measurer = Measurer(peer)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            case = Case.parse(request["case"])
            answer(seconds=measurer.measure(case, request["seconds"]))
        except Exception as error:  # whatever a peer raises is why it does not serve the case
            answer(reason=" ".join(str(error).split())[:200])


if __name__ == "__main__":
    serve(sys.argv[1])
