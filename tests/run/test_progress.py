"""What a person who waits is shown."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness.run import progress
from harness.run.progress import Reporter


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_eta_after_a_resume_counts_only_what_was_done_since(clock):
    """90 % were done before; 5 % took 50 s, so the other 5 % take 50 s more, not 3."""
    out = io.StringIO()
    log = Reporter(Console(file=out, width=200))
    log.expect(1000)
    log.doing("nf4", "looking at what is done")
    log.skip(900)
    clock[0] += 50
    log.advance(50, items=10)
    last = out.getvalue().splitlines()[-1]
    assert "95%" in last
    assert "ETA 0:00:50" in last
    assert "0.2 items/s" in last


def test_a_log_gets_a_line_every_ten_seconds_at_most(clock):
    """However small the steps are."""
    out = io.StringIO()
    log = Reporter(Console(file=out, width=200))
    log.expect(1000)
    for _ in range(60):
        clock[0] += 1
        log.advance(1)
    assert len(out.getvalue().splitlines()) == 6


def test_a_bar_shows_share_pace_and_eta(clock):
    """Half done in 20 s: 20 s to go."""
    out = io.StringIO()
    with Reporter(Console(file=out, width=120, force_terminal=True)) as bar:
        bar.expect(400)
        bar.doing("int8", "typical")
        clock[0] += 20
        bar.advance(200, items=4)
    shown = out.getvalue()
    assert " 50%" in shown
    assert "ETA 0:00:20" in shown
    assert "0.2 items/s" in shown
