"""Where the tasks and configs lie: beside the package in a checkout, inside it in an installed wheel."""

from pathlib import Path

from harness.errors import RunError

_PACKAGE = Path(__file__).resolve().parents[1]


def tasks_dir() -> Path:
    """The folder with the lm_eval tasks, to be given to lm_eval's ``include_path``."""
    return _find("tasks", package=_PACKAGE)


def configs_dir() -> Path:
    """The folder with the configs that ship with quantcliff."""
    return _find("configs", package=_PACKAGE)


def _find(name: str, *, package: Path) -> Path:
    """Give the folder, the packed one first: beside an installed package lie strangers' folders. Raises RunError."""
    packed, beside = package / "_data" / name, package.parent / name
    for folder in (packed, beside):
        if folder.is_dir():
            return folder
    raise RunError(f"quantcliff's {name} are missing, in {packed} and in {beside}; install it again")
