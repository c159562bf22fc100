"""Log-probabilities of a prompt's tokens, from the two ways in which servers give them.

``prompt_logprobs`` (vLLM) names each token's log-probability and rank by its id; ``echo`` with ``logprobs`` repeats the
prompt with a list of numbers. An answer of another shape is refused: a server that ignores the request would give every
choice the same score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import NonFinite, NotComparable

__all__ = ["METHODS", "logprob_request", "sum_logprobs"]

METHODS: dict[str, dict[str, Any]] = {
    "prompt_logprobs": {"prompt_logprobs": 1, "max_tokens": 1},
    "echo": {"echo": True, "logprobs": 1, "max_tokens": 1},
}
"""The fields of a request that ask for the log-probabilities of its prompt, by the name of the way."""


def logprob_request(way: str, model: str, tokens: Sequence[int]) -> dict[str, Any]:
    """Give the request for the log-probabilities of a sequence of tokens."""
    return {"model": model, "prompt": list(tokens), "temperature": 0, "stream": False, **METHODS[way]}


def sum_logprobs(
    way: str, data: Mapping[str, Any], tokens: Sequence[int], begin: int, item_id: str
) -> tuple[float, bool]:
    """Give the log-probability of the tokens from `begin` on, and whether each is the most likely one.

    Raises NotComparable if the answer has another shape, NonFinite if a number is none.
    """
    try:
        rows = _ranked(data, tokens) if way == "prompt_logprobs" else _echoed(data, tokens)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NotComparable(f"{item_id}: the server gives no log-probability of each prompt token: {error}") from error
    weights = [weight for weight, _ in rows[begin:]]
    if not all(map(math.isfinite, weights)):
        raise NonFinite(f"{item_id}: a log-probability is not finite: {weights}", item_id)
    return math.fsum(weights), all(best for _, best in rows[begin:])


def _ranked(data: Mapping[str, Any], tokens: Sequence[int]) -> list[tuple[float, bool]]:
    """Read a list with null and then one mapping for each token, its id to its log-probability and rank."""
    found = data["choices"][0]["prompt_logprobs"]
    _check_shape(found, tokens)
    rows = [(0.0, True)]
    for token, row in zip(tokens[1:], found[1:], strict=True):
        own = row[str(token)]
        rows.append((float(own["logprob"]), own["rank"] == 1))
    return rows


def _echoed(data: Mapping[str, Any], tokens: Sequence[int]) -> list[tuple[float, bool]]:
    """Read parallel lists over prompt and answer, the first entry null; a token is the best if none has more."""
    found = data["choices"][0]["logprobs"]
    weights, best = found["token_logprobs"][: len(tokens)], found["top_logprobs"][: len(tokens)]
    _check_shape(weights, tokens)
    pairs = zip(weights[1:], best[1:], strict=True)
    return [(0.0, True), *((float(one), float(one) >= max(map(float, top.values()))) for one, top in pairs)]


def _check_shape(found: Sequence[Any], tokens: Sequence[int]) -> None:
    if len(found) != len(tokens):
        raise ValueError(f"{len(found)} log-probabilities for {len(tokens)} tokens")
    if found[0] is not None:
        raise ValueError("the first token has one, though nothing precedes it")
