"""Tiny random models on disk, in every format that quantcliff reads, each with the plain model that it must equal.

The quantized ones are rounded to nearest and packed here, from the formats' descriptions, so a kernel can be checked
against arithmetic that shares nothing with it. They know no language: they prove that a path computes what it should.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["FORMATS", "plain_model", "rounded_model"]

_HIDDEN, _INNER, _HEADS, _LAYERS, _CONTEXT = 128, 256, 4, 2, 256
_GROUP = 32
_BITS = 4
_PER_WORD = 32 // _BITS
_ZERO = 1 << (_BITS - 1)

# The order in which AWQ's GEMM format packs eight columns into a word (AutoAWQ, packing_utils: AWQ_ORDER).
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)

_Tensors = dict[str, torch.Tensor]


def plain_model(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Llama of two layers in bf16 with a byte-level tokenizer; give the folder. About 1.3 MB."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=_INNER,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        num_key_value_heads=_HEADS,
        max_position_embeddings=_CONTEXT,
        initializer_range=0.1,  # large enough that the layers, and not the embedding alone, decide the answer
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", model_max_length=_CONTEXT)


def _gptq(plain: Path, out: Path) -> None:
    """GPTQ's own format, version 1: zeros are stored less one (AutoGPTQ, qlinear_cuda: pack)."""
    tensors = _read(plain)
    for name in _matrices(tensors):
        codes, scales = _rounded(tensors.pop(f"{name}.weight"))
        rows, columns = codes.shape
        groups = columns // _GROUP
        tensors[f"{name}.qweight"] = _packed(codes.T.reshape(columns // _PER_WORD, _PER_WORD, rows), dim=1)
        zeros = torch.full((groups, rows // _PER_WORD, _PER_WORD), _ZERO - 1)
        tensors[f"{name}.qzeros"] = _packed(zeros, dim=2)
        tensors[f"{name}.scales"] = scales.T.contiguous()
        tensors[f"{name}.g_idx"] = (torch.arange(columns) // _GROUP).to(torch.int32)
    _write(plain, out, tensors, {"quant_method": "gptq", **_COMMON, "desc_act": False, "sym": True})


def _awq(plain: Path, out: Path) -> None:
    """AWQ's GEMM format: inputs down, outputs packed eight to a word in an order of their own."""
    tensors = _read(plain)
    order = torch.tensor(_AWQ_ORDER)
    for name in _matrices(tensors):
        codes, scales = _rounded(tensors.pop(f"{name}.weight"))
        rows, columns = codes.shape
        words = codes.T.reshape(columns, rows // _PER_WORD, _PER_WORD)[:, :, order]
        tensors[f"{name}.qweight"] = _packed(words, dim=2)
        zeros = torch.full((columns // _GROUP, rows // _PER_WORD, _PER_WORD), _ZERO)
        tensors[f"{name}.qzeros"] = _packed(zeros, dim=2)
        tensors[f"{name}.scales"] = scales.T.contiguous()
    _write(plain, out, tensors, {"quant_method": "awq", **_COMMON, "version": "gemm", "zero_point": True})


def _compressed_tensors(plain: Path, out: Path) -> None:
    """compressed-tensors' pack-quantized format: outputs down, inputs packed eight to a word, codes offset by 8."""
    tensors = _read(plain)
    for name in _matrices(tensors):
        codes, scales = _rounded(tensors.pop(f"{name}.weight"))
        rows, columns = codes.shape
        words = codes.reshape(rows, columns // _PER_WORD, _PER_WORD)
        tensors[f"{name}.weight_packed"] = _packed(words, dim=2)
        tensors[f"{name}.weight_scale"] = scales.to(torch.bfloat16)
        tensors[f"{name}.weight_shape"] = torch.tensor([rows, columns])
    weights = {"num_bits": _BITS, "type": "int", "symmetric": True, "strategy": "group", "group_size": _GROUP}
    scheme = {"targets": ["Linear"], "weights": weights}
    quantization = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": scheme},
        "ignore": ["lm_head"],
    }
    _write(plain, out, tensors, quantization)


def _gguf(plain: Path, out: Path) -> None:
    """A GGUF file in Q8_0, as llama.cpp's converter lays out a Llama, the tokenizer beside it."""
    import gguf

    tensors = _read(plain)
    writer = gguf.GGUFWriter(str(out / "model.Q8_0.gguf"), "llama")
    _gguf_metadata(writer, rows=tensors["model.embed_tokens.weight"].shape[0])
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        values = _gguf_order(name, tensor).float().numpy()
        if tensor.ndim == 1 or "embed" in name or "lm_head" in name:
            writer.add_tensor(_gguf_name(name), values)
        else:
            writer.add_tensor(_gguf_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _copy_tokenizer(plain, out)


def _gguf_metadata(writer: Any, *, rows: int) -> None:
    writer.add_block_count(_LAYERS)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_HIDDEN)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"<{index}>" for index in range(rows)])
    writer.add_token_merges(["< 0"])
    writer.add_eos_token_id(rows - 1)


def _gguf_name(name: str) -> str:
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        "model.layers.": "blk.",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "lm_head": "output",
    }
    for ours, theirs in parts.items():
        name = name.replace(ours, theirs)
    return whole.get(name, name)


def _gguf_order(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Queries and keys with the two halves of each head interleaved, as GGUF's rotary embedding wants them."""
    if "q_proj" not in name and "k_proj" not in name:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(_HEADS, 2, rows // _HEADS // 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


_COMMON = {"bits": _BITS, "group_size": _GROUP, "lm_head": False}

FORMATS: dict[str, Callable[[Path, Path], None]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed_tensors,
    "gguf": _gguf,
}
"""Method to the function that writes the plain model of the first folder, in that format, to the second one."""


def rounded_model(plain: Path, out: Path) -> Path:
    """Write the plain model whose weights are those of the 4-bit formats, rounded; the reference for their kernels."""
    tensors = _read(plain)
    for name in _matrices(tensors):
        codes, scales = _rounded(tensors[f"{name}.weight"])
        values = (codes - _ZERO).float() * scales.float().repeat_interleave(_GROUP, dim=1)
        tensors[f"{name}.weight"] = values.to(torch.bfloat16)
    _write(plain, out, tensors, None)
    return out


def _read(plain: Path) -> _Tensors:
    from safetensors.torch import load_file

    return load_file(plain / "model.safetensors")


def _matrices(tensors: _Tensors) -> Iterator[str]:
    names = [name.removesuffix(".weight") for name in tensors if name.endswith("proj.weight")]
    yield from names


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes in 0..15 and scales in fp16, per group of columns, symmetric about code 8.

    Scales are powers of two, so that every format stores them, and every value, without further rounding.
    """
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
    from safetensors.torch import save_file

    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    if quantization:
        config["quantization_config"] = quantization
    (out / "config.json").write_text(json.dumps(config))
    _copy_tokenizer(plain, out)


def _copy_tokenizer(plain: Path, out: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(plain / name, out / name)
