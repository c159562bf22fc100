"""Ways in which quantized models were seen to fool a comparison, each with the guard that stops it."""

from __future__ import annotations

import json
import shutil

import pytest
import random_models
from lazily import lazy

from harness.config.schema import Variant
from harness.errors import ModelError
from harness.models.backends import batch_invariant
from harness.models.quiet import quiet

torch = lazy("torch")
safetensors = lazy("safetensors.torch")
doctor_models = lazy("harness.models.doctor_models")
formats = lazy("harness.models.formats")
loading = lazy("harness.models.loading")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random Llama: hidden 128, two layers, bf16."""
    return doctor_models.plain_model(tmp_path_factory.mktemp("plain"))


def load_as(method, folder, dtype="bfloat16", **options):
    """Load a folder by a method on the CPU."""
    variant = Variant(name="x", model=str(folder), quantization={"method": method, **options})
    return loading.load(variant, folder, device="cpu", dtype=dtype)


def logits(loaded, ids):
    """Logits in float32."""
    with torch.inference_mode():
        return loaded.model(ids).logits.float()


def tokens():
    """A row of 48 token ids."""
    return torch.randint(0, 256, (1, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["bnb-nf4", "bnb-fp4", "bnb-int8"])
def test_what_is_saved_before_the_first_answer_comes_back(plain, tmp_path, method):
    """A model that never ran is saved whole; what was written answers exactly as the model in memory."""
    random_models.save_unused(method, plain, tmp_path / "saved")
    again = load_as("none", tmp_path / "saved")
    assert again.proof.method == method
    assert torch.equal(logits(again, tokens()), logits(load_as(method, plain), tokens()))


def test_a_model_that_has_answered_is_not_saved(plain, tmp_path):
    """bitsandbytes repacks 4-bit weights for the CPU when they run, and then writes damaged ones: saving refuses."""
    loaded = load_as("bnb-nf4", plain)
    with pytest.raises(ModelError, match="a quantized model that has run is not saved"):
        loaded.model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_checkpoint_that_was_saved_after_running_is_refused(plain, tmp_path):
    """Such a folder from elsewhere is known by its scales: bf16, in the CPU kernel's shape.

    Where this CPU has the kernel (AVX512-BF16) the damage is done for real; elsewhere its traces are written by hand.
    """
    loaded = load_as("bnb-nf4", plain)
    logits(loaded, tokens())
    del loaded.model.save_pretrained
    with quiet():
        loaded.model.save_pretrained(tmp_path)
        loaded.tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj.weight.absmax"
    if formats.headers([file])[name].dtype == "F32":
        tensors = safetensors.load_file(file)
        tensors[name] = tensors[name].reshape(2, 128).to(torch.bfloat16)
        safetensors.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"absmax is BF16 \[\d+, 128\].*after it had run on a CPU"):
        load_as("bnb-nf4", tmp_path)


def test_llm_int8_answers_depend_on_the_batch(plain, tmp_path):
    """A row's answer changes with its batch mates, so the method is marked, noted, and its batches are fixed.

    An embedding with one large column makes a mate whose outlier turns that column to fp16 for all rows. With threshold
    0 nothing is an outlier, and the mark would not be needed.
    """
    folder = shutil.copytree(plain, tmp_path / "m")
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][7] = 0.0
    tensors["model.embed_tokens.weight"][7, 5] = 30.0
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    alone = tokens()
    alone[alone == 7] = 8
    pair = torch.cat([alone, torch.full_like(alone, 7)])

    def moved(method, **options):
        loaded = load_as(method, folder, dtype="float32", **options)
        return (logits(loaded, pair)[:1] - logits(loaded, alone)).abs().max(), loaded.proof.notes

    shift, notes = moved("bnb-int8")
    assert shift > 1e-3
    assert any("depend on the batch" in note for note in notes)
    assert moved("bnb-int8", threshold=0)[0] < 1e-4
    assert moved("torchao-int8")[0] < 1e-4
    assert not batch_invariant("bnb-int8")
    assert all(batch_invariant(method) for method in ("none", "bnb-nf4", "torchao-int8-dynamic", "gptq", "awq", "hqq"))


def test_logits_of_a_bf16_model_can_be_weighed_in_float32(plain):
    """Summed bf16 log-probabilities are rounded to multiples of a power of two; cast first, they are not."""
    answer = logits(load_as("none", plain), tokens())
    rounded = answer.to(torch.bfloat16).log_softmax(-1).max(-1).values.sum()
    exact = answer.log_softmax(-1).max(-1).values.sum()
    assert rounded.dtype == torch.bfloat16
    assert float(rounded) != pytest.approx(float(exact), rel=1e-5)


def test_a_group_size_that_does_not_divide_runs_on_the_plain_kernel(plain, tmp_path):
    """GPTQModel quantizes 128 columns in groups of 256 without a word, and torch's fast CPU kernel then fails.

    Such a checkpoint is loaded on the kernel that can, and the proof says so.
    """
    doctor_models.FORMATS["gptq"](plain, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["group_size"] = 256
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".g_idx")]:
        columns = tensors[name].numel()
        groups = -(-columns // 256)
        stem = name.removesuffix("g_idx")
        tensors[name] = (torch.arange(columns) // 256).to(torch.int32)
        tensors[f"{stem}scales"] = tensors[f"{stem}scales"][:groups].clone()
        tensors[f"{stem}qzeros"] = tensors[f"{stem}qzeros"][:groups].clone()
    safetensors.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_as("gptq", tmp_path)
    assert loaded.proof.kernel == "TorchLinear"
    assert any("groups of 256 do not suit the fast CPU kernel" in note for note in loaded.proof.notes)
    assert logits(loaded, tokens()).isfinite().all()


def test_torchao_intx4_does_not_pass_for_four_bits(plain):
    """Its numerics are int4 and its size is not; the proof counts the byte and the note says it."""
    proof = load_as("torchao-intx4", plain).proof
    assert proof.bits_per_weight > 8
    assert "int4 numerics, no int4 size: each weight is stored in a byte" in proof.notes


def test_quanto_four_bits_runs_in_inference_mode(plain):
    """Its unpacking fails there by itself ("Cannot set version_counter for inference tensor")."""
    loaded = load_as("quanto-int4", plain)
    with torch.inference_mode():
        assert loaded.model(tokens()).logits.isfinite().all()


def test_loading_leaves_the_terminal_and_the_process_as_they_were(plain, tmp_path, capfd):
    """No progress bar, greeting or log line comes through, and the environment is put back."""
    import logging
    import os

    doctor_models.FORMATS["gptq"](plain, tmp_path)
    before = {key: value for key, value in os.environ.items() if key.startswith(("GPTQMODEL", "TORCHDYNAMO"))}
    level = logging.getLogger("transformers").level
    capfd.readouterr()
    for method, folder in (("bnb-int8", plain), ("torchao-int8", plain), ("gptq", tmp_path)):
        logits(load_as(method, folder), tokens())
    assert capfd.readouterr() == ("", "")
    assert {key: os.environ.get(key) for key in before} == before
    assert "GPTQMODEL_CPU_WORKERS" in before or "GPTQMODEL_CPU_WORKERS" not in os.environ
    assert logging.getLogger("transformers").level == level
