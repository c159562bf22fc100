"""The project's own engine: a loaded transformers model, exact, batched, with bounded memory."""

import dataclasses
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from harness.config.schema import KVCache
from harness.engines.protocol import EngineBase, Usage
from harness.engines.transformers.continuous import Drafts, EngineContext, Observer
from harness.engines.transformers.decode_paths import NOTE, Assisted, quantized_cache
from harness.engines.transformers.head import Head
from harness.engines.transformers.items import TextGeneration, score_items
from harness.engines.transformers.packing import Budget
from harness.engines.transformers.probe import probed
from harness.engines.transformers.text import TextCodec
from harness.models.backends import batch_invariant
from harness.models.cuda import device_memory
from harness.models.resolve import end_token_ids
from harness.records import Item, Proof, Response, Settings

ENGINE_VERSION = "hf/10"  # raised whenever the same items could get other answers
NO_LIMIT = 2**31 - 1


class HFEngine(EngineBase):
    """A loaded transformers model, ready to answer.

    `batch_tokens` and `max_batch` bound a batch in padded tokens, room for the answers included, and in rows.
    `optimizations` change no answer beyond the noise of sums: switch them off for tests and bug reports. Methods whose
    answers depend on their batch mates (LLM.int8) get batches that depend on a unit's items alone. `decoding` quantizes
    what answers grow on, or lets another model or the prompt propose tokens. `context` is for those who ask in tokens.
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
        super().__init__(proof)
        self.version, limit, notes = ENGINE_VERSION, _context_limit(model, tokenizer), self._spent.notes
        self.context_limit, invariant = limit, batch_invariant(proof.method)
        asked = probed(model, device, by_pass=not invariant, slots=optimizations and invariant)
        path, together = asked.path, asked.longest_together
        if path.note:
            notes.append(f"no beginnings were shared: {path.note}")
        if together < limit:
            notes.append(f"positions change from token {together} on: longer items are answered one by one")
        if isinstance(decoding, KVCache):
            asked.quantized_cache, facts = quantized_cache(asked, decoding)
            self._proof = dataclasses.replace(proof, kv_cache=facts)
            notes.append(NOTE)
        budget = Budget(batch_tokens, max_batch if path.batched else 1, equal=not path.padded, together=together)
        shared, assisted = optimizations and path.trees, decoding if isinstance(decoding, Assisted) else None
        slots = {"share_prefixes": shared, "continuous": shared and invariant and decoding is None}
        texts = TextCodec(tokenizer, end_token_ids(model))
        self.context = EngineContext(asked, texts, limit, budget, **slots, usage=self._spent, assisted=assisted)

    def usage(self) -> Usage:
        """Return what has been spent so far."""
        spent = super().usage()
        if (why := self.context.model.no_graphs) and self.context.continuous:
            spent.notes.append(f"the kernels of decode steps were launched one by one: {why}")
        if self.context.assisted and (note := self.context.assisted.note()):
            spent.notes.append(note)
        if self.context.model.device.type == "cuda":
            spent.peak_bytes = device_memory()[0]  # what tensors took on all GPUs
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            spent.peak_bytes = peak * (1 if sys.platform == "darwin" else 1024)
        return spent

    def answer(
        self, items: Sequence[Item], settings: Settings, drafts: Drafts | None = None, observer: Observer = None
    ) -> Iterator[Response]:
        """Yield the responses to one work unit: choices first, then free text.

        `drafts` and an observer's references may be the answers, by item id: that is found in one pass, and no answer
        changes. Raises NonFinite with the item's id, RunError if one item alone does not fit memory.
        """
        yield from score_items(self.context, [item for item in items if item.kind == "choice"], observer)
        texts = [item for item in items if item.kind == "generate"]
        yield from TextGeneration(self.context, settings).answer(texts, drafts or {}, observer)

    @property
    def head(self) -> Head:
        """The output head: what a divergence is measured with."""
        return self.context.model.head


def _context_limit(model: Any, tokenizer: Any) -> int:
    """Return the longest sequence, by config or tokenizer as in lm_eval's `resolve_max_length`, else no limit."""
    config = getattr(model.config, "text_config", None) or model.config
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    said = getattr(tokenizer, "model_max_length", None)
    return int(min(said, NO_LIMIT)) if said is not None else NO_LIMIT
