"""How a variant's weights are quantized, as a config says it: a method and its options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from harness.config.fields import Real, Strict, Whole, method_name
from harness.config.methods import METHODS

__all__ = ["Quantization"]


class Quantization(Strict):
    """How a variant's weights are quantized, or what its checkpoint is."""

    method: Annotated[str, BeforeValidator(method_name)] = "none"
    """One of `harness.config.methods.METHODS`."""
    bits: Literal[1, 2, 3, 4, 8] | None = None
    """Bits per weight, where the method lets you choose."""
    group_size: Whole | None = Field(default=None, ge=8)
    """Weights that share one scale."""
    double_quant: bool | None = None
    """bitsandbytes 4-bit: quantize the scales too."""
    threshold: Real | None = Field(default=None, ge=0)
    """bitsandbytes int8: activations above it are computed in the compute dtype. 6.0 unless said."""
    skip_modules: tuple[str, ...] | None = None
    """Modules left alone, by name."""
    backend: str | None = None
    """The kernel family that loads a GPTQ or AWQ checkpoint; chosen for the device unless said."""
    gguf_file: str | None = None
    """The file inside the model directory; found unless there are several."""

    @model_validator(mode="after")
    def _options_fit_method(self) -> Quantization:
        given = {name for name, value in self.model_dump(exclude={"method"}).items() if value is not None}
        options = METHODS[self.method].options
        extra = sorted(given - options)
        if extra:
            takes = ", ".join(sorted(options)) or "no options"
            msg = f"{self.method} does not take {', '.join(extra)} (it takes {takes})"
            raise ValueError(msg)
        return self
