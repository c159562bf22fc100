"""The parent's end of a worker: started, asked, and gone afterwards, whatever happens."""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from harness import errors
from harness.config.schema import Experiment
from harness.errors import Incomplete, RunError
from harness.models.devices import resolve_device
from harness.run.worker import Ask, Closed, Job, Refused, converse, serve


class WorkerHandle:
    """The parent's end of the connection to a worker."""

    def __init__(self, connection: Connection, job: Job, exit_code: Callable[[], int | None]) -> None:
        self._connection, self._job, self._exit_code = connection, job, exit_code

    def send(self, ask: Ask | None) -> None:
        """Ask for a unit. If the worker is gone, `receive` gives what it said before, and then says so."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(ask)

    def receive(self) -> Any:
        """Wait for the next message. Raises what the worker refused with, or Incomplete where it is gone."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if isinstance(message, Refused):  # give the worker's error its class back
            kind = getattr(errors, message.kind, RunError)
            raise kind(message.message, "") if kind is errors.NonFinite else kind(message.message)
        return message

    def close(self) -> Closed:
        """Tell the worker that all is done and get what it spent."""
        self.send(None)
        while not isinstance(closed := self.receive(), Closed):
            pass  # how far it is
        return closed

    def _died(self) -> Incomplete:
        code, path, tail = self._exit_code(), self._job.log, ""
        killed = f"signal {-(code or 0)} (9 is often the system's out-of-memory killer)"
        why = killed if code and code < 0 else f"exit code {code}"
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            tail = next((f" ends with: {line[:300]}" for line in reversed(lines) if line.strip()), "")
        text = f"{self._job.variant.name}: the process that ran it ended with {why}; finished work is kept"
        return Incomplete(f"{text}, give the same command again to continue. Its log: {path}{tail}")


def started(job: Job) -> contextlib.AbstractContextManager[WorkerHandle]:
    """Start a worker that is gone afterwards, whatever happens; a rehearsal that takes no time is only a thread."""
    return _thread(job) if job.rehearsal and not job.rehearsal.seconds_per_item else _process(job)


@contextlib.contextmanager
def _thread(job: Job) -> Iterator[WorkerHandle]:
    here, there = multiprocessing.Pipe()

    def answer() -> None:
        with there:
            converse(there, job)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield WorkerHandle(here, job, lambda: None)
    finally:
        here.close()
        thread.join()


def _fork_server() -> ForkServerContext:
    """Return how a process is forked from a server that has the libraries loaded (`harness.run.preload`)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.run.preload"])
    return context


def start_early(experiment: Experiment) -> None:
    """Begin to load the libraries while the run is planned, if workers are forked. Raises UsageError."""
    execution = experiment.execution
    if execution.rehearsal is None and resolve_device(execution.device) == "cpu":
        _fork_server()
        forkserver.ensure_running()


@contextlib.contextmanager
def _process(job: Job) -> Iterator[WorkerHandle]:
    # Importing the libraries may initialise CUDA, which does not survive a fork, so a process that uses a device begins
    # with nothing, as a rehearsal does, which needs none of them. One that asks a server needs its tokenizer.
    forked = job.device == "cpu" and job.rehearsal is None
    context: SpawnContext | ForkServerContext = _fork_server() if forked else multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, job), daemon=True)
    process.start()
    there.close()

    def exit_code() -> int | None:
        process.join(timeout=5)
        return process.exitcode

    try:
        yield WorkerHandle(here, job, exit_code)
        process.join(timeout=30)
    finally:
        here.close()
        for end in (process.terminate, process.kill):
            if process.is_alive():
                end()
                process.join(timeout=5)
