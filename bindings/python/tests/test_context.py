"""Contexts, what this machine has, versions, errors."""

import os
import subprocess
import sys

import numpy as np
import pytest

import attn


def test_version():
    assert attn.version() == attn.__version__
    assert [int(part) for part in attn.version().split(".")]


def test_context_options():
    context = attn.Context(num_threads=3, isa="scalar")
    assert context.info.isa == "scalar"
    assert context.info.concurrency == 3
    assert repr(context) == "<attn.Context isa=scalar concurrency=3>"
    assert attn.Context(isa="auto").info.isa == attn.default_context().info.isa
    assert attn.default_context() is attn.default_context()
    assert attn.Context().info.concurrency == len(os.sched_getaffinity(0))
    context.warmup()


def test_info():
    info = attn.default_context().info
    assert info.isa in [isa.name for isa in attn.isas()]
    assert all(isinstance(size, int) and size >= 0 for size in info[2:5])
    assert os.path.isabs(info.backend_dir)


def test_isas():
    isas = attn.isas()
    assert {isa.name for isa in isas} == {
        "scalar",
        "avx2",
        "avx512",
        "avx512_bf16",
        "amx_bf16",
        "neon",
    }
    for isa in isas:
        assert bool(isa.reason) == (not isa.available)
        if isa.available:
            assert attn.Context(isa=isa.name, num_threads=1).info.isa == isa.name
        else:
            with pytest.raises(attn.Unavailable, match=isa.name) as caught:
                attn.Context(isa=isa.name)
            assert caught.value.status == "ATTN_ERROR_UNAVAILABLE"
    assert not all(isa.available for isa in isas)  # no machine has AVX and NEON
    assert attn.isas(attn.Context(isa="scalar")) == isas


def test_backends(tmp_path):
    backends = {backend.name: backend for backend in attn.backends()}
    assert backends["standard"].available
    assert backends["standard"].description
    for backend in backends.values():
        assert bool(backend.reason) == (not backend.available)
    elsewhere = attn.Context(backend_dir=tmp_path)
    assert elsewhere.info.backend_dir == str(tmp_path)
    cuda = {backend.name: backend for backend in attn.backends(elsewhere)}["cuda"]
    assert not cuda.available
    assert str(tmp_path) in cuda.reason


def test_a_missing_backend_is_an_error(normal):
    q = normal(1, 1, 2, 4)
    missing = [backend.name for backend in attn.backends() if not backend.available]
    for name in missing:
        with pytest.raises(attn.Unavailable, match=name):
            attn.attention(q, q, q, backend=name)


def test_refused_is_refused(normal):
    """A forced backend that cannot is an error with the reason, never another one's result."""
    q = normal(1, 1, 2, 4)
    for backend in attn.backends():
        try:
            plan = attn.Plan(
                heads_q=1, head_dim=4, max_seqlen_q=2, max_seqlen_k=2, features=["bias"],
                backend=backend.name,
            )  # fmt: skip
        except (attn.Unsupported, attn.Unavailable) as error:
            assert backend.name in str(error)
        else:
            assert plan.info.backend == backend.name
            assert plan.run(q, q, q, bias=np.zeros(2, np.float32)).shape == q.shape


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_threads": 0}, attn.InvalidArgument, "num_threads: 0 must be 1 to 1024"),
        ({"num_threads": -1}, attn.InvalidArgument, "num_threads"),
        ({"num_threads": 1025}, attn.InvalidArgument, "num_threads"),
        ({"num_threads": 1 << 40}, attn.InvalidArgument, "num_threads: .* in 32 bits"),
        ({"num_threads": 2.5}, TypeError, "num_threads: must be an integer, not float"),
        ({"isa": "sse"}, attn.InvalidArgument, "isa: 'sse' is none of amx_bf16, auto, avx2"),
        ({"isa": 1}, TypeError, "isa: must be a string, not int"),
        ({"backend_dir": "relative/dir"}, attn.InvalidArgument, "backend_dir"),
        ({"backend_dir": 3}, TypeError, "backend_dir: must be a path, not int"),
        ({"log": "print"}, TypeError, "log: must be callable, not str"),
    ],
    ids=str,
)
def test_bad_contexts(options, error, message):
    with pytest.raises(error, match=message):
        attn.Context(**options)


def test_force_isa_of_the_environment():
    def isa_with(value):
        return subprocess.run(
            [sys.executable, "-c", "import attn; print(attn.Context().info.isa)"],
            env={**os.environ, "ATTN_FORCE_ISA": value},
            capture_output=True,
            text=True,
        )

    assert isa_with("scalar").stdout == "scalar\n"
    refused = isa_with("nonsense")
    assert refused.returncode == 1
    assert "ATTN_FORCE_ISA" in refused.stderr


def test_errors():
    from attn import _native

    statuses = {
        getattr(_native.lib, name): name
        for name in dir(_native.lib)
        if name.startswith("ATTN_ERROR_")
    }
    classes = {cls.status: cls for cls in attn.Error.__subclasses__()}
    assert set(statuses.values()) == set(classes)  # a class for each status
    from attn import _errors

    for status, name in statuses.items():
        error = _native.ffi.new("attn_error*", {"status": status, "message": "größer".encode()})
        with pytest.raises(classes[name], match="größer") as caught:
            _errors.check(status, error)
        assert caught.value.status == name
    unknown = _errors.failure(_native.ffi.new("attn_error*", {"status": 99}))
    assert type(unknown) is attn.InternalError
    assert unknown.status == "unknown status"
    assert issubclass(attn.InvalidArgument, ValueError)
    assert issubclass(attn.OutOfMemory, MemoryError)


def test_log(tmp_path):
    """A plugin that cannot be loaded is told to the log, if there is one; nobody prints."""
    (tmp_path / "libattn_cuda.so").write_text("no library")
    lines = []
    context = attn.Context(
        log=lambda level, message: lines.append((level, message)), backend_dir=tmp_path
    )
    reasons = {backend.name: backend.reason for backend in attn.backends(context)}
    assert reasons["cuda"]
    for level, message in lines:
        assert level in ("debug", "info", "warning")
        assert message
    # The way from C to the callable and back, whatever the library has to say.
    from attn import _native

    _native.lib.attn_python_log(context._log_handle, 3, b"spoken")
    assert lines[-1] == ("warning", "spoken")
