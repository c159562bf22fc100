"""Log-probabilities of choices: from the hidden states at the positions that predict them, and nothing else.

Knows token sequences and the model's forward pass. Does not know texts or how rows are planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.packing import Packed
from harness.engines.transformers.read import read
from harness.errors import NonFinite

__all__ = ["Continuation", "Weighed", "weigh_rows"]


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
    def sequence(self) -> tuple[int, ...]:
        """What the model has to read: all but the last token, which is only predicted."""
        return (self.context + self.tokens)[:-1]


@dataclass(frozen=True, slots=True, eq=False)
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
    hidden: Tensor | None
    """[tokens, width] The final hidden states that predict the choice's tokens, where they were asked for."""


def weigh_rows(
    model: LanguageModel, rows: Sequence[tuple[Sequence[Continuation], Packed]], pad: int, *, keep: bool
) -> list[Weighed]:
    """Weigh choices, those of one row being read as the packed sequence beside them; keep says whether with states.

    Raises NonFinite, naming the item, where a logit is NaN or infinite.
    """
    reading = read(model, [packed for _, packed in rows], pad=pad, keep=False)
    hidden = []
    for line, (choices, packed) in enumerate(rows):
        for choice, path in zip(choices, packed.paths, strict=True):
            hidden.append(reading.hidden[line, model.tensor(path[-len(choice.tokens) :])])
    return _weigh(model, torch.cat(hidden), [choice for choices, _ in rows for choice in choices], keep=keep)


def _weigh(model: LanguageModel, hidden: Tensor, choices: Sequence[Continuation], *, keep: bool) -> list[Weighed]:
    """Weigh choices by the hidden states that predict their tokens, [all tokens of all choices, width]."""
    target = model.tensor([token for one in choices for token in one.tokens])
    logprobs = torch.empty(len(target), dtype=torch.float64)
    greedy = torch.empty(len(target), dtype=torch.bool)
    for part, logits in model.head.tiles(hidden, precise=True):
        picked = logits.gather(1, target[part, None])[:, 0]
        logprobs[part] = (picked - logits.logsumexp(dim=-1)).double().cpu()
        greedy[part] = (logits.argmax(dim=-1) == target[part]).cpu()
    answers, start = [], 0
    for one in choices:
        part = slice(start, start + len(one.tokens))
        start += len(one.tokens)
        if not bool(torch.isfinite(logprobs[part]).all()):
            raise NonFinite(f"{one.item_id}: the model's logits are NaN or infinite", one.item_id)
        total, best = float(logprobs[part].sum()), bool(greedy[part].all())
        answers.append(Weighed(one.item_id, one.choice, total, best, hidden[part] if keep else None))
    return answers
