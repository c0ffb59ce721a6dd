"""Lack of memory outside the loops is told as such, with what to change; other errors stay what they are."""

import pytest
import torch

from training.errors import OutOfMemory
from training.worker.memory import memory_told


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore."), "Tried to allocate 2 GiB."),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "alloc_cpu"),
        (RuntimeError("CUDA error: out of memory\nMore."), "CUDA error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "CUBLAS"),
    ],
)
def test_lack_of_memory_says_what_to_change(error: Exception, says: str) -> None:
    with pytest.raises(OutOfMemory) as told, memory_told():
        raise error
    for words in (says, "pass_tokens", "training.recompute_activations"):
        assert words in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), OutOfMemory("step 3"), KeyError("x")])
def test_what_is_no_lack_of_memory_or_has_been_told_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory_told():
        raise error
    assert raised.value is error
