"""Runs over time: `database` reads finished runs into SQLite, `changes` compares two, `sections` shows them."""
