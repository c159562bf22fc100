"""Random models of any family of transformers, made from a config's sizes, and quantized models saved before use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


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


def save_unused(method: str, plain: Path, out: Path) -> None:
    """Quantize a plain model by a method and save it before its first forward; skip where the method does not work."""
    from harness.config.schema import Variant
    from harness.errors import BackendMissing
    from harness.models import loading

    variant = Variant(name="x", model=str(plain), quantization=method)
    try:
        request = loading._request(variant, plain, device="cpu", dtype="bfloat16", attention="auto")
    except BackendMissing as error:
        pytest.skip(str(error))
    with loading.quiet():
        loading._model(request).save_pretrained(out)
        loading._tokenizer(request).save_pretrained(out)
