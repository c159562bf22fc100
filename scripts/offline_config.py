"""Makes a config ready for a machine without a network: which folders it needs there, and where it finds them.

Of wheels, parts and archives this module knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from offline_wheels import BundleError

from harness.config import loading as config
from harness.errors import QuantcliffError
from harness.models import resolve as models


def packed_config(source: Path, given: Mapping[str, Path]) -> tuple[str, dict[str, Path]]:
    """The config's text for the node, and the folders that it names, by their place in the bundle.

    Every model is found as a run here would find it (a hub id is fetched, smollm2 is made), unless `given` maps what
    the config calls it to a folder. A candidate whose model is not there is said and left as it is: the node reports it
    as not judged. Raises `BundleError` for a config with problems, and where the baseline's model is not there.
    """
    try:
        experiment = config.load(source)
    except QuantcliffError as error:
        raise BundleError(str(error)) from error
    data = yaml.safe_load(source.read_text(encoding="utf-8"))
    if isinstance(data["baseline"], str):
        data["baseline"] = {"model": data["baseline"]}
    folders: dict[str, Path] = {}
    for variant, written in zip(experiment.variants, [data["baseline"], *data["candidates"]], strict=True):
        try:
            folder = given.get(variant.model) or models.resolve(variant.model, variant.revision)
        except QuantcliffError as error:
            if variant is experiment.baseline:
                raise BundleError(str(error)) from error
            print(f"  {variant.name} is not packed, and will not be judged: {error}")
            continue
        written["model"] = place_of(folder, f"models/{Path(variant.model).name}", folders)
    for spec in data["slices"]:
        if spec.get("data_dir"):
            folder = Path(spec["data_dir"])
            spec["data_dir"] = place_of(folder, f"files/{folder.resolve().name}", folders)
    return dump(data), folders


def place_of(folder: Path, wanted: str, folders: dict[str, Path]) -> str:
    """The folder's place in the bundle: the one that it has already, else the wanted one, else that with a number."""
    taken = {path.resolve(): place for place, path in folders.items()}
    if folder.resolve() in taken:
        return taken[folder.resolve()]
    place, count = wanted, 1
    while place in folders:
        count += 1
        place = f"{wanted}-{count}"
    folders[place] = folder
    return place


def dump(data: dict[str, Any]) -> str:
    """YAML as a person would write it."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def named_folders(arguments: list[str]) -> dict[str, Path]:
    """`NAME=DIR` arguments as a mapping from what the config calls a model to its folder. Raises `BundleError`."""
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, _, folder = argument.partition("=")
        if not Path(folder or name).is_dir():
            raise BundleError(f"--model {argument}: {folder or name} is not a folder")
        folders[name] = Path(folder or name)
    return folders
