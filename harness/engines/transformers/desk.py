"""What the two kinds of questions have in common: a model, its tokenizer, budgets, and the account of what was spent.

Does not know how questions are asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.engines.transformers.batches import Budget
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import BRANCHES_AT_MOST, group_by_prefix
from harness.engines.transformers.text import Texts

__all__ = ["Account", "Desk"]

CPU_READING = 4096
"""Tokens read at once on a CPU: more do not make it faster, and take memory."""


@dataclass(slots=True)
class Account:
    """What has been spent."""

    prompt_tokens: int = 0
    """Tokens read, what is shared counted once."""
    output_tokens: int = 0
    """Tokens written."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the log."""

    def read(self, tokens: int) -> None:
        """Count tokens that were read."""
        self.prompt_tokens += tokens


@dataclass(frozen=True, slots=True)
class Desk:
    """What is needed to ask anything."""

    model: LanguageModel
    """The model."""
    texts: Texts
    """Its tokenizer."""
    limit: int
    """Longest prompt plus answer, in tokens."""
    budget: Budget
    """How large a batch may be."""
    share_prefixes: bool
    """Whether what sequences begin with alike is read once: the context of choices, a haystack, worked examples."""
    continuous: bool
    """Whether the place of a finished answer goes to the next one at once, and drafts are checked in one pass."""
    account: Account
    """What has been spent."""

    def groups(self, sequences: Sequence[Sequence[int]]) -> list[list[int]]:
        """Say which sequences are worth a common row, as indices into `sequences`."""
        most = BRANCHES_AT_MOST if self.share_prefixes else 0
        return group_by_prefix(sequences, most=most, longest=self.model.longest_together)

    def reading(self, budget: Budget | None = None) -> Budget:
        """Give how much may be read in one pass."""
        budget = budget or self.budget
        tokens = min(budget.tokens, CPU_READING) if self.model.device.type == "cpu" else budget.tokens
        return replace(budget, tokens=tokens)
