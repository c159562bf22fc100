"""Finds out once, on the model itself, in which ways it may be asked.

Every way from the fastest to the slowest is tried on a few made-up tokens, by the code that later runs, and the first
one that gives the hidden states of reading everything again at every step is taken. Knows no model by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.engines.transformers.batches import device_failed, out_of_memory
from harness.engines.transformers.cache import SlotCache
from harness.engines.transformers.decode import Batch
from harness.engines.transformers.model import LanguageModel, Path
from harness.engines.transformers.packing import pack
from harness.engines.transformers.prefill import prefill
from harness.errors import ModelError, one_line

__all__ = ["FOREIGN", "probed"]

STEPS = 2
"""Tokens that each way adds one by one."""
SHARED = 4
"""Tokens that the two sequences begin with alike."""
LONGEST = 160
"""Tokens: a window, chunk or block of the config that is shorter than this is crossed while probing."""

ROUNDINGS = 32
"""Two sound ways may differ by as much as so many roundings of the input do: each layer adds some."""
KERNELS = 8
"""Or by so many times what a token's numbers differ by when it is read alone, by kernels for single tokens."""
COARSEST = 0.06
"""And by no more than this share of the largest number: about 8 roundings of bf16. A wrong way (a forgotten state, a
mask that is not heeded) is off by far more."""
COARSEST_BY_PASS = 0.25
"""The same for methods whose numbers depend on what else is in the pass (LLM.int8, by 0.14 for SmolLM2)."""

SAID = {
    "own": "answers grow on the model's own state",
    "none": "every step reads everything again, which is slow",
}

FOREIGN = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, StopIteration)
"""What models raise for arguments that are not theirs."""


def probed(plain: Any, device: str, *, by_pass: bool = False, slots: bool = True) -> LanguageModel:
    """Return a transformers model with `path` set to the fastest sound way.

    by_pass: whether its numbers depend on what else is in a pass; slots: whether answers may grow in slots.
    Raises `ModelError` if the model cannot read a few tokens, or gives other numbers when it reads the same again.
    """
    try:
        model = LanguageModel(plain, device)
        trial = _Trial(model, COARSEST_BY_PASS if by_pass else 0.0)
    except FOREIGN as error:
        raise ModelError(f"the model cannot read a few tokens: {str(error) or type(error).__name__}") from error
    why = model.no_trees
    for path in _paths():
        if path.trees and why:
            continue
        model.path = path
        if trial.agrees(slots=slots):
            break
        why = why or "the model failed the trial of a row with branches"
    else:
        trial.check_repeats()
    path = model.path
    if not path.trees:
        rows = "" if path.batched else "; every item is answered alone"
        model.path = replace(path, note=why if path.state == "keys" else f"{why}; {SAID[path.state]}{rows}")
    return model


def _paths() -> Iterator[Path]:
    yield Path(trees=True, padded=True, batched=True, state="keys")
    yield Path(trees=False, padded=True, batched=True, state="keys")
    yield Path(trees=False, padded=False, batched=True, state="own")
    yield Path(trees=False, padded=False, batched=False, state="own")
    yield Path(trees=False, padded=False, batched=True, state="none")
    yield Path(trees=False, padded=False, batched=False, state="none")


