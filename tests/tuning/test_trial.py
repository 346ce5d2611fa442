"""What a trial takes for what, without Ray."""

from __future__ import annotations

import pytest
import torch

from tuning.trial import _is_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_too_little_memory_has_many_names(error: Exception) -> None:
    assert _is_memory(error)


def test_another_error_is_not_about_memory() -> None:
    assert not _is_memory(RuntimeError("CUDA error: device-side assert triggered"))
