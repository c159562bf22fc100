"""What a model's folder says of itself, and the sentence for every way in which it can be damaged."""

from __future__ import annotations

import json
import math
import shutil
import struct

import pytest
from lazily import lazy

from harness.config.schema import Variant
from harness.errors import ModelError

torch = lazy("torch")
safetensors = lazy("safetensors.torch")
formats = lazy("harness.models.formats")
loading = lazy("harness.models.loading")


@pytest.fixture
def copy(tiny_llama, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "model")


def loaded(folder):
    """Load the folder as its own config says."""
    return loading.load(Variant(name="x", model=str(folder)), folder, device="cpu", dtype="bfloat16")


def say(folder, **quantization):
    """Write a quantization config into the folder's config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return folder


def test_headers_agree_with_safetensors_own_reader(tiny_llama):
    """Names, shapes and dtypes are those that the safetensors library reads."""
    from safetensors import safe_open

    found = formats.headers([tiny_llama / "model.safetensors"])
    with safe_open(tiny_llama / "model.safetensors", framework="pt") as file:
        assert set(found) == set(file.keys())
        for name, header in found.items():
            piece = file.get_slice(name)
            assert (list(header.shape), header.dtype) == (piece.get_shape(), piece.get_dtype())
            assert header.size == file.get_tensor(name).nbytes


@pytest.mark.parametrize("cut", [1, 1000, "header", "all"])
def test_a_truncated_weight_file_is_named(copy, cut):
    """Cut by a byte, by a kilobyte, in its header, or to nothing: a ModelError with the file's path."""
    file = copy / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes({"header": data[:100], "all": b""}.get(cut, data[: -cut if isinstance(cut, int) else None]))
    with pytest.raises(ModelError, match=r"model\.safetensors is not a whole safetensors file"):
        loaded(copy)


def test_a_header_that_promises_the_world_is_not_believed(copy):
    """A header length of 2^60 bytes is refused, not allocated."""
    (copy / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        loaded(copy)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff"])
def test_a_broken_config_is_named(copy, content):
    """Empty, cut short, a list, not UTF-8: a ModelError with the file's path."""
    (copy / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json (is not JSON|holds)"):
        loaded(copy)


def test_an_adapter_beside_the_weights_is_refused(copy):
    """transformers adds it where peft is installed, and else passes over it: what is gated would depend on that."""
    (copy / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ModelError, match=r"model: has an adapter beside its weights.*remove adapter_config\.json"):
        loaded(copy)


def test_a_missing_shard_is_named(copy):
    """An index that names a file that is not there is a ModelError with that file's path."""
    tensors = dict.fromkeys(formats.headers([copy / "model.safetensors"]), "model-00002-of-00002.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": tensors}))
    with pytest.raises(
        ModelError, match=r"model-00002-of-00002\.safetensors is missing, and model\.safetensors\.index"
    ):
        loaded(copy)


def test_one_file_beside_shards_that_do_not_name_it_is_refused(copy):
    """transformers would load the one file, servers the shards: of an older build, say."""
    tensors = dict.fromkeys(formats.headers([copy / "model.safetensors"]), "model-00001-of-00001.safetensors")
    shutil.copy(copy / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": tensors}))
    with pytest.raises(ModelError, match=r"model\.safetensors lies beside model\.safetensors\.index\.json"):
        loaded(copy)
    (copy / "model.safetensors").unlink()
    loaded(copy)


def test_an_old_shard_beside_the_one_file_is_refused(copy):
    """Servers that read every file take the last one's values."""
    shutil.copy(copy / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match=r"-of-00001\.safetensors lies beside model\.safetensors"):
        loaded(copy)


def test_a_tensor_in_two_shards_is_refused(copy):
    """transformers takes the last, whatever the index says."""
    file = copy / "model.safetensors"
    tensors = safetensors.load_file(file)
    name, *names = sorted(tensors)
    more = {name: -tensors[name], **{one: tensors.pop(one) for one in names[: len(names) // 2]}}
    for number, held in enumerate((tensors, more), start=1):
        safetensors.save_file(held, copy / f"model-0000{number}-of-00002.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(more, "model-00002-of-00002.safetensors") | dict.fromkeys(
        tensors, "model-00001-of-00002.safetensors"
    )
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    file.unlink()
    with pytest.raises(ModelError, match=f"both hold {name}"):
        loaded(copy)


def test_a_broken_tokenizer_is_named(copy):
    """A tokenizer that does not load is a ModelError with the folder, not the library's traceback."""
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="its tokenizer does not load"):
        loaded(copy)


@pytest.mark.parametrize("factor", [[1.0, 1.0, 1.0, math.nan], [0.0] * 4])
def test_damaged_weights_are_found_before_any_item(copy, factor):
    """One NaN; or all zero, where every token is as likely and the first of all choices is preferred."""
    from safetensors.torch import load_file

    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"] *= torch.tensor(factor).repeat(len(tensors["model.norm.weight"]) // 4)
    safetensors.save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="answers NaN, infinity or every token alike"):
        loaded(copy)


@pytest.mark.parametrize(
    ("quantization", "method"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bnb-int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb-nf4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "bnb-fp4"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
            "torchao-int8",
        ),
    ],
)
def test_a_config_names_its_method(copy, quantization, method):
    """Each library's way to say it becomes the name that our config uses."""
    found = formats.stored(say(copy, **quantization))
    assert (found.method, found.bits) == (method, quantization.get("bits"))


def test_a_plain_folder_is_plain(tiny_llama):
    """Without a quantization config there is nothing quantized."""
    assert formats.stored(tiny_llama).method == "none"


def test_a_method_that_we_do_not_know_is_named(copy):
    """The message says which one it is, and which there are."""
    with pytest.raises(ModelError, match=r"quantized by 'aqlm', which quantcliff does not load \(it loads awq"):
        formats.stored(say(copy, quant_method="aqlm"))


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("awq", "the config says awq, and the checkpoint says that it is gptq"),
        ("bnb-nf4", "the config says bnb-nf4, and the checkpoint says that it is gptq"),
    ],
)
def test_a_config_that_contradicts_the_checkpoint_is_refused(copy, method, says):
    """Neither the config nor the checkpoint is overruled in silence."""
    say(copy, quant_method="gptq", bits=4, group_size=32)
    variant = Variant(name="x", model=str(copy), quantization=method)
    with pytest.raises(ModelError, match=says):
        loading.load(variant, copy, device="cpu", dtype="bfloat16")


