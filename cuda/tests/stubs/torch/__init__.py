"""As much of PyTorch as measure.py calls, on a GPU whose clock moves by what the runs say."""

from __future__ import annotations

from typing import Any

from . import cuda as cuda
from . import nn as nn

bfloat16, float16 = "torch.bfloat16", "torch.float16"
float32, int32 = "torch.float32", "torch.int32"


class Tensor:
    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype

    def __matmul__(self, other: Tensor) -> Tensor:
        cuda.work("matmul")
        return self

    def numel(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    def sum(self) -> None:
        cuda.work("sum")


def randn(shape: tuple[int, ...], device: str, dtype: str) -> Tensor:
    assert device == "cuda"
    return Tensor(shape, dtype)


def ones(count: int, device: str, dtype: str) -> Tensor:
    return Tensor((count,), dtype)


def tensor(values: list[Any], device: str, dtype: str) -> Tensor:
    return Tensor((len(values),), dtype)


def manual_seed(seed: int) -> None:
    assert seed == 0
