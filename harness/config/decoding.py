"""How a variant's answers are decoded: its KV cache, and the path by which tokens are found.

Says nothing of weights: a variant that differs from the baseline in these alone has the same model.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.config.fields import Strict, Whole

_BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8)}


class KVCache(Strict):
    """A quantized cache of keys and values (`transformers.QuantizedCache`)."""

    backend: Literal["quanto", "hqq"] = "quanto"  # what quantizes: optimum-quanto, or hqq
    bits: Literal[1, 2, 3, 4, 8] = 4  # bits per number: 2 or 4 with quanto, 1, 2, 3, 4 or 8 with hqq
    group_size: Whole = Field(default=64, ge=8)  # numbers that share one scale; at most the size of an attention head
    residual: Whole = Field(default=128, ge=1)  # newest tokens of an answer that are kept whole; the prompt never is

    @model_validator(mode="after")
    def _bits_fit_backend(self) -> KVCache:
        if self.bits not in _BITS[self.backend]:
            known = " or ".join(map(str, _BITS[self.backend]))
            raise ValueError(f"{self.backend} has no {self.bits} bits; it has {known}")
        return self


class Decoding(Strict):
    """The path to the tokens. In exact arithmetic every path gives the same greedy answers."""

    draft: str | None = None  # a smaller model that proposes tokens: a directory, a hub id or ``smollm2``
    prompt_lookup: Whole | None = Field(default=None, ge=1)  # propose so many tokens that followed the same words
    max_batch: Whole | None = Field(default=None, ge=1)  # largest batch, in rows; `execution.max_batch` by default
    # Attention implementation; `execution.attention` by default
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None

    @model_validator(mode="after")
    def _something_said(self) -> Decoding:
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("says nothing: give draft, prompt_lookup, max_batch or attention")
        if self.draft is not None and self.prompt_lookup is not None:
            raise ValueError("draft and prompt_lookup both propose tokens: give one of them")
        return self

    @property
    def assisted(self) -> bool:
        """Whether tokens are proposed and then checked."""
        return self.draft is not None or self.prompt_lookup is not None
