"""Divergence between two models from their final hidden states: exact over the whole vocabulary, in bounded memory.

A baseline's trace is its final hidden state at every token of an answer: 2 bytes times the model's width per token,
where logits would take 4 bytes times the vocabulary. The head is applied again when a candidate is compared. Knows
hidden states and heads. Does not know prompts, items or how rows were planned.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.engines.transformers.head import Head, tile_elements
from harness.errors import NonFinite, StoreError
from harness.stats.divergence import Divergence

__all__ = ["Comparer", "HiddenStateObserver", "Recorder", "Trace", "divergence", "load_traces", "save_traces"]

TILE_ELEMENTS = 1 << 23
"""Logits of each side in memory at once on a CPU: 32 MiB of float32."""

CPU_CHUNK = 1 << 18
"""Logits that a CPU looks at at once: they stay in its cache through all the steps of `_measured`."""

EVERY = sys.maxsize
"""All tokens of an answer."""

SERIES_BELOW = 0.25
"""Where the series below is nearer to the truth than the difference that it replaces."""


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A baseline's side of one item."""

    item_id: str
    """Which item."""
    tokens: tuple[int, ...]
    """The tokens that were predicted: an answer with its end token, or the choices one after the other."""
    hidden: Tensor
    """[tokens, width] The final hidden states that predict them, on the CPU."""


class HiddenStateObserver(Protocol):
    """What is shown the hidden states behind each answer."""

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """By item id, the answers whose tokens are to be predicted."""
        ...

    @property
    def uses_own_answers(self) -> bool:
        """Whether an answer without a reference is its own; if not, it is not observed."""
        ...

    @property
    def max_tokens(self) -> int:
        """How many of an answer's first tokens are observed."""
        ...

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Take the hidden states [tokens or more, width] that predict an item's tokens."""
        ...


