"""Divergence between two models from their final hidden states: exact over the whole vocabulary, in bounded memory.

A baseline's trace is its final hidden state at every token of an answer: 2 bytes times the model's width per token. The
baseline writes its traces unit by unit next to its head, which is applied again when a candidate is compared.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.head import Head, tile_elements
from harness.errors import NonFinite, StoreError
from harness.records import Item, Response, Settings
from harness.stats.divergence import Divergence
from harness.store.divergence import trace_path

TILE_ELEMENTS = 1 << 23  # logits of each side in memory at once on a CPU: 32 MiB of float32
CPU_CHUNK = 1 << 18  # logits that a CPU looks at at once: they stay in its cache through all the steps of `_measured`
HEAD, AGAIN = "head.safetensors", "give the same command again, or set execution.divergence: false"
SERIES_BELOW = 0.25  # where the series of `_kl` is nearer to the truth than the difference that it replaces


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A baseline's side of one item."""

    item_id: str
    tokens: tuple[int, ...]  # that were predicted: an answer with its end token, or the choices one after the other
    hidden: Tensor  # [tokens, width] the final hidden states that predict them, on the CPU


@dataclass(slots=True)
class Recorder:
    """Keeps a baseline's hidden states at each token of its answers."""

    own_tokens: int = sys.maxsize  # how many of an answer's first are kept; 0: references are read, and kept whole
    excluded: frozenset[str] = frozenset()  # items that leave no trace
    traces: dict[str, Trace] = field(default_factory=dict)
    references: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # none: its own answers are

    def observe(self, item_id: str, tokens: Sequence[int], hidden: Tensor) -> None:
        """Keep the hidden states, on the CPU; an answer without tokens leaves no trace."""
        if tokens and item_id not in self.excluded:
            kept = tuple(tokens[: self.own_tokens or None])
            self.traces[item_id] = Trace(item_id, kept, hidden[: len(kept)].cpu().clone())


