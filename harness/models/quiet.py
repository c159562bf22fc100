"""What the model libraries say in passing, kept off the terminal: a run has a progress bar of its own.

Knows the names of their loggers; a problem that they report as an exception passes through unharmed.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["quiet", "silence_forward"]

# torchao: kernels that do not fit this torch; torch's pytree: a deprecation inside torchao; the rest: progress, advice.
_WHILE_LOADING = (
    "torchao",
    "torch.utils._pytree",
    "transformers",
    "bitsandbytes",
    "gptqmodel",
    "optimum",
    "hqq",
    "compressed_tensors",
    "gguf",
)

# bitsandbytes writes a line for every multiplication whose input is not float16, and one for a kernel hub.
_WHILE_RUNNING = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, the libraries' loggers speak only of errors, their progress bars are off, their warnings unheard."""
    loggers = [logging.getLogger(name) for name in _WHILE_LOADING]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_bars():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Within it, every tqdm bar is off (some libraries offer no other way), and transformers' verbosity is kept."""
    from tqdm import tqdm  # type: ignore[import-untyped]
    from transformers.utils import logging as their_logging

    level = their_logging.get_verbosity()
    their_logging.set_verbosity_error()
    original = tqdm.__init__

    def disabled(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "disable": True})

    tqdm.__init__ = disabled
    try:
        yield
    finally:
        tqdm.__init__ = original
        their_logging.set_verbosity(level)


def silence_forward() -> None:
    """Silence, for the life of the process, what bitsandbytes writes at every multiplication."""
    for name in _WHILE_RUNNING:
        logging.getLogger(name).setLevel(logging.ERROR)
