"""One way to load per quantization method: from a folder to a model, in one compute dtype, on one device."""

import contextlib
import fnmatch
import io
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.quantizers.quantizers_utils import should_convert_module

from harness.config.methods import METHODS, weights_format
from harness.errors import ModelError
from harness.models.audit import linear_modules
from harness.models.backends import release_quanto_lock
from harness.models.completeness import check_complete, conversions_named
from harness.models.formats import Request, view

_INT4: Any = vars(torch)["int4"]  # torch has it, its type stubs do not
_FAST_BITS, _FAST_GROUPS = 4, frozenset({32, 64, 128, 256})  # what torch's 4-bit CPU kernel takes
GPTQMODEL_ENVIRONMENT = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1"}
"""What GPTQModel has to find when it is first imported and run: two CPU workers, or it refuses machines of one or two
cores; no torch.compile, which takes 9 to 27 s at the first answer for 2, 3 and 8 bit."""
LOADERS: dict[str, Callable[[Request], Any]] = {}  # method to the function that loads it, filled by `_loads`


def load_model(request: Request) -> Any:
    """Load the model of `request`, quantized. Whatever the library raises passes through."""
    if request.method not in LOADERS:
        places = "a record in harness/config/methods.toml and no loader in harness/models/methods.py"
        raise ModelError(f"{request.method} has {places}")
    return LOADERS[request.method](request)


def _loads(*names: str) -> Callable[[Any], Any]:
    def register(loader: Any) -> Any:
        LOADERS.update(dict.fromkeys(names, loader))
        return loader

    return register


@_loads("none", "compressed-tensors")
def _from_pretrained(request: Request, folder: Path | None = None, **more: Any) -> Any:
    """Load by transformers, on one device or spread evenly over several GPUs, and check that the load was complete."""
    more["device_map"], devices = {"": request.device}, request.device.split(",")
    if len(devices) > 1:
        more["max_memory"] = {torch.device(one).index: torch.cuda.mem_get_info(one)[0] for one in devices}
        more["device_map"] = "balanced"
    if request.attention != "auto":
        more["attn_implementation"] = request.attention
    more |= {"dtype": request.dtype, "trust_remote_code": request.trust_remote_code}
    more |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported, and then refused with the names
    with conversions_named(request):
        model, found = transformers.AutoModelForCausalLM.from_pretrained(str(folder or request.folder), **more)
    check_complete(found, request, model)
    outside = {str(one) for one in getattr(model, "hf_device_map", {}).values()} & {"cpu", "disk", "meta"}
    if outside and request.device != "cpu":  # that part would be copied to the device at every pass
        raise ModelError(f"{request.folder}: does not fit into the memory of {request.device}: give it more devices")
    return model


def _quantized(request: Request, config: Any) -> Any:
    """Load by a quantization config of transformers; weights that are stored quantized by their own."""
    if request.stored.method == "none":
        return _from_pretrained(request, quantization_config=config)
    own, options = request.stored.config, request.options
    kept = own.get("llm_int8_skip_modules") or own.get("modules_to_not_convert") or ()
    stored = {"threshold": own.get("llm_int8_threshold", 6.0), "double_quant": own.get("bnb_4bit_use_double_quant")}
    odd = [name for name, value in stored.items() if getattr(options, name) not in {None, value or 0}]
    odd += ["skip_modules"] * bool({*(options.skip_modules or ())} - {*kept, "lm_head"})
    if odd:
        text = f"is quantized already, otherwise than {' and '.join(odd)} of the config"
        raise ModelError(f"{request.folder}: {text}, which cannot change that: leave it out, or give the plain model")
    return _from_pretrained(request)


def _skipped(request: Request, ending: str = "") -> list[str] | None:
    """The head is left alone by default, and has to be named again as soon as anything else is.

    Modules with bits of their own are left alone at first, and quantized when the others are. ending: of all names.
    """
    own, mixed = request.options.skip_modules or (), request.options.module_bits or ()
    names = [*(f"{one}{ending}" for one in ("lm_head", *own)), *(fnmatch.translate(f"{one}{ending}") for one in mixed)]
    return names if own or mixed else None


