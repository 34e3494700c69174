"""The backends of scaled_dot_product_attention. One of them takes no problem at all."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator


class SDPBackend(enum.Enum):
    CUDNN_ATTENTION = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    MATH = 3


chosen: list[SDPBackend] = []


@contextlib.contextmanager
def sdpa_kernel(backend: SDPBackend) -> Iterator[None]:
    chosen.append(backend)
    yield
    chosen.pop()
