"""Where the tasks and configs lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

from harness.errors import RunError

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(name: str, package: Path | None = None) -> Path:
    """Give a folder that ships with quantcliff: ``tasks``, as lm_eval's ``include_path``, or ``configs``.

    The packed one comes first: beside an installed package lie strangers' folders. Raises RunError.
    """
    packed, beside = (package or _PACKAGE) / "_data" / name, (package or _PACKAGE).parent / name
    for folder in (one for one in (packed, beside) if one.is_dir()):
        return folder
    raise RunError(f"quantcliff's {name} are missing, in {packed} and in {beside}; install it again")