def module_bits(model: Any, request: Request) -> dict[str, int]:
    """Return the modules that `module_bits` names, with their bits; the head and skipped ones are left out.

    Raises `ModelError` for a name in it, or in `skip_modules`, of nothing there, and for weights stored quantized.
    """
    for one in request.options.skip_modules or ():
        if all(should_convert_module(name, [one]) for name, _ in model.named_modules()):
            raise ModelError(f"skip_modules: {one!r} is the name of no module of {request.folder}: nothing is skipped")
    wanted, head = request.options.module_bits or {}, model.get_output_embeddings()
    if wanted and request.stored.method != "none":
        raise ModelError(f"{request.folder}: is quantized already, and module_bits cannot change that: leave it out")
    found: dict[str, int] = {}
    names = [name for name, module in linear_modules(model) if module is not head]
    for pattern, bits in wanted.items():
        own = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not own:
            known = f"of {request.folder}, such as {names[0]}: write its name, or a glob such as *.v_proj"
            raise ModelError(f"module_bits: {pattern!r} is the name of no linear module {known}")
        found |= dict.fromkeys(own, bits)
    return {name: bits for name, bits in found.items() if should_convert_module(name, request.options.skip_modules)}


@_loads("bnb-int8")
def _bnb_int8(request: Request) -> Any:
    threshold = 6.0 if request.options.threshold is None else request.options.threshold
    how = {"llm_int8_threshold": threshold, "llm_int8_skip_modules": _skipped(request)}
    return _quantized(request, transformers.BitsAndBytesConfig(load_in_8bit=True, **how))


@_loads("bnb-nf4", "bnb-fp4")
def _bnb_4bit(request: Request) -> Any:
    how = {"bnb_4bit_quant_type": request.method.removeprefix("bnb-"), "bnb_4bit_compute_dtype": request.dtype}
    how |= {"bnb_4bit_use_double_quant": bool(request.options.double_quant), "llm_int8_skip_modules": _skipped(request)}
    model = _quantized(request, transformers.BitsAndBytesConfig(load_in_4bit=True, **how))
    for module in (one for one in model.modules() if type(one).__name__ == "Linear4bit"):
        # bitsandbytes' kernel for AVX512-BF16 rounds the scales to bf16, which no GPU does, and reads prompts five
        # times as slowly as unpacking the weights for each pass, which is what GPUs do with more than one row.
        module.support_avx512bf16_for_cpu = False
        if request.stored.method != "none":  # its config may name another compute dtype than the run's
            module.compute_dtype, module.compute_type_is_set = request.dtype, True
    return model


@_loads(*(name for name in METHODS if name.startswith("torchao-")))
def _torchao(request: Request) -> Any:
    from torchao import quantization as ao

    size = request.options.group_size
    makers: dict[str, Callable[[], Any]] = {
        "torchao-int8": ao.Int8WeightOnlyConfig,
        "torchao-int8-dynamic": ao.Int8DynamicActivationInt8WeightConfig,
        # The layout that torch's own CUDA kernel reads; the default one wants a further package.
        "torchao-int4": lambda: ao.Int4WeightOnlyConfig(size or 128, int4_packing_format="tile_packed_to_4d"),
        "torchao-intx4": lambda: ao.IntxWeightOnlyConfig(_INT4, ao.PerGroup(size or 32)),
        "torchao-float8": ao.Float8WeightOnlyConfig,
        "torchao-float8-dynamic": ao.Float8DynamicActivationFloat8WeightConfig,
    }
    # Compared with the names of weights, of which a module's name is a beginning and never an end.
    skipped = [*(_skipped(request) or ()), *(_skipped(request, ".weight") or ())] or None
    model = _quantized(request, transformers.TorchAoConfig(makers[request.method](), skipped))
    if mixed := module_bits(model, request):
        ao.quantize_(model, ao.Int8WeightOnlyConfig(), filter_fn=lambda _module, name: name in mixed)
    return model


@_loads("quanto-int8", "quanto-int4", "quanto-int2", "quanto-float8")
def _quanto(request: Request) -> Any:
    release_quanto_lock()
    from optimum import quanto

    weights = request.method.removeprefix("quanto-")
    config = transformers.QuantoConfig(weights=weights, modules_to_not_convert=_skipped(request))
    model = _from_pretrained(request, quantization_config=config)
    for name, bits in module_bits(model, request).items():
        quanto.quantize(model, weights=f"qint{bits}", include=[name])
        model.get_submodule(name).freeze()
    for module in (one for one in model.modules() if type(one).__name__ == "QLinear"):
        # Without gradients, but not in inference mode: quanto's unpacking of 4 and 2 bits fails there.
        module.forward = torch.inference_mode(mode=False)(torch.no_grad()(module.forward))
    return model


