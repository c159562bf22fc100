"""Models of random weights, a tokenizer of single bytes, and questions: what needs no network and no file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.records import Item, Proof

NO_PROOF = Proof("none", "Linear", 0, 0, 0.0, 0, 0, "", 0, "")
CONTEXT = 262144

# hidden, inner, layers, heads, key heads, vocabulary
SIZES = {
    "tiny": (64, 128, 2, 4, 2, 512),
    "135m": (576, 1536, 30, 9, 3, 49152),
    "1b": (2048, 8192, 16, 32, 8, 128256),
    "8b": (4096, 14336, 32, 32, 8, 128256),
}
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def made_model(size: str, device: str, dtype: torch.dtype, *, spread: float = 0.02, seed: int = 0) -> Any:
    """Return a Llama of random weights, made on the device; a large `spread` makes its answers vary."""
    hidden, inner, layers, heads, key_heads, vocabulary = SIZES[size]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)
    finally:
        torch.set_default_dtype(before)


def body_of(model: Any) -> int:
    """Return the number of weights that every token passes: all but embedding and head."""
    named = model.named_parameters()
    return sum(weight.numel() for name, weight in named if "embed" not in name and "lm_head" not in name)


def made_tokenizer() -> Any:
    """Return a tokenizer with a token for each byte, with a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<eos>", "<pad>", *alphabet]
    bpe = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<eos>", pad_token="<pad>", model_max_length=CONTEXT
    )
    found.chat_template = TEMPLATE
    return found


def save_made(folder: Path, size: str, device: str) -> Path:
    """Write a made model with its tokenizer to a folder, unless it is there; return the folder."""
    if not (folder / "complete").is_file():
        made_model(size, device, torch.bfloat16).save_pretrained(folder)
        made_tokenizer().save_pretrained(folder)
        (folder / "complete").touch()
    return folder


def text_of(tokens: int, seed: object) -> str:
    """Return a text of exactly so many tokens, another for each seed from its first word on."""
    draw, words = random.Random(f"{seed}"), ["river", "garden", "winter", "letter", "engine", "bridge", "copper"]
    text = f"{seed} "
    while len(text) < tokens:
        text += f"{draw.choice(words)} {draw.randint(10, 99999)}. "
    return text[:tokens]


def item(name: str, prompt: str, **rest: Any) -> Item:
    """Return an item to be weighed if it has choices, to be answered if not."""
    kind = "choice" if "choices" in rest else "generate"
    fixed = {"slice": "gpu", "task": "gpu", "levels": {}, "stratum": "all", "cluster": name}
    return Item(id=f"gpu/{name}", kind=kind, prompt=prompt, **fixed, **rest)  # type: ignore[arg-type]


def questions() -> list[Item]:
    """Return items of every kind: free text of several lengths, questions on one text, choices."""
    text = text_of(1400, "one text")
    lengths = [item(f"g{n}", text_of(10 + 40 * n, n), max_tokens=12 + n % 5, stop=("\n\n",)) for n in range(12)]
    shared = [item(f"h{n}", f"{text} Question {n}?", max_tokens=8) for n in range(6)]
    weighed = [item(f"c{n}", f"{text[: 400 + n]} so", choices=(" one", " two two", " three")) for n in range(6)]
    return [*lengths, *shared, *weighed]
