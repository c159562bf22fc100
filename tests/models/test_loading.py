"""A checkpoint is loaded complete or refused by the names of its tensors, and counts for what is quantized in it."""

from __future__ import annotations

import json
import shutil

import engine_models
import pytest
import random_models
from lazily import lazy

from harness.config.schema import Variant
from harness.errors import ModelError

doctor_models = lazy("harness.models.doctor_models")

UP = "model.layers.1.mlp.up_proj"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random Llama: hidden 128, two layers, bf16."""
    return doctor_models.plain_model(tmp_path_factory.mktemp("plain"))


def loaded(folder, method="none", **options):
    """Load a folder by a method, or skip if the method's package is not there."""
    from harness.models.backends import method_status
    from harness.models.loading import load

    status = {status.method: status for status in method_status("cpu")}[method]
    if not status.works:
        pytest.skip(f"{method}: {status.reason}")
    variant = Variant(name="x", model=str(folder), quantization={"method": method, **options})
    return load(variant, folder, device="cpu", dtype="bfloat16")


def changed(source, folder, change):
    """A copy of a checkpoint whose tensors went through `change`."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder, dirs_exist_ok=True)
    file = folder / "model.safetensors"
    with safe_open(file, framework="pt") as held:
        metadata = held.metadata()
    save_file(change(load_file(file)), file, metadata=metadata)
    return folder


def without(*names):
    """A change that leaves tensors out."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize("method", ["none", "bnb-nf4", "quanto-int8", "hqq", "torchao-int8"])
def test_a_missing_matrix_is_refused_by_name(plain, tmp_path, method):
    """However the weights are quantized afterwards, no random matrix takes the place of one that is not there."""
    folder = changed(plain, tmp_path / "m", without(f"{UP}.weight"))
    with pytest.raises(ModelError, match=rf"\(not in the checkpoint: .*{UP}\.weight\)"):
        loaded(folder, method)


@pytest.mark.parametrize("method", ["none", "bnb-nf4"])
def test_a_head_of_its_own_that_the_config_ties_is_refused(plain, tmp_path, method):
    """transformers takes the head of the file, servers take the embeddings: what is served would not be gated."""
    folder = changed(plain, tmp_path / "m", lambda tensors: tensors)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="a head of its own, though tie_word_embeddings is true"):
        loaded(folder, method)
    whole = changed(folder, tmp_path / "n", without("lm_head.weight"))
    assert loaded(whole, method).proof.vocabulary == loaded(plain, method).proof.vocabulary


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "bnb-nf4", "bnb-int8"])
def test_a_head_of_its_own_in_a_quantized_checkpoint_that_the_config_ties_is_refused(plain, tmp_path, method):
    """As it is beside packed matrices, or packed itself, as bitsandbytes saves one that was not left alone."""
    import transformers

    (folder := tmp_path / "m").mkdir()
    if method.startswith("bnb"):
        bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if method == "bnb-nf4" else {"load_in_8bit": True}
        how = transformers.BitsAndBytesConfig(**bits, llm_int8_skip_modules=["none"])
        made = transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=how, dtype="bfloat16")
        made.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(plain / name, folder / name)
    else:
        doctor_models.FORMATS[method](plain, folder)
    assert loaded(folder, method).proof.linear_modules == 15
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="a head of its own, though tie_word_embeddings is true"):
        loaded(folder, method)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_files_head_is_its_own_or_the_embeddings(plain, tmp_path, monkeypatch, tied):
    """GGUF says it by the tensor `output.weight`, which is there or not: both are whole."""
    import gguf
    import torch

    original = gguf.GGUFWriter.add_tensor

    def kept(self, name, *arguments, **more):
        if not (tied and name == "output.weight"):
            original(self, name, *arguments, **more)

    monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", kept)
    doctor_models.FORMATS["gguf"](plain, tmp_path)
    model = loaded(tmp_path, "gguf").model
    same = torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert (same, model.config.tie_word_embeddings) == (tied, tied)


def test_a_renamed_prefix_is_refused(plain, tmp_path):
    """Names under another prefix fit nothing; the message counts the ones that it does not list."""
    folder = changed(plain, tmp_path / "m", lambda tensors: {f"x.{name}": one for name, one in tensors.items()})
    with pytest.raises(ModelError, match=r"lm_head\.weight, .* and 17 more; in the checkpoint and not in the model: x"):
        loaded(folder)