@dataclass(slots=True)
class Comparer:
    """Measures a candidate against a baseline's traces as its hidden states come by."""

    traces: Mapping[str, Trace]  # the baseline's, by item id
    baseline: Head  # the baseline's head: the candidate's if their digests are equal, as for most quantized models
    candidate: Head
    found: dict[str, Divergence] = field(default_factory=dict)
    references: Mapping[str, tuple[int, ...]] = field(init=False)
    own_tokens: int = 0

    def __post_init__(self) -> None:
        self.references = {name: trace.tokens for name, trace in self.traces.items()}
        if self.baseline is not self.candidate and self.baseline.digest() == self.candidate.digest():
            self.baseline = self.candidate

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
        theirs, mine = trace.hidden[rows].to(hidden.device), hidden[rows]
        if baseline is candidate and baseline.linear:
            a, difference = baseline.precise(theirs), baseline.change(theirs.float() - mine.float())
        else:
            a = baseline.exact(theirs)
            difference = a - candidate.exact(mine)
        # A few tokens at a time on a CPU, all at once elsewhere; each token's numbers are its own.
        few = max(1, CPU_CHUNK // a.shape[1]) if a.device.type == "cpu" else len(a)
        for at in range(0, len(a), few):
            part = slice(at, at + few)
            parts.append(_measured(a[part], difference[part], targets[rows, None][part]))
    kl, reverse_kl, top, before, after = torch.cat(parts, dim=1)
    if not bool(torch.isfinite(torch.stack([kl, reverse_kl, before, after])).all()):
        raise NonFinite(f"{trace.item_id}: a divergence is NaN or infinite", trace.item_id)
    return Divergence(trace.item_id, *(tuple(one.tolist()) for one in (kl, reverse_kl, top.bool(), before, after)))


def _measured(a: Tensor, difference: Tensor, target: Tensor) -> Tensor:
    """Return KL, reverse KL, agreement and both log-probabilities of the target, [5, n] in float64."""
    u = a - difference
    lse_a, lse_u = a.logsumexp(-1, keepdim=True), u.logsumexp(-1, keepdim=True)
    before, after = ((logits.gather(1, target) - lse)[:, 0] for logits, lse in ((a, lse_a), (u, lse_u)))
    same = a.argmax(-1) == u.argmax(-1)
    forward, reverse = _kl((a - lse_a).exp(), difference), _kl((u - lse_u).exp(), -difference)
    return torch.stack([forward, reverse, same.to(a.dtype), before, after]).double().cpu()


def _kl(p: Tensor, difference: Tensor) -> Tensor:
    """Return KL(p || q) per row, q's logits being p's minus `difference`: see `divergence`; f by its series near 0."""
    x = difference - (p * difference).sum(-1, keepdim=True)
    near = x.clamp(-SERIES_BELOW, SERIES_BELOW)
    series = near * near / 2 * (1 - near / 3 * (1 - near / 4 * (1 - near / 5 * (1 - near / 6))))
    above = torch.where(x.abs() < SERIES_BELOW, series, torch.expm1(-x) + x)
    return torch.log1p((p * above).sum(-1))


def save_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write traces to one safetensors file, whole or not at all, so that a killed process leaves no part of one."""
    tensors = {str(number): trace.hidden.contiguous() for number, trace in enumerate(traces)}
    names, part = [[trace.item_id, list(trace.tokens)] for trace in traces], path.with_suffix(".part")
    with _told(path, "the traces cannot be written", "free some space or set execution.divergence: false"):
        save_file(tensors, part, metadata={"traces": json.dumps(names)})
        part.replace(path)


def load_traces(path: Path) -> dict[str, Trace]:
    """Read traces back, by item id. Raises StoreError if the file is missing or not one of ours."""
    with _told(path, "no traces can be read from it", "run the baseline again"), safe_open(path, "pt") as file:
        names = json.loads((file.metadata() or {})["traces"])
        # Copied to where torch puts tensors: some libraries sum in another order if memory is not aligned.
        hidden = [file.get_tensor(str(number)).clone() for number in range(len(names))]
    return {name: Trace(name, tuple(tokens), states) for (name, tokens), states in zip(names, hidden, strict=True)}


@contextlib.contextmanager
def _told(path: Path, problem: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise StoreError(f"{path}: {problem}: {error}; {remedy}") from error


class TraceWriter:
    """Answers as the baseline and leaves its traces in a folder: the first `tokens` tokens of every answer."""

    def __init__(self, engine: HFEngine, folder: Path, tokens: int, excluded: frozenset[str]) -> None:
        self._engine, self._folder, self._tokens, self._excluded = engine, folder, tokens, excluded
        with _told(folder, "cannot be written", AGAIN):
            folder.mkdir(parents=True, exist_ok=True)
            head, part = engine.head, (folder / HEAD).with_suffix(".part")
            weights = head.weights()
            digest = head.digest() if weights else ""  # without: the head cannot be read
            described = {"digest": digest, "softcap": repr(head.softcap), "vocabulary": str(head.vocabulary)}
            save_file(weights or {"none": torch.zeros(1)}, part, metadata=described)
            part.replace(folder / HEAD)

    def answer(self, unit: int, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to a unit; its traces are on the disk after the last one."""
        recorder = Recorder(self._tokens, self._excluded)
        yield from self._engine.answer(items, settings, observer=recorder)
        save_traces(trace_path(self._folder, unit), list(recorder.traces.values()))

    def measured(self) -> None:
        """Return None: a baseline is not compared with anything."""


class TraceComparer:
    """Answers as a candidate, with the baseline's answers as drafts, and measures how far it is from its traces."""

    def __init__(self, engine: HFEngine, folder: Path) -> None:
        self._engine, self._folder = engine, folder
        self._baseline, self._why = _load_head(folder / HEAD, engine)
        self._comparer: Comparer | None = None

    def answer(self, unit: int, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses to a unit."""
        self._comparer = None
        if self._baseline is not None:
            self._comparer = Comparer(load_traces(trace_path(self._folder, unit)), self._baseline, self._engine.head)
        yield from self._engine.answer(items, settings, observer=self._comparer)

    def measured(self) -> tuple[tuple[Divergence, ...], str]:
        """Return what was measured in the last unit, by item id, and why nothing was."""
        found = self._comparer.found if self._comparer is not None else {}
        return tuple(found[name] for name in sorted(found)), self._why


DivergenceMeter = TraceWriter | TraceComparer  # answers work units with an engine, and takes part in measuring


def _load_head(path: Path, engine: HFEngine) -> tuple[Head | None, str]:
    """Return the baseline's head: the engine's own if they are the same; or why there is none."""
    own = engine.head
    with _told(path, "cannot be used", AGAIN), safe_open(path, framework="pt") as file:
        described = file.metadata() or {}
        known = int(described["vocabulary"])
        if not described["digest"]:
            return None, "the baseline's head cannot be applied apart from its model"
        if known != own.vocabulary:
            return None, f"the baseline knows {known} tokens, this variant {own.vocabulary}"
        if described["digest"] == own.digest():
            return own, ""
        device = engine.context.model.device
        weights = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118  # no mapping
    return Head.of(weights, None if described["softcap"] == "None" else float(described["softcap"])), ""
