"""Reads what other tools ran: lm_eval, Inspect, NeMo Evaluator, lighteval, plain tables. Each becomes `Outcomes`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from harness.errors import NotComparable, UsageError, one_line
from harness.judge.importers.cells import SUFFIXES
from harness.judge.importers.details import detail_files, load_lighteval, load_nel, nel_bundles
from harness.judge.importers.inspect import is_log, load_inspect, log_files
from harness.judge.importers.json_text import below, first_object, parsed
from harness.judge.importers.lm_eval import is_sample, load_lm_eval, sample_files
from harness.judge.importers.rows import ImportOptions
from harness.judge.importers.tables import load_table
from harness.judge.outcomes import Outcomes

__all__ = ["Format", "ImportOptions", "check_options", "format_of", "load"]

Format = Literal["lm_eval", "inspect", "nel", "lighteval", "table"]


class _Reader(NamedTuple):
    """How a format is read."""

    shown: str  # what messages call it
    options: tuple[str, ...]  # those of `compare` that say how it is read
    load: Callable[[Path, ImportOptions, str], Outcomes]


_COMMON = ("stratum", "cluster", "chance")
_TABLE = ("item", "score", "stratum", "cluster", "slice", "prompt", "weight", "chance", "repeats")
_READERS: dict[Format, _Reader] = {
    "lm_eval": _Reader("lm_eval samples", (*_COMMON, "metric", "filter", "repeats"), load_lm_eval),
    "inspect": _Reader("Inspect logs", (*_COMMON, "metric"), load_inspect),
    "nel": _Reader("results of NeMo Evaluator", _COMMON, load_nel),
    "lighteval": _Reader("details of lighteval", (*_COMMON, "metric"), load_lighteval),
    "table": _Reader("plain tables", _TABLE, load_table),
}
_PACKED, _READ = {".gz", ".zst", ".xz", ".bz2", ".zip", ".part", ".tmp"}, {".eval", ".json", *SUFFIXES}
_KNOWN = (
    "lm_eval samples (a directory with samples_*.jsonl or .json), Inspect logs (.eval, .json), NeMo Evaluator's (eval-"
    "*.json with results.jsonl), lighteval's details (details_*.parquet), or a table (.csv, .tsv, .jsonl, .parquet)"
)


def load(path: Path, options: ImportOptions | None = None, name: str | None = None) -> Outcomes:
    """Read a variant's outcomes. Raises UsageError if something named is missing, NotComparable if data are unsound."""
    options = options or ImportOptions()
    if options.chance is not None and not 0.0 <= options.chance < 1.0:
        raise UsageError(f"chance={options.chance:g} is not a proportion in [0, 1)")
    try:
        found = _READERS[format_of(path, options)].load(path, options, name or path.stem or str(path))
        for one in below(path, "*") if path.is_dir() else ():
            if one.suffix in _PACKED and Path(one.stem).suffix in _READ and not one.with_suffix("").exists():
                raise NotComparable(f"{one}: is packed or half written, and would not count: unpack or remove it")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (AttributeError, LookupError, NotImplementedError, TypeError, ValueError) as error:
        text = "holds values of another type than its format has, or was cut or changed"
        raise NotComparable(f"{path}: {text} ({one_line(error)}): give what the tool wrote") from error
    return found


def check_options(given: Sequence[str], formats: Sequence[Format]) -> None:
    """Refuse options that none of the inputs can use. given: names, without dashes. Raises UsageError."""
    found = [_READERS[one] for one in sorted(set(formats))]
    for option in [name for name in given if not any(name in one.options for one in found)]:
        inputs = " and ".join(f"{one.shown} (which take --{', --'.join(one.options)})" for one in found)
        raise UsageError(f"--{option} does not apply to {inputs}")


def format_of(path: Path, options: ImportOptions | None = None) -> Format:
    """Find the format of a path. Raises UsageError, with what would help, if it is not one that can be read."""
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or directory")
    if path.is_dir():
        return _of_directory(path)
    named = options is not None and (options.item is not None or options.score is not None)
    match path.suffix.lower():
        case ".eval":
            return "inspect"
        case ".json":
            return _of_json(path)
        case ".jsonl" | ".ndjson":
            return "table" if named or not is_sample(first_object(path)) else "lm_eval"
        case suffix if suffix in SUFFIXES:
            return "lighteval" if not named and detail_files(path) else "table"
    raise UsageError(f"{path}: cannot be read. What can: {_KNOWN}")


def _of_directory(path: Path) -> Format:
    if (path / "run.json").is_file():
        raise UsageError(f"{path}: is a run of quantcliff, with both sides: `quantcliff compare {path}` judges it")
    own: dict[Format, Callable[..., object]] = {"lm_eval": sample_files, "lighteval": detail_files, "nel": nel_bundles}
    found = [one for one, files in own.items() if files(path)]
    known = (is_log(first_object(one)) for one in below(path, "*.json") if not one.name.startswith("samples_"))
    if len(found) > 1 or (found and (any(path.rglob("*.eval")) or any(known))):
        raise UsageError(f"{path}: holds results of several tools, and only {found[0]}'s would count: give each apart")
    if found:
        return found[0]
    if any(path.rglob("results_*.json")):
        raise UsageError(f"{path}: holds lm_eval's averages alone: run it again with --log_samples")
    if log_files(path):
        return "inspect"
    raise UsageError(f"{path}: holds nothing that can be read. What can: {_KNOWN}")


def _of_json(path: Path) -> Format:
    if is_sample(first := first_object(path)):
        return "lm_eval"
    try:
        if is_log(first or parsed(path.read_bytes(), str(path))):
            return "inspect"
    except NotComparable as error:
        raise UsageError(str(error)) from error
    averages = ": lm_eval's averages alone; give the directory of its samples_*.jsonl"
    raise UsageError(f"{path}: is not a log of Inspect{averages if path.name.startswith('results') else ''}")
