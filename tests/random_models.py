"""Random models of any family of transformers, made from a config's sizes."""

from __future__ import annotations

from typing import Any


def make(family: str, sizes: dict[str, Any], seed: int = 0) -> Any:
    """A random float32 model on the CPU, for the tokenizer of `engine_models`."""
    import engine_models as tiny
    import torch
    import transformers

    mine = tiny.tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": mine.eos_token_id, "pad_token_id": mine.pad_token_id}
    config = transformers.AutoConfig.for_model(family, **{"vocab_size": len(mine), **ids, **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()
