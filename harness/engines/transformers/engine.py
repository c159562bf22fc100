"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

Puts a model, its tokenizer and its budgets behind the engine protocol. Does not know how a model was loaded or
quantized, and does not know scores.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from harness.engines.protocol import Usage
from harness.engines.transformers.ask_choices import ChoiceQuestions
from harness.engines.transformers.ask_texts import TextQuestions
from harness.engines.transformers.batches import Budget
from harness.engines.transformers.desk import ALL, Account, Desk, Shortcuts
from harness.engines.transformers.divergence import Watch
from harness.engines.transformers.head import Head
from harness.engines.transformers.model import context_limit
from harness.engines.transformers.probe import probed
from harness.engines.transformers.text import Texts
from harness.models.backends import batch_invariant as steady_method
from harness.models.resolve import end_token_ids
from harness.records import Generation, Item, Proof, Response, Settings

__all__ = ["ENGINE_VERSION", "HFEngine", "Shortcuts"]

ENGINE_VERSION = "hf/7"
"""Raised whenever the same items could get other answers."""


class HFEngine:
    """A loaded transformers model, ready to answer.

    `batch_tokens` and `max_batch` bound a batch in padded tokens, room for the answers included, and in rows.
    `batch_invariant` is false for variants whose answer to an item depends on what else is in the batch (LLM.int8):
    they get every item alone, so that an answer is a function of its item. `shortcuts` are what makes the engine
    fast and changes no answer; which of them a model takes is probed on the model itself, and `usage` says so.
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
        batch_invariant: bool = True,
        shortcuts: Shortcuts = ALL,
    ) -> None:
        language_model = probed(model, device, by_pass=not steady_method(proof.method), slots=shortcuts.continuous)
        path, together = language_model.path, language_model.longest_together
        limit = context_limit(model, tokenizer)
        notes = [f"no beginnings were shared: {path.note}"] if path.note else []
        if together < limit:
            notes.append(f"positions change from token {together} on: longer items are answered one by one")
        possible = Shortcuts(
            share_prefixes=shortcuts.share_prefixes and path.trees,
            continuous=shortcuts.continuous and path.trees,
            guided=shortcuts.guided and shortcuts.continuous and path.trees and batch_invariant,
        )
        rows = max_batch if batch_invariant and path.batched else 1
        self._proof = proof
        self._desk = Desk(
            model=language_model,
            texts=Texts(tokenizer, end_token_ids(model)),
            limit=limit,
            budget=Budget(batch_tokens, rows, equal=not path.padded, together=together),
            shortcuts=possible,
            invariant=batch_invariant,
            account=Account(notes=notes),
        )

    @property
    def version(self) -> str:
        """Part of every cache key."""
        return ENGINE_VERSION

    @property
    def context_limit(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self._desk.limit

    @property
    def shortcuts(self) -> Shortcuts:
        """The shortcuts that are on: those asked for that this model can take."""
        return replace(self._desk.shortcuts)

    def proof(self) -> Proof:
        """Say what is loaded."""
        return self._proof

    def usage(self) -> Usage:
        """Say what has been spent so far."""
        account = self._desk.account
        notes = tuple(dict.fromkeys(account.notes))
        return Usage(account.prompt_tokens, account.output_tokens, self._peak_bytes(), notes)

    def answer(
        self,
        items: Sequence[Item],
        settings: Settings,
        drafts: Mapping[str, Sequence[int]] | None = None,
        watch: Watch | None = None,
    ) -> Iterator[Response]:
        """Yield the responses to one work unit: choices first, then free text.

        `drafts` may give, by item id, the tokens that another variant answered: where this one answers the same,
        that is found in one pass, and no answer changes. `watch` is shown the hidden states behind the answers, to
        keep them or to compare them. An item that does not fit the context is `Unanswered`, never cut. Raises
        NonFinite with the item's id where logits are NaN or infinite, RunError where one item alone does not fit
        memory.
        """
        choices = [item for item in items if item.kind == "choice"]
        yield from ChoiceQuestions(self._desk).answer(choices, watch)
        texts = [item for item in items if item.kind == "generate"]
        yield from TextQuestions(self._desk, settings).answer(texts, drafts or {}, watch)

    def read_again(self, items: Sequence[Item], responses: Iterable[Response], watch: Watch) -> None:
        """Read items together with answers that were given before, and show `watch` the hidden states behind these.

        The passes are those in which `answer` shows them to a watch. Items without an answer are left out.
        """
        known = {one.item_id: one for one in responses if isinstance(one, Generation) and one.sample == 0}
        for _ in ChoiceQuestions(self._desk).answer([item for item in items if item.kind == "choice"], watch):
            pass
        TextQuestions(self._desk, Settings()).show([item for item in items if item.id in known], known, watch)

    @property
    def desk(self) -> Desk:
        """What questions are asked at, for those who ask in tokens and not in items."""
        return self._desk

    @property
    def head(self) -> Head:
        """The output head: what a divergence is measured with."""
        return self._desk.model.head

    def _peak_bytes(self) -> int:
        """Give the largest memory seen: the GPU allocator's high water, else the resident set."""
        if self._desk.model.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._desk.model.device))
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes if sys.platform == "darwin" else kilobytes * 1024
