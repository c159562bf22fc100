"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

Puts a model, its tokenizer and its budgets behind the engine protocol. Does not know how a model was loaded or
quantized, and does not know scores.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.config.schema import KVCache
from harness.engines.protocol import Usage
from harness.engines.transformers.assisted import Assisted
from harness.engines.transformers.batches import Budget
from harness.engines.transformers.divergence import HiddenStateObserver
from harness.engines.transformers.generate import TextGeneration
from harness.engines.transformers.head import Head
from harness.engines.transformers.kv_cache import NOTE, quantized_cache
from harness.engines.transformers.loglikelihood import ChoiceScoring
from harness.engines.transformers.model import context_limit
from harness.engines.transformers.probe import probed
from harness.engines.transformers.scheduler import EngineContext, UsageCounter
from harness.engines.transformers.text import TextCodec
from harness.models.backends import batch_invariant
from harness.models.cuda import device_memory
from harness.models.resolve import end_token_ids
from harness.records import Item, Proof, Response, Settings

__all__ = ["ENGINE_VERSION", "HFEngine"]

ENGINE_VERSION = "hf/8"
"""Raised whenever the same items could get other answers."""


class HFEngine:
    """A loaded transformers model, ready to answer.

    `batch_tokens` and `max_batch` bound a batch in padded tokens, room for the answers included, and in rows.
    `optimizations` are what makes the engine fast and changes no answer beyond the noise of sums: switch them off for
    tests and bug reports. Which of them a model takes is probed on the model itself, and `usage` says so. Methods whose
    answers depend on their batch mates (LLM.int8) get batches that depend on a unit's items alone. `decoding`
    quantizes what answers grow on, or lets another model or the prompt propose tokens; both take the plain path.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        proof: Proof,
        *,
        device: str,
        batch_tokens: int = 16384,
        max_batch: int = 64,
        optimizations: bool = True,
        decoding: KVCache | Assisted | None = None,
    ) -> None:
        invariant = batch_invariant(proof.method)
        language_model = probed(model, device, by_pass=not invariant, slots=optimizations and invariant)
        path, together = language_model.path, language_model.longest_together
        limit = context_limit(model, tokenizer)
        notes = [f"no beginnings were shared: {path.note}"] if path.note else []
        if together < limit:
            notes.append(f"positions change from token {together} on: longer items are answered one by one")
        rows = max_batch if path.batched else 1
        if isinstance(decoding, KVCache):
            language_model.quantized_cache, facts = quantized_cache(language_model, decoding)
            proof = dataclasses.replace(proof, kv_cache=facts)
            notes.append(NOTE)
        slots = optimizations and invariant and path.trees and decoding is None
        self._proof = proof
        self._context = EngineContext(
            model=language_model,
            texts=TextCodec(tokenizer, end_token_ids(model)),
            limit=limit,
            budget=Budget(batch_tokens, rows, equal=not path.padded, together=together),
            share_prefixes=optimizations and path.trees,
            continuous=slots,
            usage=UsageCounter(notes=notes),
            assisted=decoding if isinstance(decoding, Assisted) else None,
        )

    @property
    def version(self) -> str:
        """Part of every cache key."""
        return ENGINE_VERSION

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._context.limit

    def proof(self) -> Proof:
        """Return what is loaded."""
        return self._proof

    def usage(self) -> Usage:
        """Return what has been spent so far."""
        account = self._context.usage
        why, assisted = self._context.model.no_graphs, self._context.assisted
        eager = [f"the kernels of decode steps were launched one by one: {why}"] if why else []
        drafts = [assisted.note()] if assisted and assisted.note() else []
        notes = tuple(dict.fromkeys([*account.notes, *eager, *drafts]))
        return Usage(account.prompt_tokens, account.output_tokens, self._peak_bytes(), notes)

    def answer(
        self,
        items: Sequence[Item],
        settings: Settings,
        drafts: Mapping[str, Sequence[int]] | None = None,
        observer: HiddenStateObserver | None = None,
    ) -> Iterator[Response]:
        """Yield the responses to one work unit: choices first, then free text.

        `drafts` may give, by item id, the tokens that another variant answered: where this one answers the same,
        that is found in one pass, and no answer changes. `observer` is shown the hidden states behind the answers, to
        keep them or to compare them. An item that does not fit the context is `Unanswered`, never cut. Raises
        NonFinite with the item's id if logits are NaN or infinite, RunError if one item alone does not fit
        memory.
        """
        choices = [item for item in items if item.kind == "choice"]
        yield from ChoiceScoring(self._context).answer(choices, observer)
        texts = [item for item in items if item.kind == "generate"]
        yield from TextGeneration(self._context, settings).answer(texts, drafts or {}, observer)

    @property
    def context(self) -> EngineContext:
        """What questions are asked at, for those who ask in tokens and not in items."""
        return self._context

    @property
    def head(self) -> Head:
        """The output head: what a divergence is measured with."""
        return self._context.model.head

    def _peak_bytes(self) -> int:
        """Return the largest memory seen: what tensors took on all GPUs, else the resident set."""
        if self._context.model.device.type == "cuda":
            return device_memory()[0]
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes if sys.platform == "darwin" else kilobytes * 1024
