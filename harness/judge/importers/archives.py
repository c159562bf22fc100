"""Members of a zip archive that another tool wrote, read within limits: a small file must not fill the memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import NotComparable

__all__ = ["member", "opened"]

MAX_MEMBERS = 500_000
MAX_MEMBER = 256 << 20
"""Unpacked bytes of one member."""
MAX_TOTAL = 16 << 30
"""Unpacked bytes of all members."""
_ZSTANDARD = 93
"""The zip method that recent versions of Inspect compress with (APPNOTE.TXT 4.4.5)."""


@contextmanager
def opened(file: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Raises NotComparable if it is damaged, has a member twice, or exceeds a limit."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_limits(archive, file)
            yield archive
    except zipfile.BadZipFile as error:
        raise NotComparable(f"{file}: is not a whole .eval log: {error}") from error


def _check_limits(archive: zipfile.ZipFile, file: Path) -> None:
    entries = archive.infolist()
    largest = max(entries, key=lambda entry: entry.file_size, default=None)
    total = sum(entry.file_size for entry in entries)
    for what, found, limit in (
        ("members", len(entries), MAX_MEMBERS),
        (
            f"MiB in {largest.filename if largest else ''}",
            (largest.file_size if largest else 0) >> 20,
            MAX_MEMBER >> 20,
        ),
        ("MiB unpacked", total >> 20, MAX_TOTAL >> 20),
    ):
        if found > limit:
            raise NotComparable(f"{file}: holds {found:,} {what}, and at most {limit:,} are read")
    if len(set(archive.namelist())) < len(entries):
        raise NotComparable(f"{file}: holds a member twice")


def member(archive: zipfile.ZipFile, name: str, file: Path) -> bytes:
    """Read one member. Python's zipfile reads Zstandard from 3.14 on; before that pyarrow does.

    Raises NotComparable if it is damaged.
    """
    entry = archive.getinfo(name)
    if entry.compress_type == _ZSTANDARD:
        return _zstandard(entry, file)
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise NotComparable(f"{file}: {name} is damaged: {error}") from error


def _zstandard(entry: zipfile.ZipInfo, file: Path) -> bytes:
    from pyarrow import lib

    with file.open("rb") as stream:
        stream.seek(entry.header_offset)
        local = stream.read(30)
        # The local header: 30 bytes, the last four the lengths of name and extra field (APPNOTE.TXT 4.3.7).
        stream.seek(int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little"), 1)
        packed = stream.read(entry.compress_size)
    try:
        found = bytes(lib.Codec("zstd").decompress(packed, decompressed_size=entry.file_size, asbytes=True))
    except lib.ArrowException as error:
        raise NotComparable(f"{file}: {entry.filename} is damaged: {error}") from error
    if zlib.crc32(found) != entry.CRC:
        raise NotComparable(f"{file}: {entry.filename} is damaged: its checksum differs")
    return found