def test_the_prefix_that_transformers_adds_is_none(plain, tmp_path):
    """A checkpoint of the model below the head, with its head, is whole."""
    folder = changed(
        plain, tmp_path / "m", lambda found: {name.removeprefix("model."): one for name, one in found.items()}
    )
    assert loaded(folder).proof.weight_bytes == loaded(plain).proof.weight_bytes


@pytest.mark.parametrize("method", ["none", "bnb-int8", "bnb-nf4", "torchao-int8"])
def test_another_shape_is_refused(plain, tmp_path, method):
    """Also by the methods for which transformers compares no shapes."""

    def cut(tensors):
        return {**tensors, f"{UP}.weight": tensors[f"{UP}.weight"][:100].clone()}

    folder = changed(plain, tmp_path / "m", cut)
    with pytest.raises(
        ModelError, match=rf"of another shape than the model's: {UP}\.weight \[100, 128\] for \[\d+, 128\]"
    ):
        loaded(folder, method)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_transposed_matrix_is_refused(plain, tmp_path, family):
    """Which way round a family stores its matrices is known: GPT-2 transposed, the others not."""
    source, name = plain, f"{UP}.weight"
    if family == "gpt2":
        source, name = tmp_path / "gpt2", "transformer.h.0.mlp.c_fc.weight"
        random_models.make("gpt2", {"n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 512}).save_pretrained(
            source
        )
        engine_models.tokenizer().save_pretrained(source)
    assert loaded(source, "bnb-nf4").proof.quantized_modules
    folder = changed(source, tmp_path / "m", lambda found: {**found, name: found[name].T.contiguous()})
    with pytest.raises(ModelError, match="of another shape than the model's"):
        loaded(folder, "bnb-nf4")


def test_a_bias_without_a_place_is_refused_unless_it_is_zero(plain, tmp_path):
    """AutoGPTQ writes a bias of zeros for every layer, which changes no answer; one of ones would."""
    import torch

    zeros = changed(plain, tmp_path / "zeros", lambda tensors: {**tensors, f"{UP}.bias": torch.zeros(256)})
    assert loaded(zeros).proof.linear_modules == 15
    ones = changed(plain, tmp_path / "ones", lambda tensors: {**tensors, f"{UP}.bias": torch.ones(256)})
    with pytest.raises(ModelError, match=rf"in the checkpoint and not in the model: {UP}\.bias"):
        loaded(ones)


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_layer_for_speculative_decoding_is_no_error(plain, tmp_path, ahead):
    """Layers behind the last are left out if the config says that they predict further ahead, and only then."""
    extra = "model.layers.2.mlp.up_proj.weight"
    folder = changed(plain, tmp_path / "m", lambda tensors: {**tensors, extra: tensors[f"{UP}.weight"].clone()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": ahead}))
    if ahead:
        assert loaded(folder).proof.linear_modules == 15
    else:
        with pytest.raises(ModelError, match=f"not in the model: {extra}"):
            loaded(folder)


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("gptq", "qweight"),
        ("awq", "qzeros"),
        ("compressed-tensors", "weight_scale"),
    ],
)
def test_a_stored_format_that_lacks_a_part_is_refused(plain, tmp_path, method, part):
    """Codes, scales and zeros are tensors like any other."""
    (tmp_path / "whole").mkdir()
    doctor_models.FORMATS[method](plain, tmp_path / "whole")
    folder = changed(tmp_path / "whole", tmp_path / "m", without(f"{UP}.{part}"))
    with pytest.raises(ModelError, match=rf"not in the checkpoint: {UP}\.{part}"):
        loaded(folder, method)


@pytest.mark.parametrize(
    ("method", "part"), [("bnb-int8", "SCB"), ("bnb-nf4", "weight.absmax"), ("torchao-int8", "_weight_scale")]
)
def test_a_saved_model_that_lacks_a_scale_is_refused(plain, tmp_path, method, part):
    """transformers says the name of a failed conversion only in its log: the message holds it."""
    random_models.save_unused(method, plain, tmp_path / "whole")
    folder = changed(tmp_path / "whole", tmp_path / "m", without(f"{UP}.{part}"))
    with pytest.raises(ModelError, match=rf"not whole: {UP}\.weight"):
        loaded(folder)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A random Qwen3-MoE: eight experts in each of two layers, bf16."""
    import engine_models as tiny
    import torch

    folder = tmp_path_factory.mktemp("experts")
    more = {"num_experts": 8, "moe_intermediate_size": 64, "hidden_size": 64, "head_dim": 16, "mlp_only_layers": []}
    random_models.make("qwen3_moe", {**tiny.SIZES, **more}).to(torch.bfloat16).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", ["experts.3.up_proj", "experts.3"])
def test_a_missing_expert_is_refused(experts, tmp_path, part):
    """Experts are put together while loading: seven of eight do not make a matrix of eight."""

    def fewer(tensors):
        return {name: tensor for name, tensor in tensors.items() if f"layers.0.mlp.{part}" not in name}

    with pytest.raises(ModelError, match=r"(not whole|another shape than the model's): model\.layers\.0\.mlp\.experts"):
        loaded(changed(experts, tmp_path / "m", fewer))


@pytest.mark.parametrize(
    ("name", "values", "refused"),
    [
        ("blk.0.attn_q.bias", [1.0] * 128, True),
        ("rope_freqs.weight", [4.0] * 16, True),
        ("rope_freqs.weight", [1.0] * 16, False),
    ],
)
def test_a_gguf_tensor_that_is_passed_over_is_refused(plain, tmp_path, monkeypatch, name, values, refused):
    """transformers drops what its table lacks without a word; frequencies divided by 1 are no loss."""
    import gguf
    import numpy as np

    original = gguf.GGUFWriter.write_header_to_file

    def with_one_more(self):
        self.add_tensor(name, np.array(values, dtype=np.float32))
        original(self)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_one_more)
    doctor_models.FORMATS["gguf"](plain, tmp_path)
    if refused:
        with pytest.raises(ModelError, match=f"not in the model: {name}"):
            loaded(tmp_path, "gguf")
    else:
        assert loaded(tmp_path, "gguf").proof.quantized_modules == 14


def test_every_family_is_whole(tmp_path):
    """Tied heads, rotary buffers and recurrent states raise no false alarm."""
    import engine_models as tiny

    for at, (family, sizes) in enumerate(tiny.FAMILIES.items()):
        made = random_models.make(family, {**sizes, "tie_word_embeddings": at % 2 == 0})
        made.save_pretrained(tmp_path / family)
        tiny.tokenizer().save_pretrained(tmp_path / family)
        assert loaded(tmp_path / family).proof.linear_modules > 0


def test_the_small_real_model_is_whole(smollm2):
    """SmolLM2's head is tied and not stored."""
    assert loaded(smollm2).proof.linear_modules == 211


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_weight_file_that_cannot_be_read_is_named(plain, tmp_path, name):
    """Bytes that are no weights cost that variant a ModelError with the file, not a traceback."""
    folder = shutil.copytree(plain, tmp_path / "m")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x04not weights at all" * 10)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        loaded(folder)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "x"},
        {"num_attention_heads": 0},
        {"model_type": "nope"},
        {"quantization_config": [1]},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "zz"}},
        {"text_config": 3},
        {"num_hidden_layers": 1},
    ],
)
def test_a_config_that_describes_no_model_is_a_model_error(plain, tmp_path, wrong):
    """Whatever line of a library meets it, the run goes on without this variant."""
    folder = shutil.copytree(plain, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **wrong}))
    with pytest.raises(ModelError, match=str(folder)):
        loaded(folder)