@_loads("hqq")
def _hqq(request: Request) -> Any:
    """By its own library: transformers says that HQQ "is not available yet"."""
    if "," in request.device:
        raise ModelError("hqq quantizes a model on one device: give execution.device one, or leave the variant out")
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
    from hqq.models.hf.base import AutoHQQHFModel

    model, skipped = _from_pretrained(request), request.options.skip_modules
    size, place = request.options.group_size or 64, {"compute_dtype": request.dtype, "device": request.device}
    mixed = module_bits(model, request)
    names = (name for name, _ in linear_modules(model))  # which it takes for all layers or for none
    kept = (name for name in names if name in mixed or not should_convert_module(name, skipped))
    apart = {name: model.get_submodule(name) for name in kept}
    for name in apart:
        model.set_submodule(name, torch.nn.Identity())
    options = BaseQuantizeConfig(nbits=request.options.bits or 4, group_size=size)
    AutoHQQHFModel.quantize_model(model, quant_config=options, **place)
    for name, module in apart.items():
        own = BaseQuantizeConfig(nbits=mixed[name], group_size=size) if name in mixed else None
        model.set_submodule(name, module if own is None else HQQLinear(module, own, **place))
    return model


@_loads("fp8")
def _fp8(request: Request) -> Any:
    return _quantized(request, transformers.FineGrainedFP8Config(modules_to_not_convert=_skipped(request)))


@_loads("gptq", "auto-gptq")
def _gptq(request: Request) -> Any:
    bits, backend = request.stored.bits or 4, request.options.backend or _torch_kernel_if_needed(request)
    more = {"quantization_config": transformers.GPTQConfig(bits=bits, backend=backend)} if backend else {}
    with _gptqmodel_environment(), view(request.folder, request.stored) as folder:
        return _from_pretrained(request, folder, **more)


@_loads("awq")
def _awq(request: Request) -> Any:
    from transformers.quantizers.quantizer_awq import AwqQuantizer

    backend = request.options.backend
    more = {"quantization_config": transformers.AwqConfig(backend=backend)} if backend else {}
    # On CUDA transformers turns bfloat16 into float16 for AWQ, and every variant computes in one dtype. A kernel that
    # cannot says so at the first answer, which loading asks for.
    original, AwqQuantizer.update_dtype = AwqQuantizer.update_dtype, lambda _self, dtype: dtype
    try:
        with _gptqmodel_environment():
            return _from_pretrained(request, **more)
    finally:
        AwqQuantizer.update_dtype = original


def _torch_kernel_if_needed(request: Request) -> str | None:
    """The plain kernel, if the fast CPU kernel would fail, whose groups have to divide the columns."""
    size = request.stored.group_size
    if not request.device.startswith("cpu") or request.stored.bits != _FAST_BITS:
        return None
    # 4-bit weights lie eight to an int32 along the columns.
    columns = {header.shape[0] * 8 for name, header in request.tensors.items() if name.endswith(".qweight")}
    return None if size in _FAST_GROUPS and all(count % size == 0 for count in columns) else "gptq_torch"


@contextlib.contextmanager
def _gptqmodel_environment() -> Iterator[None]:
    """Within it, `GPTQMODEL_ENVIRONMENT` is set, but for what the user has set."""
    added = {name: value for name, value in GPTQMODEL_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # what its own log writes past its level
            from logbar import LogBar  # type: ignore[import-untyped]

            LogBar.shared().setLevel(logging.ERROR)
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@_loads("gguf")
def _gguf(request: Request) -> Any:
    config = transformers.GgufConfig(dequantize=True)
    return _from_pretrained(request, gguf_file=request.stored.gguf_file, quantization_config=config)


def notes_of(request: Request) -> list[str]:
    """What a reader of the report needs to know of a method, apart from what the model shows."""
    wanted, notes = request.options.method, []
    if wanted == "none" and request.method != "none":
        notes.append(f"its own config says that it is {request.method}")
    if wanted == "auto-gptq" or request.stored.autogptq:
        layout = ", from AutoGPTQ's own layout" if request.stored.autogptq else ""
        notes.append(f"auto-gptq runs on GPTQModel, its maintained successor{layout}")
    note = METHODS[request.method].note
    if note and not (request.method == "bnb-int8" and request.options.threshold == 0):
        notes.append(note)
    if weights_format(request.method) == "gptq" and not request.options.backend and _torch_kernel_if_needed(request):
        notes.append(f"groups of {request.stored.group_size} do not suit the fast CPU kernel: it runs on the plain one")
    return notes
