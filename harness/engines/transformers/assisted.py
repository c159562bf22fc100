"""Assisted generation by transformers itself: a draft model or the prompt proposes tokens, and the model checks them.

The library's own code runs, because it is what is under test. One prompt at a time, greedy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria

from harness.engines.transformers.decode import Answer, Request
from harness.engines.transformers.model import LanguageModel

__all__ = ["Assisted"]


class _Stops(StoppingCriteria):  # type: ignore[misc]
    """Ends an answer at its stop texts."""

    def __init__(self, stopped: Callable[[list[int]], bool], start: int) -> None:
        self._stopped, self._start = stopped, start

    def __call__(self, input_ids: Any, scores: Any, **_more: Any) -> Any:  # noqa: ARG002 - its signature
        """Return for each row whether it has ended."""
        ended = [self._stopped(row[self._start :]) for row in input_ids.tolist()]
        return torch.tensor(ended, device=input_ids.device)


class Assisted:
    """Answers one request after another with proposals, and counts what they saved."""

    def __init__(self, draft: Any = None, prompt_lookup: int | None = None) -> None:
        self._options = {"assistant_model": draft} if draft is not None else {"prompt_lookup_num_tokens": prompt_lookup}
        self.tokens = 0
        self.passes = 0

    def answer(self, model: LanguageModel, request: Request, ends: frozenset[int], pad: int) -> Answer:
        """Return the answer to a request."""
        ids = model.tensor([request.prompt])
        model.model.generation_config = GenerationConfig(eos_token_id=sorted(ends) or None, pad_token_id=pad)
        counting = model.model.register_forward_pre_hook(self._count)
        try:
            made = model.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=request.max_tokens,
                stopping_criteria=[_Stops(request.stops.stopped, len(request.prompt))],
                **self._options,
            )
        finally:
            counting.remove()
        answer = Answer(request)
        for token in made[0, len(request.prompt) :].tolist():
            self.tokens += 1
            answer.append(token, ends)
            if answer.finish:
                break
        return answer

    def _count(self, *_arguments: Any) -> None:
        self.passes += 1

    def note(self) -> str:
        """Return how many passes of the model the tokens took; empty before any."""
        what = "a draft model" if "assistant_model" in self._options else "the prompt"
        return f"{what} proposed tokens: {self.tokens:,} tokens in {self.passes:,} passes" if self.tokens else ""
