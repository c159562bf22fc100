"""Where the answers that changed are shown; the page and Markdown show them in their own ways."""

from __future__ import annotations

from harness.report.section import Block

__all__ = ["BLOCKS"]

BLOCKS = (Block("flips", "What changed, answer by answer", lambda *_: (), {"markdown": 60, "page": 80}, "Answers"),)
