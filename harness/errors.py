"""The errors that quantcliff raises on purpose, and the exit codes they end in: 4 but where a class says otherwise."""

import enum
from dataclasses import dataclass


def one_line(error: BaseException) -> str:
    """Return the class of an exception of a library, and the first line of its message."""
    first = next(iter(str(error).strip().splitlines()), "")[:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class ExitCode(enum.IntEnum):
    """What the process tells its caller."""

    PASS = 0  # every gating stratum of every candidate passed
    FAIL = 1  # at least one gating stratum is worse than its margin, family-wise
    USAGE = 2  # bad usage or a bad config; nothing was run
    INCONCLUSIVE = 3  # neither proven good nor proven bad, or a gating stratum has no signal
    NOT_COMPARABLE = 4  # the run is incomplete, broke, or its two sides are not comparable


class QuantcliffError(Exception):
    """An error with one clear message that names the place and the remedy."""

    exit_code: ExitCode = ExitCode.NOT_COMPARABLE


class UsageError(QuantcliffError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a config."""

    path: str  # where, as a person would write it: ``candidates[1].quantization.method``
    message: str  # the value, the rule it breaks, and what to write instead

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(UsageError):
    """A config file with problems, all of them at once."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        self.source, self.problems = source, problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {problem}" for problem in problems)]))


class StatisticsError(QuantcliffError, ValueError):
    """Numbers that no method here may judge: empty, NaN, outside [0, 1]."""


class RunError(QuantcliffError):
    """A run that cannot start, go on or be trusted."""


class StoreError(RunError):
    """The run directory is unreadable, full, in use or belongs to another config."""


class Incomplete(RunError):
    """Results are missing; the message names which."""


class NotComparable(RunError):
    """The two sides were not measured the same way."""


class ModelError(RunError):
    """A model or tokenizer that does not load, or is not what was asked for."""


class NoSuchModel(ModelError):
    """A name or path that is no model; the message says what is there."""

    exit_code = ExitCode.USAGE


class BackendMissing(RunError):
    """A quantization method whose package or device is not there; other variants may still run."""


class NonFinite(RunError):
    """A model answered with NaN or infinity."""

    def __init__(self, message: str, item_id: str) -> None:
        self.item_id = item_id
        super().__init__(message)


class Interrupted(QuantcliffError):
    """The user stopped the run; the message says how to continue."""
