"""What the model libraries say in passing, kept off the terminal: a run has a progress bar of its own."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

# torchao: kernels that do not fit this torch; torch's pytree: a deprecation inside torchao; the rest: progress, advice.
_WHILE_LOADING = ["torchao", "torch.utils._pytree", "transformers", "bitsandbytes", "gptqmodel"]
_WHILE_LOADING += ["optimum", "hqq", "compressed_tensors", "gguf"]
# bitsandbytes writes a line for every multiplication whose input is not float16, and one for a kernel hub.
_WHILE_RUNNING = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, the libraries' loggers speak only of errors, every tqdm bar is off, and warnings are unheard."""
    import transformers  # noqa: F401 - it sets its logger up when it is imported
    from tqdm import tqdm  # type: ignore[import-untyped]

    loggers = [logging.getLogger(name) for name in _WHILE_LOADING]
    before, original = [logger.level for logger in loggers], tqdm.__init__

    def disabled(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "disable": True})

    for logger in loggers:
        logger.setLevel(logging.ERROR)
    tqdm.__init__ = disabled
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        tqdm.__init__ = original
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def silence_forward() -> None:
    """Silence, for the life of the process, what bitsandbytes writes at every multiplication."""
    for name in _WHILE_RUNNING:
        logging.getLogger(name).setLevel(logging.ERROR)