def test_a_damaged_generation_config_is_refused(plain, tmp_path):
    """transformers goes on without it, and so without its end tokens."""
    folder = shutil.copytree(plain, tmp_path / "m")
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config\.json is not JSON"):
        loaded(folder)


# -- what is quantized


def test_experts_that_a_method_does_not_reach_count(experts):
    """Experts are 3-D parameters, which bitsandbytes leaves alone: their share is said, and refused unless allowed."""
    from harness.errors import NotComparable
    from harness.models.compatibility import check_candidate

    plain_proof, proof = loaded(experts).proof, loaded(experts, "bnb-nf4").proof
    attention = 64 * 16 * (2 * 4 + 2 * 2)  # query and output of 4 heads, key and value of 2
    routed = 8 * (3 * 64 * 64 + 64)  # three matrices of each expert, and its row in the router
    assert proof.quantized_share == pytest.approx(attention / (attention + routed), abs=1e-4)
    assert plain_proof.quantized_share is None
    variant = Variant(name="nf4", quantization="bnb-nf4")
    with pytest.raises(NotComparable, match=r"only \d+% of the weights in its matrices.*allow_partial: true"):
        check_candidate(plain_proof, proof, variant)
    check_candidate(plain_proof, proof, variant.model_copy(update={"allow_partial": True}))


