"""Checkpoints are made whole or not at all, prove themselves, and name what they were calibrated on."""

from __future__ import annotations

import json
import shutil

import pytest
from lazily import lazy

from harness.config.schema import Variant
from harness.errors import Interrupted, ModelError, UsageError
from harness.models.calibration import SIDECAR, Calibration, calibration_overlap
from harness.models.compatibility import check_candidate

doctor_models = lazy("harness.models.doctor_models")
loading = lazy("harness.models.loading")
checkpoints = lazy("harness.models.checkpoints")
backends = lazy("harness.models.backends")

TEXTS = tuple(
    f"Chapter {number}. The keeper of lighthouse number {number} counted {number * 7} gulls before breakfast, wrote the"
    " number into a book that nobody read, and lit the stove."
    for number in range(1, 9)
)
OWN = Calibration("lighthouse", TEXTS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random Llama: hidden 128, two layers, bf16, with a generation config that does not sample."""
    return doctor_models.plain_model(tmp_path_factory.mktemp("plain"))


def make(source, out, **changed):
    """Make a checkpoint on the CPU, or skip with the reason why that does not work here."""
    options = {"method": "gptq", "bits": 4, "group_size": 32, "calibration": OWN, "device": "cpu", **changed}
    status = {status.method: status for status in backends.method_status("cpu")}[options["method"]]
    if not status.works:
        pytest.skip(f"{options['method']}: {status.reason}")
    return checkpoints.make_checkpoint(source, out, **options)


@pytest.fixture(scope="module")
def gptq(plain, tmp_path_factory):
    """A GPTQ checkpoint: its folder, its proof, what was said, and a copy of the folder as it was before its check."""
    place = tmp_path_factory.mktemp("gptq")
    said = []

    def keep(sentence):
        said.append(sentence)
        if sentence == "loading it to compare its answers":
            (partial,) = (place / "made").glob(".int4.partial-*")
            shutil.copytree(partial, place / "unchecked")

    return place / "made" / "int4", make(plain, place / "made" / "int4", progress=keep), said, place / "unchecked"


@pytest.mark.slow
def test_a_gptq_checkpoint_is_made_proved_and_comparable(plain, gptq):
    """It is 4-bit on disk and loaded, reads texts as its source does, and holds none of the calibration texts."""
    out, proof, said, _ = gptq
    assert said[0] == f"quantizing {plain.name} to gptq 4-bit, calibrated on lighthouse (8 texts)"
    assert "layer 2 of 2" in said
    assert (proof.method, proof.quantized_modules) == ("gptq", 14)
    assert 4.5 < proof.bits_per_weight < 5
    variant = Variant(name="int4", model=str(out), quantization="gptq")
    baseline = loading.load(Variant(name="b", model=str(plain)), plain, device="cpu", dtype="bfloat16").proof
    check_candidate(baseline, proof, variant)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (plain / name).read_bytes()
    for file in out.iterdir():
        assert b"lighthouse number" not in file.read_bytes(), file.name
    assert [entry.name for entry in out.parent.iterdir()] == ["int4"]
    assert not [name for name in out.iterdir() if "answers" in name.name or name.is_dir()]


@pytest.mark.slow
def test_a_checkpoint_altered_while_it_was_saved_is_refused(gptq):
    """The error names the module that answers differently."""
    from safetensors.torch import load_file, save_file

    from harness.models.checkpoints import _read_back

    unchecked, module = gptq[3], "model.layers.1.mlp.up_proj"
    assert _read_back(unchecked, "gptq", "cpu", unchecked / "work" / "answers") == gptq[1]
    tensors = load_file(unchecked / "model.safetensors")
    tensors[f"{module}.qweight"][:, 0] = 0  # the weights of one output of 256
    save_file(tensors, unchecked / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"{module} is 0\.\d+ away from what it was before saving; rounding explains"):
        _read_back(unchecked, "gptq", "cpu", unchecked / "work" / "answers")


@pytest.mark.slow
def test_an_awq_checkpoint_knows_what_it_saw(plain, tmp_path):
    """Its sidecar names the set, the source and the settings, and finds a prompt that was calibrated on."""
    proof = make(plain, tmp_path / "awq", method="awq")
    assert (proof.method, proof.quantized_modules) == ("awq", 14)
    record = json.loads((tmp_path / "awq" / SIDECAR).read_text())
    settings = {"calibration": "lighthouse", "method": "awq", "bits": 4, "group_size": 32}
    assert {key: record[key] for key in settings} == settings
    assert len(record["texts"]) == 8
    prompts = ["Something else entirely, about a bridge and its many rivets.", TEXTS[3]]
    assert calibration_overlap(tmp_path / "awq", prompts) == [1]


def test_a_recorded_module_that_is_not_loaded_is_a_difference(tmp_path):
    """Names that do not fit would leave nothing to compare, which is no agreement."""
    from safetensors.torch import save_file
    from torch import nn, ones

    from harness.models.checkpoints_worker import compare_answers

    save_file({"q_proj:in": ones(1, 2), "q_proj:out": ones(1, 2)}, tmp_path / "answers")
    assert compare_answers(nn.Sequential(nn.Linear(2, 2)), tmp_path / "answers") == "q_proj is not there any more"


def test_an_interrupted_quantization_leaves_nothing(plain, tmp_path):
    """Ctrl-C while the worker is at work ends it, removes its files, and says so."""

    def interrupt(sentence):
        if sentence == "loading the model":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"nothing was written to .*int4\. Start again to make it"):
        make(plain, tmp_path / "int4", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group_size": 96}, r"group_size 96 does not divide .* \(128, 256\): take one of 16, 32, 64, 128$"),
        ({"group_size": 256}, r"take one of 16, 32, 64, 128$"),
        ({"bits": 5}, "gptq takes 2, 3, 4, 8 bits, not 5"),
        ({"bits": 8, "method": "awq"}, "awq takes 4 bits, not 8"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(plain, tmp_path, options, says):
    """Before any model is loaded, with the values that would work."""
    with pytest.raises(UsageError, match=says):
        make(plain, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


def test_awq_refuses_matrices_that_its_search_cannot_split(tiny_llama, tmp_path):
    """The library would end in a bare AssertionError after the first layer."""
    with pytest.raises(UsageError, match=r"multiple of 64 rows, and some have 32; take gptq"):
        make(tiny_llama, tmp_path / "out", method="awq")


def test_what_is_there_is_not_overwritten(plain, tmp_path):
    """An existing folder is left alone."""
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        make(plain, tmp_path / "out")


def test_a_link_to_nowhere_is_refused_before_anything_is_quantized(plain, tmp_path):
    """Nothing can be renamed to it: the work of hours was lost at its end."""
    (tmp_path / "out").symlink_to(tmp_path / "gone" / "out")
    with pytest.raises(UsageError, match="is there already"):
        make(plain, tmp_path / "out")


def test_what_another_process_made_meanwhile_is_not_taken_for_it(plain, tmp_path, monkeypatch):
    """It may be another method or other bits: its folder stays, and this call does not say that it made it."""

    def meanwhile(_source, work, _options, _say):
        work.mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "config.json").write_text("{}")

    monkeypatch.setattr("harness.models.checkpoints._quantize", meanwhile)
    monkeypatch.setattr("harness.models.checkpoints._read_back", lambda *_: None)
    with pytest.raises(UsageError, match="is there already"):
        make(plain, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "{}"


def test_a_quantized_model_is_not_quantized_again(plain, tmp_path):
    """The message asks for the model that it was made from."""
    (tmp_path / "q").mkdir()
    doctor_models.FORMATS["gptq"](plain, tmp_path / "q")
    with pytest.raises(ModelError, match=r"quantized already \(gptq\)"):
        make(tmp_path / "q", tmp_path / "out")


def test_a_quantizer_that_fails_is_heard(plain, tmp_path, monkeypatch):
    """Its last words are in the message, and nothing is left behind: here those of a broken installation."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "gptqmodel.py").write_text("raise ImportError('a kernel is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(ModelError, match=r"quantizing .* failed: ImportError: a kernel is missing"):
        make(plain, tmp_path / "made" / "out")
    assert list((tmp_path / "made").iterdir()) == []
