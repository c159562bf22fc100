"""How far a candidate's next-token distributions are from the baseline's: by token, and the mean by clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import StatisticsError
from harness.stats.ratio import ratio_error


@dataclass(frozen=True, slots=True)
class Divergence:
    """One item's answer by the baseline, as both variants predict it; one number per token of that answer."""

    item_id: str
    kl: tuple[float, ...]
    """KL(baseline || candidate) in nats."""
    reverse_kl: tuple[float, ...]
    """KL(candidate || baseline) in nats."""
    same_top: tuple[bool, ...]
    """Whether both find the same token most likely."""
    baseline_logprob: tuple[float, ...]
    """Natural-log probability of the answer's token by the baseline."""
    candidate_logprob: tuple[float, ...]
    """The same by the candidate."""

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in ("kl", "reverse_kl", "same_top", "baseline_logprob")}
        if lengths != {len(self.candidate_logprob)} or not self.kl:
            text = "a divergence needs the same number of tokens, at least one, in each"
            raise StatisticsError(f"{self.item_id}: {text}")


@dataclass(frozen=True, slots=True)
class Summary:
    """Divergence over some items: means per token, their standard errors by whole sequences."""

    sequences: int
    """Items."""
    tokens: int
    """Tokens of all items."""
    kl: float
    """Mean KL(baseline || candidate) in nats per token."""
    kl_error: float
    """Its standard error; infinite for fewer than two clusters."""
    reverse_kl: float
    """Mean KL(candidate || baseline) in nats per token."""
    same_top: float
    """Share of tokens whose most likely token is the same."""
    same_top_error: float
    """Its standard error; infinite for fewer than two clusters."""
    probability_change: float
    """Mean change of the probability of the baseline's token, candidate minus baseline, in [-1, 1]."""
    worst: str
    """The item with the largest mean KL."""


def summarise(divergences: Sequence[Divergence], clusters: Mapping[str, str] | None = None) -> Summary:
    """Average over tokens, with errors by clusters of sequences.

    clusters: the cluster of each item (a shared haystack, parallel translations); without it each sequence is its own.
    The mean is a ratio of sums over clusters, total over tokens. Raises StatisticsError for no items or a number that
    is not finite.
    """
    if not divergences:
        raise StatisticsError("divergence: no items to average over")
    lengths = np.array([len(one.kl) for one in divergences], dtype=float)
    totals = {
        "kl": np.array([sum(one.kl) for one in divergences]),
        "reverse": np.array([sum(one.reverse_kl) for one in divergences]),
        "same": np.array([sum(one.same_top) for one in divergences], dtype=float),
        "change": np.array(
            [np.sum(np.exp(one.candidate_logprob) - np.exp(one.baseline_logprob)) for one in divergences]
        ),
    }
    for name, values in totals.items():
        if not np.isfinite(values).all():
            bad = divergences[int(np.flatnonzero(~np.isfinite(values))[0])].item_id
            raise StatisticsError(f"{bad}: its divergence ({name}) is not finite")
    _, codes = np.unique(
        [str((clusters or {}).get(one.item_id, one.item_id)) for one in divergences], return_inverse=True
    )
    tokens = np.bincount(codes, lengths)
    sums = {name: np.bincount(codes, values) for name, values in totals.items()}
    mean = {name: float(one.sum() / tokens.sum()) for name, one in sums.items()}
    alone = tokens.size < 2  # noqa: PLR2004 - one cluster says nothing of how clusters differ
    error = {name: float("inf") if alone else ratio_error(one, tokens, mean[name]) for name, one in sums.items()}
    worst = divergences[int(np.argmax(totals["kl"] / lengths))].item_id
    return Summary(
        sequences=len(divergences),
        tokens=int(tokens.sum()),
        kl=mean["kl"],
        kl_error=error["kl"],
        reverse_kl=mean["reverse"],
        same_top=mean["same"],
        same_top_error=error["same"],
        probability_change=mean["change"],
        worst=worst,
    )
