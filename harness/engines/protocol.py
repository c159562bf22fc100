"""What an engine is: something that takes items and yields responses. The runner uses nothing else of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from harness.records import Item, Proof, Response, Settings


@dataclass(slots=True)
class Usage:
    """What an engine has spent since it was made."""

    prompt_tokens: int = 0  # tokens read, shared prefixes counted once
    output_tokens: int = 0
    peak_bytes: int = 0  # largest memory seen, in bytes: device memory on a GPU, resident set on a CPU
    notes: list[str] = field(default_factory=list)  # for the log: batches halved for lack of memory, paths taken


class Engine(Protocol):
    """A loaded variant, ready to answer: the answers to a call depend on its items alone."""

    version: str  # part of every cache key: changes whenever the same items could get other answers
    context_limit: int  # longest prompt plus answer, in tokens

    def proof(self) -> Proof:
        """Say what is loaded."""

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield a unit's responses in any order, `settings.samples` per generated item. Raises NonFinite."""

    def usage(self) -> Usage:
        """Say what has been spent so far."""


class EngineBase:
    """What engines share: the proof that they were given, and what they have spent."""

    def __init__(self, proof: Proof) -> None:
        self._proof, self._spent = proof, Usage()

    def proof(self) -> Proof:
        """Return what is loaded, as far as that is known."""
        return self._proof

    def usage(self) -> Usage:
        """Return what has been spent so far, each note once; memory is not known."""
        return replace(self._spent, notes=list(dict.fromkeys(self._spent.notes)))