@pytest.mark.parametrize("method", ["gptq", "auto-gptq", "awq", "compressed-tensors"])
def test_plain_weights_are_not_taken_for_a_checkpoint(tiny_llama, method):
    """A checkpoint method on plain weights says how to make a checkpoint."""
    variant = Variant(name="x", model=str(tiny_llama), quantization=method)
    with pytest.raises(ModelError, match=r"these weights are not quantized.*quantcliff quantize"):
        loading.load(variant, tiny_llama, device="cpu", dtype="bfloat16")


def test_several_gguf_files_have_to_be_told_apart(tmp_path):
    """With two files the config must name one; a name that is not there is answered with those that are."""
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"several GGUF files \(a.gguf, b.gguf\)"):
        formats.stored(tmp_path)
    with pytest.raises(ModelError, match=r"there is no c.gguf in it \(GGUF files there: a.gguf, b.gguf\)"):
        formats.stored(tmp_path, "c.gguf")
    assert formats.stored(tmp_path, "b.gguf").gguf_file == "b.gguf"


def test_a_file_that_only_claims_to_be_gguf_is_named(tmp_path):
    """The first four bytes decide."""
    (tmp_path / "a.gguf").write_bytes(b"<html>")
    with pytest.raises(ModelError, match=r"a\.gguf is not a GGUF file"):
        formats.weight_files(tmp_path, formats.stored(tmp_path))


def autogptq(folder, names, *, in_config=True, **extra):
    """A folder in AutoGPTQ's layout: weight files of the given names, and quantize_config.json."""
    folder.mkdir()
    quantization = {"bits": 4, "group_size": 32, "model_file_base_name": None, **extra}
    (folder / "quantize_config.json").write_text(json.dumps(quantization))
    config = {"architectures": ["LlamaForCausalLM"], **({"quantization_config": quantization} if in_config else {})}
    (folder / "config.json").write_text(json.dumps(config))
    for name in names:
        safetensors.save_file({f"{name}.qweight": torch.zeros(4, dtype=torch.int32)}, folder / name)
    return folder


@pytest.mark.parametrize("in_config", [True, False])
def test_autogptqs_layout_is_shown_as_loaders_expect_it(tmp_path, in_config):
    """One weight file under the standard name, the quantization in config.json without AutoGPTQ's own keys."""
    folder = autogptq(tmp_path / "m", ["gptq_model-4bit-32g.safetensors"], in_config=in_config, is_marlin_format=False)
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    found = formats.stored(folder)
    assert (found.method, found.autogptq, found.bits, found.group_size) == ("gptq", True, 4, 32)
    with formats.view(folder, found) as links:
        assert sorted(entry.name for entry in links.iterdir()) == ["config.json", "model.safetensors"]
        shown = json.loads((links / "config.json").read_text())["quantization_config"]
        assert shown == {"bits": 4, "group_size": 32, "quant_method": "gptq", "checkpoint_format": "gptq"}
    assert not links.exists()
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before


def test_autogptqs_shards_keep_their_names(tmp_path):
    """With an index the shards stay, and the index takes the standard name."""
    names = [f"gptq_model-4bit-32g-0000{part}-of-00002.safetensors" for part in (1, 2)]
    folder = autogptq(tmp_path / "m", names)
    index = {"weight_map": {f"{name}.qweight": name for name in names}}
    (folder / "gptq_model-4bit-32g.safetensors.index.json").write_text(json.dumps(index))
    with formats.view(folder, formats.stored(folder)) as links:
        held = sorted(entry.name for entry in links.iterdir())
        assert held == ["config.json", *names, "model.safetensors.index.json"]


def test_autogptqs_marlin_files_are_refused(tmp_path):
    """Nothing maintained reads them; the message says what to do instead."""
    folder = autogptq(tmp_path / "m", ["gptq_model-4bit-32g.safetensors"], is_marlin_format=True)
    with (
        pytest.raises(ModelError, match=r"Marlin's layout.*quantize the baseline again"),
        formats.view(folder, formats.stored(folder)),
    ):
        pass


def test_two_weight_files_without_an_index_are_refused(tmp_path):
    """Which of them is the model is not guessed."""
    folder = autogptq(tmp_path / "m", ["a.safetensors", "b.safetensors"])
    with pytest.raises(ModelError, match="several weight files"), formats.view(folder, formats.stored(folder)):
        pass
