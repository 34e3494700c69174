"""What the tests share: random arrays, a single-threaded context."""

import numpy as np
import pytest

import attn


@pytest.fixture
def rng():
    return np.random.default_rng(20240917)


@pytest.fixture
def normal(rng):
    """normal(shape...): f32 standard normal numbers."""
    return lambda *shape: rng.standard_normal(shape, np.float32)


@pytest.fixture(scope="session")
def one_thread():
    return attn.Context(num_threads=1)
