"""The doctor says what is here, what works, and why the rest does not."""

from __future__ import annotations

import json
import platform

import pytest
from lazily import lazy

from harness.config.methods import METHODS
from harness.models.backends import method_status
from harness.models.doctor import describe, examine
from harness.records import to_json

torch = lazy("torch")


@pytest.fixture(scope="module")
def report():
    """The report on this machine's CPU."""
    return examine("cpu")


def test_the_report_tells_the_machine_and_every_method(report):
    """Versions, memory and all methods in the config's order; what does not work has a reason."""
    from torch import __version__ as torch_version

    assert report.python == platform.python_version()
    assert report.packages["torch"] == torch_version
    assert report.memory_bytes >= report.free_bytes > 1 << 20
    assert report.cpus >= 1
    assert [status.method for status in report.methods] == list(METHODS)
    assert all(status.works or status.reason for status in report.methods)
    assert report.proved == ()


def test_the_report_is_plain_data_and_plain_text(report):
    """JSON for programs; for people a line per method, the missing ones with what they lack."""
    data = json.loads(json.dumps(to_json(report)))
    assert len(data["methods"]) == len(METHODS)
    text = describe(report)
    assert (
        "no   torchao-int4            it needs a CUDA device of compute capability 8.0 or higher, and this is cpu"
        in text
    )
    assert f"Python      {platform.python_version()}" in text


def test_auto_takes_the_gpu_where_there_is_one():
    """Else the CPU."""
    assert examine("auto").device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_device_that_is_not_there_is_the_reason_for_every_method():
    """Nothing works on a CUDA device that torch does not find, and each line says so."""
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    statuses = method_status("cuda:3")
    assert not any(status.works for status in statuses)
    assert all("cuda:3 was asked for and torch" in status.reason for status in statuses)


@pytest.mark.slow
def test_proof_runs_every_method_that_should_work(monkeypatch):
    """All of them answer near their reference, the stored formats as good as exactly.

    Here methods of every kind; `test_methods.py` loads each.
    """
    from harness.models import doctor

    kinds = ("none", "bnb-nf4", "torchao-int4", "gptq", "auto-gptq", "gguf")
    every = doctor.method_status("cpu")
    monkeypatch.setattr(doctor, "method_status", lambda _device: [one for one in every if one.method in kinds])
    said = []
    report = examine("cpu", prove=METHODS, progress=said.append)
    able = {status.method for status in report.methods if status.works} - {"auto-gptq"}
    assert {result.method for result in report.proved} == able
    assert said == [f"trying {result.method}" for result in report.proved]
    for result in report.proved:
        assert result.works, (result.method, result.reason)
        assert result.error is not None
        if result.method in {"none", "gptq"}:
            assert result.error < 0.01
    assert "yes  bnb-nf4       Linear4bit, 4.52 bits, error 0." in describe(report)


def test_a_kernel_that_raises_costs_its_method_alone(monkeypatch):
    """Whatever it raises, the others are tried, and the report says what it was."""
    from harness.models import doctor

    real = doctor._logits

    def logits(folder, method, device):
        if method == "bnb-nf4":
            raise AssertionError("input_tensor must be 1x128 scaled")
        return real(folder, method, device)

    monkeypatch.setattr(doctor, "_logits", logits)
    found = {one.method: one for one in examine("cpu", prove=("none", "bnb-nf4", "bnb-int8")).proved}
    assert [one.works for one in found.values()] == [True, True, False]
    assert found["bnb-nf4"].reason == "AssertionError: input_tensor must be 1x128 scaled"


def test_packing_is_what_the_formats_say():
    """Eight 4-bit codes to a word, the first in the lowest bits; rounding keeps a value within half a step."""
    from harness.models.doctor_models import _packed, _rounded

    assert _packed(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]]), dim=1).tolist() == [0x87654321 - (1 << 32)]
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    codes, scales = _rounded(weight)
    assert (int(codes.min()) >= 0, int(codes.max()) <= 15, tuple(scales.shape)) == (True, True, (8, 2))
    values = (codes - 8).float() * scales.float().repeat_interleave(32, dim=1)
    assert ((values - weight.float()).abs() <= scales.float().repeat_interleave(32, dim=1) / 2 + 1e-6).all()
