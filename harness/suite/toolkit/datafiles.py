"""Public data sets as files under the config's `data_dir`: JSON lines and tab-separated text, plain or gzipped."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def find(data_dir: str, places: Sequence[str]) -> Path:
    """Give the first of `places` (paths inside the folder) that exists. Raises ValueError naming all of them."""
    for place in places:
        if (path := Path(data_dir) / place).exists():
            return path
    raise ValueError(f"data_dir {data_dir!r} holds none of {', '.join(places)}")


def read_text(path: Path) -> str:
    """Read a UTF-8 text, gunzipped where its name ends in ``.gz``. Raises ValueError where it is not UTF-8."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def filled_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give the lines of a text that are not empty, each with its number, from 1."""
    return ((number, line) for number, line in enumerate(read_text(path).split("\n"), start=1) if line.strip())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read one JSON object per line, empty lines left out. Raises ValueError naming file and line."""
    rows = []
    for number, line in filled_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: not a JSON object but {type(row).__name__}")  # noqa: TRY004 - bad data, not a bad call
        rows.append(row)
    return rows


def read_tsv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read tab-separated lines without quoting. Raises ValueError naming file and line where a column is missing."""
    rows = []
    for number, line in filled_lines(path):
        cells = line.rstrip("\r").split("\t")
        if len(cells) != len(columns):
            raise ValueError(f"{path}:{number}: {len(cells)} columns, not {len(columns)} ({', '.join(columns)})")
        rows.append(dict(zip(columns, cells, strict=True)))
    return rows
