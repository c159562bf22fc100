"""Files that survive a kill at any instant: written whole and renamed, or appended to line by line."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from harness.errors import StoreError
from harness.records import Proof, Timing, canonical_json  # noqa: F401 - records.toml names Proof

MOST_SHARDS = 10_000  # more is a damaged file or a slip of the pen
# What `records.toml` names besides Python's own types.
Count = Annotated[int, Field(ge=0)]
Call = TypedDict("Call", {"time": str, "generate": NotRequired[Count], "choice": NotRequired[Count]})  # noqa: UP013
Sandbox = TypedDict("Sandbox", {"layers": list[str], "network": str, "files": str})  # noqa: UP013
_KEYS = tomllib.loads(Path(__file__).with_name("records.toml").read_text("utf-8"))
_RECORDS: dict[str, TypeAdapter[Any]] = {
    "timings": TypeAdapter(Timing),
    **{name: TypeAdapter(TypedDict(name, keys)) for name, keys in _KEYS.items()},  # type: ignore[operator]
}
# What to do about an error of the operating system, by its name.
_REMEDIES: dict[str, str] = json.loads(Path(__file__).with_name("remedies.json").read_text("utf-8"))
RESTORE = "restore what the run wrote, or run it again into another --output"
_SEAL = len('{"check":"0123456789abcdef",')


@contextlib.contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """Turn an operating system error into a sentence with a remedy. Raises StoreError."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(errno.errorcode.get(error.errno or 0, ""), error.strerror or str(error))
        raise StoreError(f"{path}: cannot be {doing}: {remedy}") from error


def _sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder: without it a power cut may take back a rename."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot do it for a folder
            raise
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; the disk holds the name of each before the next."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def atomic_write(path: Path, text: str | bytes) -> None:
    """Write a whole file so that a reader sees the old one or the new one, never a part. Raises StoreError."""
    with explained(path, "written"):
        _make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(text if isinstance(text, bytes) else text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
            _sync_folder(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_if_other(path: Path, text: str) -> None:
    """Write a whole file unless it holds this text already. Raises StoreError."""
    if not (path.is_file() and path.read_bytes() == text.encode()):
        atomic_write(path, text)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object whole. Raises StoreError."""
    atomic_write(path, json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _read_bytes(path: Path) -> bytes:
    """Read a file; again if another machine replaced it between opening and reading, which NFS calls stale."""
    with explained(path, "read"):
        for _ in range(3):
            try:
                return path.read_bytes()
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return path.read_bytes()


def _parsed(text: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, also for half of a surrogate pair, and RecursionError."""
    data = json.loads(text.decode())
    if b"\\u" in text:
        json.dumps(data, ensure_ascii=False).encode()
    return data


def remedy(path: Path) -> str:
    """Say what to do if a record was changed: that of a shard is written again by the shard's command."""
    again = "remove it and give the shard's `quantcliff run` command again, which keeps finished answers"
    own = "remove it to begin again" if path.name.startswith("verify-") else RESTORE
    return again if path.parent.name == "shards" else own


def _check_record(path: Path, data: Mapping[str, Any], place: str = "") -> None:
    """Refuse a record of a run that lacks a key or has a value of another type. Raises StoreError."""
    name = path.parent.name if path.parent.name == "shards" else path.stem.partition("-")[0]
    try:
        if name in _RECORDS:
            _RECORDS[name].validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        text = f"{place}{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}: it was changed after the run"
        raise StoreError(f"{path}: {text}: {remedy(path)}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, and check it if it is a record of a run. Raises StoreError."""
    try:
        data = _parsed(_read_bytes(path))
        canonical_json(data)  # without NaN or infinity
    except (ValueError, RecursionError) as error:
        line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise StoreError(f"{path}: is not JSON{line}: it was changed after the run: {remedy(path)}") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: holds a {type(data).__name__}, not an object: {remedy(path)}")
    _check_record(path, data)
    return data


def _check(folder: str, body: str) -> str:
    return hashlib.sha256(f"{folder}\0{body}".encode()).hexdigest()[:16]


def sealed(record: Mapping[str, Any], folder: str) -> str:
    """Return a record as one line, its first key a check of the rest and of the folder that it belongs to."""
    body = canonical_json(record)[1:]
    return f'{{"check":"{_check(folder, body)}",{body}\n'


def read_lines(path: Path, folder: str = "", *, whole: bool = False, seals: bool = False) -> list[dict[str, Any]]:
    """Read JSON lines; the check of each that has one is verified against `folder` and left out.

    A last line without its newline (a write cut short) is left out, or refused if the file must be `whole`. `seals`:
    refuse lines without a check. Raises StoreError, naming the line.
    """
    *lines, rest = _read_bytes(path).split(b"\n")
    if whole and rest:
        raise StoreError(f"{path}: line {len(lines) + 1} is cut short: give `quantcliff run` again to complete it")
    return [_read_line(line, path, number, folder, seals=seals) for number, line in enumerate(lines, start=1)]


def _read_line(line: bytes, path: Path, number: int, folder: str, *, seals: bool) -> dict[str, Any]:
    again = "remove it and give the `quantcliff run` command again to answer it again"
    try:
        data = _parsed(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: line {number} is damaged: {again}") from error
    if not isinstance(data, dict):
        raise StoreError(f"{path}: line {number} is not a JSON object: {again}")
    if path.stem.startswith("timings-"):
        _check_record(path, data, f"line {number}: ")
    said = data.pop("check", None)
    if said is None and not (seals and folder):
        return data
    if said is None or line[:_SEAL] != f'{{"check":"{said}",'.encode() or _check(folder, line[_SEAL:].decode()) != said:
        raise StoreError(f"{path}: line {number} is not what the run wrote there: {again}")
    return data


class Appender:
    """Appends JSON lines to one file, each flushed to the operating system as it comes; `folder` seals them."""

    def __init__(self, path: Path, folder: str = "") -> None:
        self.path, self._folder = path, folder
        with explained(path, "written"):
            _make_folder(path.parent)
            self._stream = path.open("ab", buffering=0)
            if path.stat().st_size:  # a line cut short, as by a power cut, is taken away
                self._stream.truncate(path.read_bytes().rfind(b"\n") + 1)
            _sync_folder(path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line whole. Raises StoreError, after taking back a part of a line."""
        line = (sealed(record, self._folder) if self._folder else canonical_json(record) + "\n").encode()
        with explained(self.path, "written"):
            start = self._stream.seek(0, os.SEEK_END)
            try:
                done = 0
                while done < len(line):
                    done += self._stream.write(line[done:])
            except OSError:
                with contextlib.suppress(OSError):
                    self._stream.truncate(start)
                raise

    def sync(self) -> None:
        """Have the disk hold what was appended. Raises StoreError."""
        with explained(self.path, "written"):
            os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file. Raises StoreError: some file systems report only now that a quota is used up."""
        with explained(self.path, "written"):
            self._stream.close()
