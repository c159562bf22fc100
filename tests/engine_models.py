"""Tiny random models of several families, and items to ask them: what the engine's tests share."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import conftest
from lazily import lazy

from harness.records import Item, Proof

torch, transformers, hf_engine = lazy("torch"), lazy("transformers"), lazy("harness.engines.transformers.engine")

CONTEXT = 256
# Weights far larger than a trained model's start, so that answers differ from token to token; windows short enough
# for the prompts below to leave them.
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "mistral": {**SIZES, "sliding_window": 24},
    "gemma2": {**SIZES, "sliding_window": 24, "query_pre_attn_scalar": 12},
    "gemma3_text": {**SIZES, "sliding_window": 24, "query_pre_attn_scalar": 12, "sliding_window_pattern": 3},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.3},
    "mamba": {"hidden_size": 48, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.3},
    "falcon_h1": {**SIZES, "mamba_d_ssm": 48, "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_state": 8},
}


@functools.cache
def tokenizer() -> Any:
    """The byte-level tokenizer of `conftest`, with the context limit of these models."""
    return conftest.make_tokenizer(CONTEXT)


@functools.cache
def model(family: str, seed: int = 0, dtype: str = "float32") -> Any:
    """A random model of a family on the CPU, in a dtype of torch. Do not change it: it is shared."""
    mine = tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": mine.eos_token_id, "pad_token_id": mine.pad_token_id}
    config = transformers.AutoConfig.for_model(family, vocab_size=len(mine), **ids, **FAMILIES[family])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config)
    return made.to(getattr(torch, dtype)).eval()


def random_like(family: str, attention: str) -> Any:
    """A copy of a family's model with another attention implementation."""
    made = copy.deepcopy(model(family))
    made.set_attn_implementation(attention)
    return made


def proof() -> Proof:
    """A proof of nothing in particular."""
    return Proof("none", "Linear", 0, 1, 32.0, 1, 0, "float32", len(tokenizer()), "tiny")


def engine(
    model_or_family: Any = "llama", tokens: Any = None, *, method: str = "none", device: str = "cpu", **options: Any
) -> Any:
    """An `HFEngine` round a model, or round a family's; `method` is what the proof says it was quantized with."""
    round_ = model(model_or_family) if isinstance(model_or_family, str) else model_or_family
    measured = dataclasses.replace(proof(), method=method)
    return hf_engine.HFEngine(round_, tokens or tokenizer(), measured, device=device, **options)


def item(name: str, prompt: str, **rest: Any) -> Item:
    """An item of one slice."""
    kind = "choice" if "choices" in rest else "generate"
    fixed = {"slice": "s", "task": "t", "levels": {}, "stratum": "all", "cluster": name}
    return Item(id=f"t/{name}", kind=kind, prompt=prompt, **fixed, **rest)


STORY = "The quick brown fox jumps over the lazy dog. Question: what is 12 plus 30? Answer: 42. "
CHOICES = (" Paris", " Berlin is", " 7381", " the lazy dog", " Москва")


def choice_items() -> list[Item]:
    """Contexts of many lengths, some sharing a beginning, one empty, one ending in spaces."""
    alone = [item(f"c{n}", ("La capitale " * n + "est")[-n * 9 :], choices=CHOICES) for n in (1, 2, 5, 9)]
    shared = [item(f"h{n}", STORY * 2 + f"How many apples are {n}?", choices=CHOICES[: 2 + n % 3]) for n in range(4)]
    odd = [item("empty", "", choices=CHOICES[:2]), item("spaces", "Столица России —  ", choices=CHOICES)]
    return [*alone, *shared, *odd]


def text_items() -> list[Item]:
    """Prompts of many lengths, some sharing a beginning, with and without stop texts, short and long answers."""
    alone = [item(f"g{n}", "The special number " * n, max_tokens=6 + 5 * n, stop=("e", "zz")) for n in (1, 2, 4, 6)]
    shared = [item(f"q{n}", STORY * 2 + f"What is {n} plus 3?", max_tokens=30) for n in range(5)]
    return [*alone, *shared, item("chat", chat("What is 12 plus 30?"), max_tokens=12)]


def chat(question: str) -> str:
    """A question in the tokenizer's chat template."""
    messages = [{"role": "user", "content": question}]
    text: str = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text
