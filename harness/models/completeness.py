"""Whether a load was complete: transformers fills a place without tensor at random, and drops a tensor without one."""

import contextlib
import logging
import logging.handlers
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from safetensors import safe_open

from harness.errors import ModelError
from harness.models.audit import linear_modules, matrix_sizes
from harness.models.formats import Request, weight_files

_SHOWN = 4  # names in a message, of each kind
# Constants that older releases stored with the weights and that today's models compute.
_CONSTANTS = re.compile(r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids)$")
_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def check_complete(found: Mapping[str, Iterable[Any]], request: Request, model: Any) -> None:
    """Raise `ModelError` with the tensors' names unless a load was complete; found: its ``output_loading_info``.

    Biases of zero (AutoGPTQ writes one for every layer) and layers that only predict tokens further ahead may be left.
    """
    unexpected = {name for name in found["unexpected_keys"] if not _harmless(name, model.config)}
    unexpected -= _zero_biases(unexpected, request)
    shapes = {name: f"{name} {list(has)} for {list(wants)}" for name, has, wants in found["mismatched_keys"]}
    flipped = hasattr(sys.modules[type(model).__module__], "Conv1D")  # GPT-2 and its kin store matrices transposed
    if request.stored.method == "none":  # transformers does not look at the shapes of what it then quantizes
        for module_name, module in linear_modules(model):
            name, sizes = f"{module_name}.weight", matrix_sizes(module)
            wants = sizes if flipped and module is not model.get_output_embeddings() else sizes[::-1]
            header = request.tensors.get(name)
            if header is not None and header.shape != wants:
                shapes.setdefault(name, f"{name} {list(header.shape)} for {list(wants)}")
    if request.stored.gguf_file:
        unexpected |= _left_in_gguf(request, model)
    own, head = (getattr(one, "weight", one) for one in (model.get_input_embeddings(), model.get_output_embeddings()))
    tied = getattr(model.config, "tie_word_embeddings", False) and own is not head and head is not None
    # transformers takes it all the same, and servers do not; a packed one is of another type than the embeddings.
    if tied and not (type(own) is type(head) and torch.equal(own, head.to(own.device))):
        unexpected.add("a head of its own, though tie_word_embeddings is true")
    kinds = {"not in the checkpoint": found["missing_keys"], "in the checkpoint and not in the model": unexpected}
    _refuse(request, kinds | {"of another shape than the model's": shapes.values()})


def _harmless(name: str, config: Any) -> bool:
    """Whether a tensor is a constant, or belongs to a layer that only speculative decoding uses."""
    text, layer = config.get_text_config(), _LAYER.search(name)
    ahead = int(getattr(text, "num_nextn_predict_layers", None) or 0)
    return (layer is not None and 0 <= int(layer[1]) - text.num_hidden_layers < ahead) or bool(_CONSTANTS.search(name))


def _zero_biases(names: Iterable[str], request: Request) -> set[str]:
    biases = {name for name in names if name.endswith(".bias")}
    zero: set[str] = set()
    for file in weight_files(request.folder, request.stored) if biases else ():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                zero |= {name for name in biases & set(tensors.keys()) if not bool(tensors.get_tensor(name).any())}
        elif file.suffix == ".bin":
            held = torch.load(file, map_location="cpu", weights_only=True)
            zero |= {name for name in biases & set(held) if not bool(held[name].any())}
    return zero


def _left_in_gguf(request: Request, model: Any) -> set[str]:
    """Tensors of a GGUF file that transformers passed over without a word: the names that its table lacks."""
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

    tensors = {tensor.name: tensor for tensor in GGUFReader(str(request.folder / request.stored.gguf_file)).tensors}
    rotary = {name for name in tensors if name.startswith("rope_")}
    # ``rope_freqs`` holds divisors of the rotary frequencies, which it does not apply; ones change nothing.
    left = {name for name in rotary if bool((tensors[name].data != 1).any())}
    count = sum(int(tensor.n_elements) for name, tensor in tensors.items() if name not in rotary)
    if count > sum(parameter.numel() for parameter in model.parameters()):
        known = get_gguf_hf_weights_map(model, TensorProcessor(config=model.config.to_dict()))
        left |= set(tensors) - rotary - set(known)
    return left


def _refuse(request: Request, kinds: Mapping[str, Iterable[str]]) -> None:
    reasons = []
    for what, names in kinds.items():
        if listed := sorted(names):
            more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
            reasons.append(f"{what}: {', '.join(listed[:_SHOWN])}{more}")
    if reasons:
        said = "the checkpoint does not hold the weights of the model that its config.json describes"
        raise ModelError(f"{request.folder}: {said} ({'; '.join(reasons)}): fetch or make it again")


@contextlib.contextmanager
def conversions_named(request: Request) -> Iterator[None]:
    """Within it, a failed conversion of weights names its tensors; transformers says which only in its log."""
    logger, lines = logging.getLogger("transformers.modeling_utils"), logging.handlers.BufferingHandler(1 << 16)
    level, logger.propagate = logger.level, False
    logger.setLevel(logging.WARNING)
    logger.addHandler(lines)
    try:
        yield
    except RuntimeError:
        said = "\n".join(record.getMessage() for record in lines.buffer)
        _refuse(request, {"not whole": re.findall(r"^(\S.*?) +\| CONVERSION", said, re.MULTILINE)})
        raise
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)
        logger.propagate = True