@dataclass(slots=True)
class Recorder:
    """Keeps a baseline's hidden states at each token of its answers."""

    max_tokens: int = EVERY
    """How many of an answer's first tokens are kept."""
    excluded: frozenset[str] = frozenset()
    """Items that leave no trace."""
    traces: dict[str, Trace] = field(default_factory=dict)
    """By item id."""
    references: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Empty: a baseline's reference is its own answer."""
    uses_own_answers: bool = True

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Keep the hidden states, on the CPU; an answer without tokens leaves no trace."""
        if tokens and item_id not in self.excluded:
            kept = tuple(tokens[: self.max_tokens])
            self.traces[item_id] = Trace(item_id, kept, hidden[: len(kept)].cpu().clone())


@dataclass(slots=True)
class Comparer:
    """Measures a candidate against a baseline's traces as its hidden states come by."""

    traces: Mapping[str, Trace]
    """The baseline's, by item id."""
    baseline: Head
    """The baseline's head: the candidate's if their digests are equal, as for most quantized models."""
    candidate: Head
    """The candidate's head."""
    max_tokens: int = EVERY
    """How many of an answer's first tokens are compared: as many as were traced."""
    found: dict[str, Divergence] = field(default_factory=dict)
    """By item id."""
    uses_own_answers: bool = False

    def __post_init__(self) -> None:
        if self.baseline is not self.candidate and self.baseline.digest() == self.candidate.digest():
            self.baseline = self.candidate

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """The baseline's answers."""
        return {name: trace.tokens for name, trace in self.traces.items()}

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Compare with the trace if there is one for the same tokens or the first of them."""
        trace = self.traces.get(item_id)
        if trace is None or trace.tokens != tuple(tokens[: len(trace.tokens)]):
            return
        mine = hidden[: len(trace.tokens)]
        self.found[item_id] = divergence(trace, mine, baseline=self.baseline, candidate=self.candidate)


def divergence(trace: Trace, hidden: Tensor, *, baseline: Head, candidate: Head) -> Divergence:
    """Compare two models' predictions of the same tokens.

    hidden [tokens, width] is the candidate's. With logits a of one model and u of the other, p = softmax(a),
    d = a - u and c = sum(p d), ``KL = sum(p d) - LSE(a) + LSE(u) = log(1 + sum(p f(d - c)))`` with
    ``f(x) = exp(-x) - 1 + x >= 0``: the second form subtracts nothing large from anything large, so that the KL of
    two models that hardly differ keeps its digits, and is exactly 0 for equal logits. For the same reason d comes
    from the difference of the hidden states if both share a linear head, and from float64 logits if not.
    Raises NonFinite with the item's id.
    """
    targets = torch.tensor(trace.tokens, dtype=torch.long, device=hidden.device)
    parts: list[Tensor] = []
    step = max(1, tile_elements(hidden.device, TILE_ELEMENTS) // baseline.vocabulary)
    for start in range(0, len(trace.tokens), step):
        rows = slice(start, start + step)
        a, difference = _logits(trace.hidden[rows].to(hidden.device), hidden[rows], baseline, candidate)
        parts += _in_chunks(a, difference, targets[rows, None])
    kl, reverse_kl, top, before, after = torch.cat(parts, dim=1)
    if not bool(torch.isfinite(torch.stack([kl, reverse_kl, before, after])).all()):
        raise NonFinite(f"{trace.item_id}: a divergence is NaN or infinite", trace.item_id)
    return Divergence(
        item_id=trace.item_id,
        kl=tuple(kl.tolist()),
        reverse_kl=tuple(reverse_kl.tolist()),
        same_top=tuple(bool(one) for one in top.tolist()),
        baseline_logprob=tuple(before.tolist()),
        candidate_logprob=tuple(after.tolist()),
    )


def _logits(one: Tensor, other: Tensor, baseline: Head, candidate: Head) -> tuple[Tensor, Tensor]:
    """Return the baseline's logits and how far they are above the candidate's, both [n, vocabulary]."""
    if baseline is candidate and baseline.linear:
        return baseline.precise(one), baseline.change(one.float() - other.float())
    a, u = baseline.exact(one), candidate.exact(other)
    return a, a - u


def _in_chunks(a: Tensor, difference: Tensor, target: Tensor) -> Iterator[Tensor]:
    """Measure tokens a few at a time on a CPU, all at once elsewhere; each token's numbers are its own."""
    few = max(1, CPU_CHUNK // a.shape[1]) if a.device.type == "cpu" else len(a)
    for start in range(0, len(a), few):
        rows = slice(start, start + few)
        yield _measured(a[rows], difference[rows], target[rows])


def _measured(a: Tensor, difference: Tensor, target: Tensor) -> Tensor:
    """Return KL, reverse KL, agreement and both log-probabilities of the target, [5, n] in float64."""
    u = a - difference
    lse_a, lse_u = a.logsumexp(-1, keepdim=True), u.logsumexp(-1, keepdim=True)
    before, after = ((logits.gather(1, target) - lse)[:, 0] for logits, lse in ((a, lse_a), (u, lse_u)))
    same = a.argmax(-1) == u.argmax(-1)
    forward, reverse = _kl((a - lse_a).exp(), difference), _kl((u - lse_u).exp(), -difference)
    return torch.stack([forward, reverse, same.to(a.dtype), before, after]).double().cpu()


def _kl(p: Tensor, difference: Tensor) -> Tensor:
    """Return KL(p || q) per row, q's logits being p's minus `difference`: see `divergence`."""
    x = difference - (p * difference).sum(-1, keepdim=True)
    return torch.log1p((p * _above_line(x)).sum(-1))


def _above_line(x: Tensor) -> Tensor:
    """Return ``exp(-x) - 1 + x``, by its Taylor series near 0."""
    near = x.clamp(-SERIES_BELOW, SERIES_BELOW)
    series = near * near / 2 * (1 - near / 3 * (1 - near / 4 * (1 - near / 5 * (1 - near / 6))))
    return torch.where(x.abs() < SERIES_BELOW, series, torch.expm1(-x) + x)


def save_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write traces to one safetensors file."""
    tensors = {str(number): trace.hidden.contiguous() for number, trace in enumerate(traces)}
    names = [[trace.item_id, list(trace.tokens)] for trace in traces]
    try:
        save_file(tensors, path, metadata={"traces": json.dumps(names)})
    except OSError as error:
        raise StoreError(
            f"{path}: the traces cannot be written: {error}; free some space or switch them off"
        ) from error


def load_traces(path: Path) -> dict[str, Trace]:
    """Read traces back, by item id. Raises StoreError if the file is missing or not one of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            names = json.loads((file.metadata() or {})["traces"])
            # Copied to where torch puts tensors: some libraries sum in another order if memory is not aligned.
            hidden = [file.get_tensor(str(number)).clone() for number in range(len(names))]
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise StoreError(f"{path}: no traces can be read from it: {error}; run the baseline again") from error
    return {name: Trace(name, tuple(tokens), states) for (name, tokens), states in zip(names, hidden, strict=True)}
