"""Processes that begin with the libraries loaded: forked from one server, and real in all else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["start"]

PRELOADED = ["harness.run.preload", "harness.cli.run", "harness.suite.scorer", "lm_eval.tasks"]


def start(words: Sequence[object], said: Path) -> ForkServerProcess:
    """Run the command line in a session of its own, its output in the file `said`; `exitcode` is the command's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_command, args=([str(word) for word in words], said))
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
