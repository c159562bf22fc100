"""A model's output head: hidden states to logits, in the model's own rounding or in full float32, in bounded memory."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TILE_ELEMENTS = 1 << 24  # logits in memory at once: 64 MiB of float32
CUDA_TILES = 8  # times larger a tile is on a GPU: its weights are converted to the wider type once for each tile


def tile_elements(device: torch.device, elements: int = TILE_ELEMENTS) -> int:
    """Return the numbers that a tile on this device may hold, if it may hold so many on a CPU."""
    return elements * (CUDA_TILES if device.type == "cuda" else 1)


class Head:
    """A head and the cap on its logits, if any; `module` is None if hidden states are logits already."""

    def __init__(self, module: Any, softcap: float | None, vocabulary: int) -> None:
        self._module, self.softcap, self.vocabulary = module, softcap, vocabulary
        weight = getattr(module, "weight", None)
        # Quantized heads are used as they are: their layer is another class, or their weight is.
        plain = type(module) is torch.nn.Linear and type(weight) is torch.nn.Parameter and not weight.is_meta
        self._weight: Tensor | None = weight if plain else None
        self._bias: Tensor | None = module.bias if plain else None

    @classmethod
    def of(cls, weights: dict[str, Tensor], softcap: float | None) -> "Head":
        """Return the head that has these weights: what `weights` gave, on the device where it is to compute."""
        rows, width = weights["weight"].shape
        module = torch.nn.Linear(width, rows, bias="bias" in weights, device="meta").requires_grad_(requires_grad=False)
        module.load_state_dict(weights, assign=True)
        return cls(module, softcap, rows)

    def weights(self) -> dict[str, Tensor]:
        """Return the head's weights by name, on the CPU; empty if they cannot be read."""
        named = {"weight": self._weight, "bias": self._bias}
        return {name: one.detach().cpu().contiguous() for name, one in named.items() if one is not None}

    @property
    def linear(self) -> bool:
        """Whether the logits of a difference of hidden states are the difference of their logits."""
        return self._module is None or (self._weight is not None and self.softcap is None)

    def digest(self) -> str:
        """Identify what the head computes, by its weights; its own for every head whose weights cannot be read."""
        if self._weight is None:
            return f"head-{id(self)}"
        found = hashlib.sha256(f"{self.softcap} {tuple(self._weight.shape)} {self._weight.dtype}".encode())
        for part in self.weights().values():
            found.update(part.view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def rounded(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [n, vocabulary] of hidden states [n, width], as the model rounds them."""
        if self._module is None:
            return hidden.float()
        weight = getattr(self._module, "weight", None)
        if weight is not None and weight.is_floating_point():
            hidden = hidden.to(weight.dtype)  # some models norm in float32 and hand over in the head's type
        with torch.inference_mode():
            return self._capped(self._module(hidden).float())

    def precise(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [n, vocabulary] summed in float32: bf16 ones are 0.125 apart from 16 on, and tie."""
        if self._weight is None or self._weight.dtype == torch.float32:
            return self.rounded(hidden)
        return self._capped(self._product(hidden, torch.float32, self._weight, self._bias))

    def exact(self, hidden: Tensor) -> Tensor:
        """Return float64 logits [n, vocabulary], if the head's weights can be read; else those of `rounded`."""
        if self._weight is None:
            return self.rounded(hidden).double()
        return self._capped(self._product(hidden, torch.float64, self._weight, self._bias))

    def change(self, difference: Tensor) -> Tensor:
        """Return how float32 logits change with hidden states, [n, vocabulary] of [n, width]; for `linear` heads."""
        if self._weight is None:
            return difference.float()
        return self._product(difference, torch.float32, self._weight, None)

    def tiles(self, hidden: Tensor, *, precise: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """Return the logits of n positions some rows at a time, so that [n, vocabulary] never exists."""
        step = max(1, tile_elements(hidden.device) // self.vocabulary)
        for start in range(0, hidden.shape[0], step):
            rows = slice(start, min(start + step, hidden.shape[0]))
            yield rows, self.precise(hidden[rows]) if precise else self.rounded(hidden[rows])

    @staticmethod
    def _product(hidden: Tensor, dtype: torch.dtype, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply weights in a wider type, converted a stretch of the vocabulary at a time."""
        wide = hidden.to(dtype)
        with torch.inference_mode():
            logits = torch.empty((hidden.shape[0], weight.shape[0]), dtype=dtype, device=hidden.device)
            step = max(1, tile_elements(weight.device) // weight.shape[1])
            for start in range(0, weight.shape[0], step):
                part = slice(start, start + step)
                own = None if bias is None else bias[part].to(dtype)
                logits[:, part] = functional.linear(wide, weight[part].to(dtype), own)
        return logits

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