@pytest.mark.parametrize("storage", ["uint8", "bfloat16", "float16", "float32"])
def test_codes_in_a_tensor_of_any_dtype_are_quantized(plain, tmp_path, storage):
    """bitsandbytes keeps 4-bit codes in whatever dtype is asked for (FSDP wants bfloat16)."""
    import torch
    import transformers

    options = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_quant_storage=getattr(torch, storage)
    )
    made = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16, quantization_config=options)
    shutil.copytree(plain, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    made.save_pretrained(tmp_path / "m")
    proof = loaded(tmp_path / "m").proof
    assert (proof.quantized_modules, proof.linear_modules, proof.quantized_share) == (14, 15, 1.0)
    assert proof.bits_per_weight == pytest.approx(4.5, abs=0.15)


def test_the_verdict_says_that_little_is_quantized():
    """Below nine tenths the share is in the verdict's line and its reasons, whatever the verdict."""
    from making import Cell, judged

    from harness.report.words import headline

    for share, said in ((0.62, "only 62% of the weights in its matrices are quantized"), (0.95, ""), (None, "")):
        proofs = {"int4": {"method": "bnb-nf4", "quantized_share": share}}
        (one,) = judged({"s/a": Cell(400, wrong=40)}, proofs=proofs).candidates
        assert (said in headline(one), said in " ".join(one.reasons)) == (True, True)
        assert ("quantized" in headline(one)) is bool(said)


@pytest.mark.parametrize(("own", "writes", "refused"), [([0, 3], True, False), (3, True, True), (3, False, False)])
def test_other_end_tokens_are_refused(plain, tmp_path, own, writes, refused):
    """Answers that end at other tokens differ by their lengths; choices have no end."""
    from harness.errors import NotComparable
    from harness.models.compatibility import check_candidate

    def ending(name, ends):
        folder = shutil.copytree(plain, tmp_path / name)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        return loaded(folder).proof

    baseline, candidate = ending("baseline", [0, 3]), ending("candidate", own)
    assert {0, 3} <= set(baseline.end_tokens)
    if refused:
        with pytest.raises(NotComparable, match=r"answers end at the tokens \[.*3.*\] and the baseline's at \[0, "):
            check_candidate(baseline, candidate, Variant(name="x"), writes=writes)
    else:
        check_candidate(baseline, candidate, Variant(name="x"), writes=writes)


def test_other_defaults_of_a_server_are_said(tmp_path):
    """Sampling defaults and chat templates of a candidate's folder reach its users, and no answer of a run."""
    from harness.models.compatibility import serving_notes

    def folder(name, template, place="tokenizer_config.json", **defaults):
        (made := tmp_path / name).mkdir()
        (made / "config.json").touch()
        told = {"eos_token_id": 3, "transformers_version": name, "_from_model_config": True, **defaults}
        (made / "generation_config.json").write_text(json.dumps(told))
        text = json.dumps({"chat_template": template}) if place.endswith("json") else template
        (made / place).write_text(text)
        return str(made)

    paths = {"bf16": folder("bf16", "{{ a }}", temperature=0.6)}
    paths |= {"same": folder("same", "{{ a }}", "chat_template.jinja", temperature=0.6)}
    paths |= {
        "other": folder("other", "{{ b }}", temperature=0.6, repetition_penalty=1.1, suppress_tokens=[7]),
        "file": __file__,
    }
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").touch()
    (note, bare) = serving_notes("bf16", {**paths, "bare": str(tmp_path / "bare")})
    assert note.startswith(
        "other: chat_template, repetition_penalty, suppress_tokens of its folder are not the baseline's"
    )
    assert bare.startswith("bare: chat_template, temperature of its folder")
