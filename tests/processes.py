"""Processes that begin with the libraries loaded: forked from one server, and real in all else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

__all__ = ["quick", "start"]

PRELOADED = [
    "harness.cli.run",
    "harness.run.worker",
    "harness.models.loading",
    "harness.engines.transformers.traces",
    "harness.suite",
    "lm_eval.tasks",
    "transformers.models.llama",
]


def quick() -> ForkServerContext:
    """Give what starts such processes; one server for all tests of this interpreter."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def start(words: Sequence[object], said: Path) -> ForkServerProcess:
    """Run the command line in a session of its own, its output in the file `said`; `exitcode` is the command's."""
    process = quick().Process(target=_command, args=([str(word) for word in words], said))
    process.start()
    return process


def _command(words: list[str], said: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the tests ignores it, and so do its children
    handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from harness.cli import main

    sys.argv = ["quantcliff", *words]
    main()
