"""How far a candidate's next-token distributions are from the baseline's: by token, and the mean by clusters."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import StatisticsError
from harness.stats.ratio import ratio_error


@dataclass(frozen=True, slots=True)
class Divergence:
    """One item's answer by the baseline, as both variants predict it; one number per token of that answer."""

    item_id: str
    kl: tuple[float, ...]  # KL(baseline || candidate) in nats
    reverse_kl: tuple[float, ...]  # KL(candidate || baseline) in nats
    same_top: tuple[bool, ...]  # whether both find the same token most likely
    baseline_logprob: tuple[float, ...]  # natural-log probability of the answer's token by the baseline
    candidate_logprob: tuple[float, ...]  # the same by the candidate

    def __post_init__(self) -> None:
        columns = (self.kl, self.reverse_kl, self.same_top, self.baseline_logprob, self.candidate_logprob)
        if not self.kl or len({*map(len, columns)}) > 1:
            text = "a divergence needs the same number of tokens, at least one, in each"
            raise StatisticsError(f"{self.item_id}: {text}")


@dataclass(frozen=True, slots=True)
class Summary:
    """Divergence over some items: means per token, their standard errors by whole sequences."""

    tokens: int  # tokens of all items
    kl: float  # mean KL(baseline || candidate) in nats per token
    kl_error: float  # its standard error; infinite for fewer than two clusters
    reverse_kl: float  # mean KL(candidate || baseline) in nats per token
    same_top: float  # share of tokens whose most likely token is the same
    same_top_error: float  # its standard error; infinite for fewer than two clusters
    probability_change: float  # mean change of the probability of the baseline's token, in [-1, 1]


def summarise(divergences: Sequence[Divergence], clusters: Mapping[str, str] | None = None) -> Summary:
    """Average over tokens, with errors by clusters of sequences.

    clusters: the cluster of each item (a shared haystack, parallel translations); without it each sequence is its own.
    The mean is a ratio of sums over clusters, total over tokens. Raises StatisticsError for no items or a number that
    is not finite.
    """
    if not divergences:
        raise StatisticsError("divergence: no items to average over")
    sources = [str((clusters or {}).get(one.item_id, one.item_id)) for one in divergences]
    codes = np.unique(sources, return_inverse=True)[1]
    tokens = np.bincount(codes, [len(one.kl) for one in divergences])

    def over(name: str, totals: Iterable[float]) -> tuple[float, float]:
        """Return a mean per token and its standard error: one cluster says nothing of how clusters differ."""
        values = np.array([*totals], float)
        if not np.isfinite(values).all():
            bad = divergences[int(np.argmin(np.isfinite(values)))].item_id
            raise StatisticsError(f"{bad}: its divergence ({name}) is not finite")
        sums = np.bincount(codes, values)
        mean = float(sums.sum() / tokens.sum())
        return mean, ratio_error(sums, tokens, mean) if tokens.size > 1 else math.inf

    kl, kl_error = over("kl", (sum(one.kl) for one in divergences))
    reverse, _ = over("reverse", (sum(one.reverse_kl) for one in divergences))
    same, same_error = over("same", (sum(one.same_top) for one in divergences))
    probabilities = ((np.exp(one.candidate_logprob), np.exp(one.baseline_logprob)) for one in divergences)
    change, _ = over("change", (np.sum(after - before) for after, before in probabilities))
    return Summary(int(tokens.sum()), kl, kl_error, reverse, same, same_error, change)
