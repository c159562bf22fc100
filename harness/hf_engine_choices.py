"""Log-probabilities of choices: from the hidden states at the positions that predict them, and nothing else.

Knows token sequences and the model's forward pass. Does not know texts or how batches are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import NonFinite
from harness.hf_engine_model import LanguageModel

__all__ = ["Continuation", "Weighed", "plain_pass", "weigh"]


@dataclass(frozen=True, slots=True)
class Continuation:
    """One choice of one item, in tokens."""

    item_id: str
    """Which item."""
    choice: int
    """Which of its choices."""
    context: tuple[int, ...]
    """Tokens before the choice, at least one."""
    tokens: tuple[int, ...]
    """Tokens of the choice, at least one."""

    @property
    def read(self) -> tuple[int, ...]:
        """What the model has to read: all but the last token, which is only predicted."""
        return (self.context + self.tokens)[:-1]


@dataclass(frozen=True, slots=True)
class Weighed:
    """How likely a choice is."""

    item_id: str
    """Which item."""
    choice: int
    """Which of its choices."""
    logprob: float
    """Natural logarithm, summed over the choice's tokens."""
    greedy: bool
    """Whether every token was the most likely one."""


def weigh(model: LanguageModel, hidden: Tensor, wanted: Sequence[Continuation]) -> list[Weighed]:
    """Weigh choices by the hidden states that predict their tokens, [all tokens of all choices, width].

    Raises NonFinite, naming the item, where a logit is NaN or infinite.
    """
    target = model.tensor([[token for one in wanted for token in one.tokens]])[0]
    logprobs = torch.empty(len(target), dtype=torch.float64)
    greedy = torch.empty(len(target), dtype=torch.bool)
    for rows, logits in model.tiles(hidden):
        picked = logits.gather(1, target[rows, None])[:, 0]
        logprobs[rows] = (picked - logits.logsumexp(dim=-1)).double().cpu()
        greedy[rows] = (logits.argmax(dim=-1) == target[rows]).cpu()
    answers, start = [], 0
    for one in wanted:
        rows = slice(start, start + len(one.tokens))
        start += len(one.tokens)
        if not bool(torch.isfinite(logprobs[rows]).all()):
            raise NonFinite(f"{one.item_id}: the model's logits are NaN or infinite", one.item_id)
        answers.append(
            Weighed(one.item_id, one.choice, float(logprobs[rows].sum()), bool(greedy[rows].all()))
        )
    return answers


def plain_pass(model: LanguageModel, batch: Sequence[Continuation], pad: int) -> list[Weighed]:
    """Weigh choices with one row for each, context included, rows filled up on the right.

    Nothing after a token changes what was read before it, so what fills a row needs no mask.
    """
    longest = max(len(one.read) for one in batch)
    rows = [[*one.read, *([pad] * (longest - len(one.read)))] for one in batch]
    hidden = model.forward(model.tensor(rows))
    picked = [hidden[row, len(one.read) - len(one.tokens) : len(one.read)] for row, one in enumerate(batch)]
    return weigh(model, torch.cat(picked), batch)
