"""Tiny random models in every format that is read, packed by arithmetic that shares nothing with the kernels."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_HIDDEN, _INNER, _HEADS, _LAYERS, _CONTEXT = 128, 256, 4, 2, 256
_GROUP, _BITS = 32, 4
_PER_WORD, _ZERO = 32 // _BITS, 1 << (_BITS - 1)
# The order in which AWQ's GEMM format packs eight columns into a word (AutoAWQ, packing_utils: AWQ_ORDER).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_Tensors = dict[str, torch.Tensor]


def plain_model(folder: Path, head_dim: int = _HIDDEN // _HEADS) -> Path:
    """Write a random Llama of two layers in bf16 with a byte-level tokenizer; give the folder. About 1.3 MB."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
    core = Tokenizer(models.BPE({letter: index for index, letter in letters}, []))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    core.add_special_tokens(["<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", model_max_length=_CONTEXT)
    sizes = {"vocab_size": len(tokenizer), "hidden_size": _HIDDEN, "intermediate_size": _INNER}
    sizes |= {"num_hidden_layers": _LAYERS, "num_attention_heads": _HEADS, "num_key_value_heads": _HEADS}
    sizes["head_dim"] = head_dim
    tokens = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": _CONTEXT}
    # Initial weights large enough that the layers, and not the embedding alone, decide the answer.
    config = LlamaConfig(**sizes, **tokens, initializer_range=0.1, tie_word_embeddings=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _gptq(plain: Path, out: Path) -> None:
    """GPTQ's own format, version 1: zeros are stored less one (AutoGPTQ, qlinear_cuda: pack)."""
    tensors, matrices = _read(plain)
    for name, (codes, scales) in matrices.items():
        rows, columns = codes.shape
        tensors[f"{name}.qweight"] = _packed(codes.T.reshape(columns // _PER_WORD, _PER_WORD, rows), dim=1)
        zeros = torch.full((columns // _GROUP, rows // _PER_WORD, _PER_WORD), _ZERO - 1)
        tensors[f"{name}.qzeros"], tensors[f"{name}.scales"] = _packed(zeros, dim=2), scales.T.contiguous()
        tensors[f"{name}.g_idx"] = (torch.arange(columns) // _GROUP).to(torch.int32)
    _write(plain, out, tensors, {"quant_method": "gptq", **_COMMON, "desc_act": False, "sym": True})


def _awq(plain: Path, out: Path) -> None:
    """AWQ's GEMM format: inputs down, outputs packed eight to a word in an order of their own."""
    tensors, matrices = _read(plain)
    for name, (codes, scales) in matrices.items():
        rows, columns = codes.shape
        words = codes.T.reshape(columns, rows // _PER_WORD, _PER_WORD)[:, :, torch.tensor(_AWQ_ORDER)]
        tensors[f"{name}.qweight"] = _packed(words, dim=2)
        tensors[f"{name}.qzeros"] = _packed(torch.full((columns // _GROUP, rows // _PER_WORD, _PER_WORD), _ZERO), dim=2)
        tensors[f"{name}.scales"] = scales.T.contiguous()
    _write(plain, out, tensors, {"quant_method": "awq", **_COMMON, "version": "gemm", "zero_point": True})


def _compressed_tensors(plain: Path, out: Path) -> None:
    """compressed-tensors' pack-quantized format: outputs down, inputs packed eight to a word, codes offset by 8."""
    tensors, matrices = _read(plain)
    for name, (codes, scales) in matrices.items():
        rows, columns = codes.shape
        tensors[f"{name}.weight_packed"] = _packed(codes.reshape(rows, columns // _PER_WORD, _PER_WORD), dim=2)
        tensors[f"{name}.weight_scale"] = scales.to(torch.bfloat16)
        tensors[f"{name}.weight_shape"] = torch.tensor([rows, columns])
    weights = {"num_bits": _BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": _GROUP}
    quantization = {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"],
    }  # fmt: skip
    _write(plain, out, tensors, quantization)


def _gguf(plain: Path, out: Path) -> None:
    """A GGUF file in Q8_0, as llama.cpp's converter lays out a Llama, the tokenizer beside it."""
    import gguf

    tensors = load_file(plain / "model.safetensors")
    rows, writer = tensors["model.embed_tokens.weight"].shape[0], gguf.GGUFWriter(str(out / "model.Q8_0.gguf"), "llama")
    metadata = {
        "block_count": _LAYERS, "context_length": _CONTEXT, "embedding_length": _HIDDEN, "feed_forward_length": _INNER,
        "head_count": _HEADS, "head_count_kv": _HEADS, "layer_norm_rms_eps": 1e-6, "rope_freq_base": 10000.0,
        "vocab_size": rows, "tokenizer_model": "gpt2", "token_list": [f"<{index}>" for index in range(rows)],
        "token_merges": ["< 0"], "eos_token_id": rows - 1,
    }  # fmt: skip
    for key, value in metadata.items():
        getattr(writer, f"add_{key}")(value)
    kind, names = gguf.GGMLQuantizationType.Q8_0, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, _LAYERS)
    for name, tensor in tensors.items():
        place, values = names.get_name(name, (".weight",)), tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:  # GGUF's rotary embedding wants the halves of each head interleaved
            values = values.reshape(_HEADS, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if tensor.ndim == 1 or "embed" in name or "lm_head" in name:
            writer.add_tensor(place, values)
        else:
            writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _copy_tokenizer(plain, out)


_COMMON = {"bits": _BITS, "group_size": _GROUP, "lm_head": False}
# Method to the function that writes the plain model of the first folder, in that format, to the second one.
FORMATS = {"gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed_tensors, "gguf": _gguf}


def rounded_model(plain: Path, out: Path) -> Path:
    """Write the plain model whose weights are those of the 4-bit formats, rounded; the reference for their kernels."""
    tensors, matrices = _read(plain)
    for name, (codes, scales) in matrices.items():
        values = (codes - _ZERO).float() * scales.float().repeat_interleave(_GROUP, dim=1)
        tensors[f"{name}.weight"] = values.to(torch.bfloat16)
    _write(plain, out, tensors, None)
    return out


def _read(plain: Path) -> tuple[_Tensors, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The tensors that stay as they are, and codes and scales of the matrices by the names of their modules."""
    tensors = load_file(plain / "model.safetensors")
    names = [name for name in tensors if name.endswith("proj.weight")]
    return tensors, {name.removesuffix(".weight"): _rounded(tensors.pop(name)) for name in names}


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in 0..15 about code 8, and scales by groups of columns: powers of two, which every format stores."""
    rows, columns = weight.shape
    groups = weight.float().reshape(rows, columns // _GROUP, _GROUP)
    scales = torch.exp2(torch.ceil(torch.log2(groups.abs().amax(dim=2).clamp(min=1e-4) / (_ZERO - 1))))
    codes = (groups / scales[:, :, None]).round().clamp(-_ZERO, _ZERO - 1) + _ZERO
    return codes.reshape(rows, columns).to(torch.int64), scales.to(torch.float16)


def _packed(codes: torch.Tensor, *, dim: int) -> torch.Tensor:
    """Eight 4-bit codes to an int32 along `dim`, the first in the lowest bits; `dim` goes."""
    shifts = (torch.arange(_PER_WORD) * _BITS).reshape([-1 if axis == dim else 1 for axis in range(codes.ndim)])
    words = (codes.to(torch.int64) << shifts).sum(dim=dim)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def _write(plain: Path, out: Path, tensors: _Tensors, quantization: dict[str, Any] | None) -> None:
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config |= {"quantization_config": quantization} if quantization else {}
    (out / "config.json").write_text(json.dumps(config))
    _copy_tokenizer(plain, out)


def _copy_tokenizer(plain: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plain / name, out / name)
