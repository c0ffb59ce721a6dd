"""Which precision a base is read in."""

import pytest
import torch

from training.base.loading import BF16, FP32, Precision, fastest_precision


@pytest.mark.parametrize(
    ("device", "capability", "wanted"),
    [("cpu", "AVX2", FP32), ("cpu", "AVX512", BF16), ("cpu", "SVE256", BF16), ("cuda", "AVX2", BF16)],
)
def test_a_base_is_read_in_what_the_device_is_fastest_in(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: str, wanted: Precision
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert fastest_precision(torch.device(device)) == wanted
