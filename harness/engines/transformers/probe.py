"""Finds out once, by the code that later runs, the fastest way to ask a model that gives what reading alone gives."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.engines.transformers.cache import SlotCache
from harness.engines.transformers.decode import Batch
from harness.engines.transformers.model import LanguageModel, Path, prefill
from harness.engines.transformers.packing import device_failed, out_of_memory, pack
from harness.errors import ModelError, one_line

STEPS = 2  # tokens that each way adds one by one
SHARED = 4  # tokens that the two sequences begin with alike
LONGEST = 160  # tokens: a window, chunk or block of the config that is shorter than this is crossed while probing
ROUNDINGS = 32  # two sound ways may differ by as much as so many roundings of the input do: each layer adds some
KERNELS = 8  # or by so many times what a token's numbers differ by when it is read alone, by kernels for single tokens
COARSEST = 0.06  # and by no more than this share of the largest number: a wrong way is off by far more
COARSEST_BY_PASS = 0.25  # the same for methods whose numbers depend on what else is in the pass (LLM.int8: 0.14)
PATHS = (
    Path(trees=True, padded=True, batched=True, state="keys"),
    Path(trees=False, padded=True, batched=True, state="keys"),
    Path(trees=False, padded=False, batched=True, state="own"),
    Path(trees=False, padded=False, batched=False, state="own"),
    Path(trees=False, padded=False, batched=True, state="none"),
    Path(trees=False, padded=False, batched=False, state="none"),
)  # the ways of asking a model, the fastest first
SLOWER = {"keys": "", "own": "; answers grow on the model's own state", "none": "; every step reads everything again"}
FOREIGN = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, StopIteration, ArithmeticError)
"""What models raise for arguments that are not theirs."""


def probed(plain: Any, device: str, *, by_pass: bool = False, slots: bool = True) -> LanguageModel:
    """Return a model with `path` set to the fastest sound way. Raises ModelError if there is none.

    by_pass: whether its numbers depend on what else is in a pass; slots: whether answers may grow in slots.
    """
    try:
        model = LanguageModel(plain, device)
        trial = _Trial(model, COARSEST_BY_PASS if by_pass else 0.0)
    except FOREIGN as error:
        raise ModelError(f"the model cannot read a few tokens: {str(error) or type(error).__name__}") from error
    why = model.no_trees
    for path in PATHS[1 if why else 0 :]:
        model.path = path
        if trial.agrees(slots=slots):
            break
        why = why or "the model failed the trial of a row with branches"
    else:
        trial.check_repeats()
    if not model.path.trees:
        alone = "" if model.path.batched else "; every item is answered alone"
        model.path = replace(model.path, note=why + SLOWER[model.path.state] + alone)
    return model


class _Trial:
    """Two sequences that begin alike, and what the model makes of each when it reads it alone, whole."""

    def __init__(self, model: LanguageModel, known: float) -> None:
        self.model = model
        # The longest window, chunk or block of the config that is short enough to be crossed.
        config = model.model.config.get_text_config().to_dict()
        named = (config[name] for name in config if any(word in name for word in ("window", "chunk", "block_size")))
        crossed = max((one for one in named if type(one) is int and one < LONGEST), default=0)
        self.size = min(max(8, crossed + SHARED), model.longest_together - STEPS)
        count, whole = model.head.vocabulary, self.size + STEPS
        one = [(7919 * at + count // 2) % count for at in range(whole)]
        self.tokens = [one, [*one[:SHARED], *((104729 * at + count // 3) % count for at in range(SHARED, whole))]]
        self.wanted = [self._alone(row) for row in self.tokens]
        # The first token's numbers, which depend on no other token, as other kernels give them.
        kernels = _apart(self._alone(one[:1]), self.wanted[0][:1])
        self.tolerance = max(known, min(COARSEST, max(ROUNDINGS * self._moved(), KERNELS * kernels)))

    def _alone(self, row: list[int]) -> Tensor:
        return self.model.forward(self.model.tensor([row]))[0].float()

    def _moved(self) -> float:
        """How far the output moves if every number of the input is rounded once more."""
        model = self.model.model
        codes = any(not one.is_floating_point() for one in model.parameters())  # their kernels round to 16 bits inside
        eps = float(torch.finfo(torch.bfloat16 if codes else model.dtype).eps)

        def rounded(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            signs = torch.arange(out.numel(), device=out.device).reshape(out.shape) % 2 * 2 - 1
            return out + out * signs * eps

        hook = model.get_input_embeddings().register_forward_hook(rounded)
        try:
            return max(eps, _apart(self._alone(self.tokens[0]), self.wanted[0]))
        finally:
            hook.remove()

    def check_repeats(self) -> None:
        """Raise `ModelError` unless the same tokens give the same numbers again."""
        if _apart(self._alone(self.tokens[0]), self.wanted[0]) > self.tolerance:
            said = "the model gives other numbers when it reads the same tokens again, so none of its answers can be"
            raise ModelError(f"{said} compared; is there noise or dropout in it?")

    def agrees(self, *, slots: bool) -> bool:
        """Whether the path gives what reading alone gives, at every step. Raises ModelError if the device fails."""
        try:
            return all(_apart(got, wanted) <= self.tolerance for got, wanted in self._compared(slots=slots))
        except FOREIGN as error:  # what models raise that cannot take such a mask or cache differs
            if out_of_memory(error):
                said = "out of memory with a few tokens: the model fills its device; free some memory, or use a device"
                raise ModelError(f"{said} with more") from error
            if device_failed(error):
                said = f"the device failed with a few tokens: {one_line(error)}"
                raise ModelError(f"{said}; `quantcliff doctor --prove` tries it") from error
            return False

    def _compared(self, *, slots: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair the states of each way of reading and growing with what they should be."""
        path = self.model.path
        lengths = [self.size, self.size - 2 if path.padded else self.size][: 2 if path.batched else 1]
        prompts = [row[:length] for row, length in zip(self.tokens, lengths, strict=False)]
        hidden, _ = prefill(self.model, [pack([prompt]) for prompt in prompts], pad=0, keep=False)
        for got, wanted, length in zip(hidden.float(), self.wanted, lengths, strict=False):
            yield got[:length], wanted[:length]
        if path.trees:  # as one row with branches, growing in slots
            packed = pack(prompts)
            hidden, read = prefill(self.model, [packed], pad=0, keep=True)
            cache = SlotCache(self.model, 2, self.size + STEPS)
            for row, wanted in zip(packed.paths, self.wanted, strict=True):
                yield hidden[0, self.model.tensor(row)].float(), wanted[: len(row)]
                cache.copy_prompt(read, 0, row)
            for filled, tokens in self._growing(lengths):
                yield from self._grown(cache.step(tokens, filled), filled)
        if not path.trees or not slots:
            batch = Batch(self.model, prompts, pad=0, length=self.size + STEPS)
            yield from self._grown(batch.read(), [length - 1 for length in lengths])
            for filled, tokens in self._growing(lengths):
                yield from self._grown(batch.step(self.model.tensor(tokens)), filled)

    def _growing(self, lengths: list[int]) -> Iterator[tuple[list[int], list[int]]]:
        """Yield for each step how many tokens each row holds, and the next token of each."""
        for step in range(STEPS):
            filled = [length + step for length in lengths]
            yield filled, [row[at] for row, at in zip(self.tokens, filled, strict=False)]

    def _grown(self, hidden: Tensor, places: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pair the last states [rows, width], of the tokens at these places, with what they should be."""
        for got, wanted, place in zip(hidden.float(), self.wanted, places, strict=False):
            yield got, wanted[place]


def _apart(one: Tensor, other: Tensor) -> float:
    """How far two ways are apart, as a share of the largest number; 0 for NaN, which is reported with its item."""
    if not bool(torch.isfinite(other).all()):
        return 0.0
    return float((one - other).abs().max()) / max(float(other.abs().max()), 1e-30)
