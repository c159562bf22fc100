"""Every quantization method: its options, what it needs, and what to say of it. Loads no library.

A new method is a record in methods.toml, a loader in `harness.models.methods`, an extra in pyproject.toml if it needs a
new package, and a line in docs/backends.md.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that a method needs."""

    name: str  # its name for pip
    module: str  # what is imported
    lowest: str  # the lowest version that works


@dataclass(frozen=True, slots=True)
class Method:
    """One quantization method."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: str  # what a config calls it
    rounding: float  # largest norm of the difference from a tiny random model's plain answers over their norm
    options: frozenset[str] = frozenset()  # fields of `harness.config.schema.Quantization` that it takes
    packages: tuple[Package, ...] = ()  # what has to be installed, apart from `RUNTIME`
    extra: str = "run"  # the extra that installs the packages, or a requirement such as ``transformers[kernels]``
    capability: tuple[int, int] | None = None  # lowest CUDA compute capability; None if a CPU will do
    from_checkpoint: bool = False  # whether weights are quantized on disk: the variant needs its own `model`
    batch_invariant: bool = True  # whether an answer is the same with any others in its batch, up to rounding
    stored_as: tuple[str, ...] = ()  # in a model's config: quant_method, torchao class in lower case, bitsandbytes type
    alias_of: str = ""  # the method whose checkpoints these are, under another name
    remark: str = ""  # what `quantcliff doctor` says of it if it works
    note: str = ""  # what the report says of every variant with it
    module_bits: frozenset[int] = frozenset()  # bits that single modules may have, by the option of this name


_READ = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_PACKAGES = {name: Package(name, *about) for name, about in _READ["packages"].items()}
RUNTIME = tuple(_PACKAGES[name] for name in _READ["runtime"])  # what every method needs
PACKAGES = tuple(_PACKAGES.values())  # everything that a method may compute with


def methods_in(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Method]:
    """Return the methods of records as methods.toml holds them, by name. Raises ValidationError."""
    packed = {name: [_PACKAGES[one] for one in own.get("packages", ())] for name, own in records.items()}
    found = [{"name": name, **own, "packages": packed[name]} for name, own in records.items()]
    return {one.name: one for one in TypeAdapter(list[Method]).validate_python(found)}


METHODS = methods_in(_READ["methods"])  # every method by its name, in the order in which they are listed


def weights_format(name: str) -> str:
    """Return the method that a name stands for: AutoGPTQ's checkpoints are GPTQ's. Servers have others, as they are."""
    return (name in METHODS and METHODS[name].alias_of) or name


def same_method(one: str, other: str) -> bool:
    """Whether two method names mean the same weights."""
    return weights_format(one) == weights_format(other)