class _Trial:
    """Two sequences that begin alike, and what the model makes of each when it reads it alone, whole."""

    def __init__(self, model: LanguageModel, known: float) -> None:
        self.model = model
        self.size = min(max(8, _threshold(model) + SHARED), model.longest_together - STEPS)
        count = model.head.vocabulary
        whole = self.size + STEPS
        one = [(7919 * at + count // 2) % count for at in range(whole)]
        self.tokens = [one, [*one[:SHARED], *((104729 * at + count // 3) % count for at in range(SHARED, whole))]]
        self.wanted = [self._alone(row) for row in self.tokens]
        roundings, kernels = ROUNDINGS * self._moved(), KERNELS * self._by_other_kernels()
        self.tolerance = max(known, min(COARSEST, max(roundings, kernels)))

    def _alone(self, row: list[int]) -> Tensor:
        return self.model.forward(self.model.tensor([row]))[0].float()

    def _moved(self) -> float:
        """How far the output moves if every number of the input is rounded once more."""
        model = self.model.model
        codes = any(not one.is_floating_point() for one in model.parameters())  # their kernels round to 16 bits inside
        eps = float(torch.finfo(torch.bfloat16 if codes else model.dtype).eps)
        embedding = model.get_input_embeddings()

        def rounded(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            signs = torch.arange(out.numel(), device=out.device).reshape(out.shape) % 2 * 2 - 1
            return out + out * signs * eps

        hook = embedding.register_forward_hook(rounded)
        try:
            return max(eps, _apart(self._alone(self.tokens[0]), self.wanted[0]))
        finally:
            hook.remove()

    def _by_other_kernels(self) -> float:
        """How far the first token's numbers, which depend on no other token, differ when it is read alone."""
        return _apart(self._alone(self.tokens[0][:1]), self.wanted[0][:1])

    def check_repeats(self) -> None:
        """Raise `ModelError` unless the same tokens give the same numbers again."""
        if _apart(self._alone(self.tokens[0]), self.wanted[0]) > self.tolerance:
            raise ModelError(
                "the model gives other numbers when it reads the same tokens again, so none of its answers can be"
                " compared; is there noise or dropout in it?"
            )

    def agrees(self, *, slots: bool) -> bool:
        """Whether the path gives what reading alone gives, at every step. Raises ModelError if the device fails."""
        try:
            return all(_apart(got, wanted) <= self.tolerance for got, wanted in self._compared(slots=slots))
        except FOREIGN as error:  # what models raise that cannot take such a mask or cache differs
            if out_of_memory(error):
                raise ModelError(
                    "out of memory with a few tokens: the model fills its device; free some memory, or use a device "
                    "with more"
                ) from error
            if device_failed(error):
                said = f"the device failed with a few tokens: {one_line(error)}"
                raise ModelError(f"{said}; `quantcliff doctor --prove` tries it") from error
            return False

    def _compared(self, *, slots: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        path = self.model.path
        lengths = [self.size, self.size - 2 if path.padded else self.size][: 2 if path.batched else 1]
        prompts = [row[:length] for row, length in zip(self.tokens, lengths, strict=False)]
        hidden = prefill(self.model, [pack([prompt]) for prompt in prompts], pad=0, keep=False).hidden.float()
        for got, wanted, length in zip(hidden, self.wanted, lengths, strict=False):
            yield got[:length], wanted[:length]
        if path.trees:
            yield from self._tree(prompts)
        if not path.trees or not slots:
            yield from self._batch(prompts)

    def _batch(self, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        batch = Batch(self.model, prompts, pad=0, length=self.size + STEPS)
        lengths = [len(prompt) for prompt in prompts]
        yield from self._grown(batch.read(), lengths, 0)
        for step in range(STEPS):
            following = [row[length + step] for row, length in zip(self.tokens, lengths, strict=False)]
            yield from self._grown(batch.step(self.model.tensor(following)), lengths, step + 1)

    def _tree(self, prompts: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Read both as one row with branches, and let them grow in slots."""
        packed, lengths = pack(prompts), [len(prompt) for prompt in prompts]
        reading = prefill(self.model, [packed], pad=0, keep=True)
        slots = SlotCache(self.model, 2, self.size + STEPS)
        for path, wanted in zip(packed.paths, self.wanted, strict=True):
            yield reading.hidden[0, self.model.tensor(path)].float(), wanted[: len(path)]
            slots.insert(reading.cache, 0, path)
        for step in range(STEPS):
            filled = [length + step for length in lengths]
            following = [row[at] for row, at in zip(self.tokens, filled, strict=True)]
            yield from self._grown(slots.step(following, filled), lengths, step + 1)

    def _grown(self, hidden: Tensor, lengths: list[int], step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair the last states [rows, width] after so many steps with what they should be."""
        for got, wanted, length in zip(hidden.float(), self.wanted, lengths, strict=False):
            yield got, wanted[length - 1 + step]


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two ways are apart, as a share of the largest number; 0 for NaN, which is reported with its item."""
    if not bool(torch.isfinite(other).all()):
        return 0.0
    return float((one - other).abs().max()) / max(float(other.abs().max()), 1e-30)


def _threshold(model: LanguageModel) -> int:
    """The longest window, chunk or block of the config that is short enough to be crossed while probing."""
    config = model.model.config.get_text_config().to_dict()
    named = (value for name, value in config.items() if any(word in name for word in ("window", "chunk", "block_size")))
    return max((one for one in named if type(one) is int and one < LONGEST), default=0)
