"""What the workers of a CPU run have in common, imported once: `multiprocessing`'s fork server imports this module.

Importing torch, transformers and bitsandbytes takes 8 s of processor time; a worker that is forked from a process that
has them starts at once. What they print meanwhile is dropped: a worker that cannot import one fails with its message.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator

_LATE = ["harness.models.loading", "harness.models.methods", "harness.engines.transformers.engine"]
_LATE += ["harness.run.worker", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "bitsandbytes"]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send standard output and error, also those of C libraries, nowhere for a while."""
    nowhere, *kept = os.open(os.devnull, os.O_WRONLY), os.dup(1), os.dup(2)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for handle in (nowhere, *kept):
            os.close(handle)


with _silence():
    for _name in _LATE:
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            importlib.import_module(_name)
