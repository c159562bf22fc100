"""Every quantization method: its options, what it needs, and what to say of it. Loads no library.

A new method is a record here, a loader in `harness.models.methods`, an extra in pyproject.toml if it needs a new
package, and a line in docs/backends.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """A distribution that a method needs."""

    name: str  # its name for pip
    module: str  # what is imported
    lowest: str  # the lowest version that works


@dataclass(frozen=True, slots=True)
class Method:
    """One quantization method."""

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


RUNTIME = (
    Package("torch", "torch", "2.11"),
    Package("transformers", "transformers", "5.17"),
    Package("accelerate", "accelerate", "1.10"),
)  # what every method needs

_BNB = (Package("bitsandbytes", "bitsandbytes", "0.48"),)
_TORCHAO = (Package("torchao", "torchao", "0.15"),)
_QUANTO = (Package("optimum-quanto", "optimum.quanto", "0.2.7"),)
_GPTQ = (Package("gptqmodel", "gptqmodel", "7.6"), Package("optimum", "optimum", "2.0"))
_SIZE_ONLY = "decompressed while loading: the answers are the method's, memory and speed are not"
_COMPILES = "compiles its unpacking once, with a C++ compiler (up to a minute)"
_SKIP = frozenset({"skip_modules"})
_MIXED = _SKIP | {"module_bits"}
_QUANTO_BITS = frozenset({2, 4, 8})

_ALL = (
    Method("none", 0.0),
    Method("bnb-int8", 0.1, _SKIP | {"threshold"}, _BNB, stored_as=("bnb-int8",),
           batch_invariant=False,  # LLM.int8 looks for outlier columns over the whole batch
           note="LLM.int8 answers depend on the batch: its batches are fixed"),
    Method("bnb-nf4", 0.6, _SKIP | {"double_quant"}, _BNB, stored_as=("bnb-nf4",)),
    Method("bnb-fp4", 0.6, _SKIP | {"double_quant"}, _BNB, stored_as=("bnb-fp4",)),
    Method("torchao-int8", 0.1, _SKIP, _TORCHAO, "torchao", stored_as=("int8weightonly",)),
    Method("torchao-int8-dynamic", 0.1, _SKIP, _TORCHAO, "torchao", stored_as=("int8dynamicactivationint8weight",)),
    Method("torchao-int4", 0.6, _MIXED | {"group_size"}, _TORCHAO, "torchao", capability=(8, 0),
           stored_as=("int4weightonly",), module_bits=frozenset({8})),
    Method("torchao-intx4", 0.6, _MIXED | {"group_size"}, _TORCHAO, "torchao",
           stored_as=("intxweightonly",), module_bits=frozenset({8}),
           note="int4 numerics, no int4 size: each weight is stored in a byte"),
    Method("torchao-float8", 0.25, _SKIP, _TORCHAO, "torchao", stored_as=("float8weightonly",)),
    Method("torchao-float8-dynamic", 0.25, _SKIP, _TORCHAO, "torchao", capability=(8, 9),
           stored_as=("float8dynamicactivationfloat8weight",),
           batch_invariant=False,  # one scale per tensor, taken over the whole batch
           note="one activation scale per batch: answers depend on the batch, its batches are fixed"),
    Method("quanto-int8", 0.1, _MIXED, _QUANTO, "quanto", module_bits=_QUANTO_BITS),
    Method("quanto-int4", 0.6, _MIXED, _QUANTO, "quanto", module_bits=_QUANTO_BITS, remark=_COMPILES),
    Method("quanto-int2", 1.6, _MIXED, _QUANTO, "quanto", module_bits=_QUANTO_BITS, remark=_COMPILES),
    Method("quanto-float8", 0.25, _SKIP, _QUANTO, "quanto"),
    Method("hqq", 0.6, _MIXED | {"bits", "group_size"}, (Package("hqq", "hqq", "0.2.8"),), "hqq",
           module_bits=frozenset({1, 2, 3, 4, 8})),
    Method("fp8", 0.25, _SKIP, (Package("kernels", "kernels", "0.11"),), capability=(8, 9), stored_as=("fp8",),
           extra="transformers[kernels]",  # transformers itself names the versions that it takes
           remark="fetches its CUDA kernel from the hub when it first runs"),
    Method("gptq", 0.6, frozenset({"backend"}), _GPTQ, "gptq", from_checkpoint=True, stored_as=("gptq",)),
    Method("auto-gptq", 0.6, frozenset({"backend"}), _GPTQ, "gptq", from_checkpoint=True, alias_of="gptq",
           remark="runs on GPTQModel, its maintained successor"),
    Method("awq", 0.6, frozenset({"backend"}), _GPTQ, "gptq", from_checkpoint=True, stored_as=("awq",)),
    Method("compressed-tensors", 0.6, packages=(Package("compressed-tensors", "compressed_tensors", "0.15"),),
           extra="compressed-tensors", from_checkpoint=True, stored_as=("compressed-tensors", "compressed_tensors"),
           remark=_SIZE_ONLY),
    Method("gguf", 0.6, frozenset({"gguf_file"}), (Package("gguf", "gguf", "0.17"),), from_checkpoint=True,
           remark=_SIZE_ONLY),
)  # fmt: skip

METHODS = {method.name: method for method in _ALL}  # every method by its name, in the order in which they are listed

# Everything that a method may compute with.
PACKAGES = tuple(dict.fromkeys([*RUNTIME, *(package for method in _ALL for package in method.packages)]))


def weights_format(name: str) -> str:
    """Return the method that a name stands for: AutoGPTQ's checkpoints are GPTQ's."""
    return METHODS[name].alias_of or name


def same_method(one: str, other: str) -> bool:
    """Whether two method names mean the same weights."""
    return weights_format(one) == weights_format(other)
