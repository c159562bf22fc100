"""What a loader is asked for: one variant of a config, and what its folder says of itself. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.config.schema import Quantization
from harness.models.formats import Header, Stored

__all__ = ["Request"]


@dataclass(frozen=True, slots=True)
class Request:
    """All that loading a model depends on."""

    folder: Path
    """The model's folder."""
    stored: Stored
    """What the folder says of itself."""
    method: str
    """The method to load by."""
    options: Quantization
    """The options of the config."""
    device: str
    """``cpu``, ``cuda``, ``cuda:1``."""
    dtype: torch.dtype
    """The one compute dtype."""
    attention: str
    """Attention implementation, ``auto`` for the library's choice."""
    trust_remote_code: bool
    """Whether the model's own code may run."""
    tensors: Mapping[str, Header]
    """Headers of the safetensors files."""
