"""How far a candidate's next-token distributions are from the baseline's: by token, and the mean by clusters.

Plain numbers; does not know models or how they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import StatisticsError

__all__ = ["Divergence", "Summary", "summarise"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One item's answer by the baseline, as both variants predict it; one number per token of that answer."""

    item_id: str
    """Which item."""
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
            raise StatisticsError(
                f"{self.item_id}: a divergence needs the same number of tokens, at least one, in each"
            )


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

    `clusters` names the cluster of each item (a shared haystack, parallel translations); without it each sequence
    is its own. The mean is a ratio of sums over clusters, total over tokens, and its variance
    ``g / (g - 1) * sum((t_i - mean * n_i)**2) / (sum n_i)**2`` over g clusters (W. G. Cochran, Sampling
    Techniques, 3rd ed. 1977, equation 2.39 without the finite population correction). Raises StatisticsError for no
    items or a number that is not finite.
    """
    if not divergences:
        raise StatisticsError("divergence: no items to average over")
    named = [(clusters or {}).get(one.item_id, one.item_id) for one in divergences]
    counts = np.array([len(one.kl) for one in divergences], dtype=float)
    sums = {
        "kl": np.array([sum(one.kl) for one in divergences]),
        "reverse": np.array([sum(one.reverse_kl) for one in divergences]),
        "same": np.array([sum(one.same_top) for one in divergences], dtype=float),
        "change": np.array([float(np.sum(_change(one))) for one in divergences]),
    }
    for name, values in sums.items():
        if not np.isfinite(values).all():
            bad = divergences[int(np.flatnonzero(~np.isfinite(values))[0])].item_id
            raise StatisticsError(f"{bad}: its divergence ({name}) is not finite")
    kl, kl_error = _ratio(sums["kl"], counts, named)
    same, same_error = _ratio(sums["same"], counts, named)
    return Summary(
        sequences=len(divergences),
        tokens=int(counts.sum()),
        kl=kl,
        kl_error=kl_error,
        reverse_kl=_ratio(sums["reverse"], counts, named)[0],
        same_top=same,
        same_top_error=same_error,
        probability_change=_ratio(sums["change"], counts, named)[0],
        worst=divergences[int(np.argmax(sums["kl"] / counts))].item_id,
    )


def _change(one: Divergence) -> Floats:
    change: Floats = np.exp(np.array(one.candidate_logprob)) - np.exp(np.array(one.baseline_logprob))
    return change


def _ratio(totals: Floats, counts: Floats, clusters: Sequence[str]) -> tuple[float, float]:
    """Return a mean per token and its standard error over clusters."""
    _, index = np.unique(np.array(clusters, dtype=object).astype(str), return_inverse=True)
    total, count = np.bincount(index, weights=totals), np.bincount(index, weights=counts)
    mean, groups = float(total.sum() / count.sum()), len(total)
    if groups < 2:  # noqa: PLR2004  # one cluster says nothing of how clusters differ
        return mean, float("inf")
    spread = float(((total - mean * count) ** 2).sum())
    return mean, float(np.sqrt(groups / (groups - 1) * spread) / count.sum())
