"""Runs over time: one SQLite database of finished runs, and what it shows.

`database` reads runs into tables; `changes` compares two of them; `sections` fills tables and charts, which `files`
writes as a page, Markdown and a badge.
"""
