"""What a config may say: every field with its type, its bounds and its meaning."""

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator

from harness.config import fields
from harness.config.engines import EngineSpec, named
from harness.config.fields import Margin, Name, Real, Strict, TailTolerances, Whole
from harness.config.methods import METHODS
from harness.records import digest

# Names that a variant must not have, and how they must not end, because the run directory uses them; and of slices,
# which averages over all slices have, or a file beside its answers.
RESERVED = frozenset({"items", "shards", "control"})
RESERVED_ENDINGS = (".json", ".html", ".md", ".csv", ".parquet", ".xml", ".yaml")
RESERVED_SLICES = frozenset({"all", "all, by traffic", "timings"})
MOST_ITEMS = 1_000_000  # at most so many items, strata or combinations of levels in a slice: more is a slip of the pen
_BITS = {"quanto": (2, 4), "hqq": (1, 2, 3, 4, 8)}
Thinking = Literal["auto", "off"] | tuple[str, str]  # known marks, none, or what opens and closes a thought


class Quantization(Strict):
    """How a variant's weights are quantized, or what its checkpoint is."""

    later: ClassVar = ("module_bits",)
    method: fields.MethodName = "none"  # one of `harness.config.methods.METHODS`
    bits: fields.Bits | None = None  # bits per weight, where the method lets you choose
    group_size: Whole | None = Field(default=None, ge=8)  # weights that share one scale
    double_quant: bool | None = None  # bitsandbytes 4-bit: quantize the scales too
    threshold: Real | None = Field(default=None, ge=0)  # int8: larger activations stay in the compute dtype; 6.0
    skip_modules: tuple[str, ...] | None = None  # modules left alone, by name
    module_bits: dict[str, fields.Bits] | None = Field(default=None, min_length=1)
    """Glob over names of modules to their bits per weight; the last match wins."""
    backend: str | None = None  # kernels of a GPTQ or AWQ checkpoint; chosen for the device unless said
    gguf_file: str | None = None  # the file inside the model directory; found unless there are several

    @model_validator(mode="after")
    def _options_fit_method(self) -> Self:
        given = {name for name, value in self.model_dump(exclude={"method"}).items() if value is not None}
        if extra := sorted(given - METHODS[self.method].options):
            takes = ", ".join(sorted(METHODS[self.method].options)) or "no options"
            raise ValueError(f"{self.method} does not take {', '.join(extra)} (it takes {takes})")
        known = METHODS[self.method].module_bits
        if unknown := set((self.module_bits or {}).values()) - known:
            text = f"for single modules {self.method} has {', '.join(map(str, sorted(known)))} bits"
            raise ValueError(f"module_bits: {text}, and not {', '.join(map(str, sorted(unknown)))}")
        return self


class KVCache(Strict):
    """A quantized cache of keys and values (`transformers.QuantizedCache`)."""

    backend: Literal["quanto", "hqq"] = "quanto"  # what quantizes: optimum-quanto (2 or 4 bits per number), or hqq
    bits: fields.Bits = 4
    group_size: Whole = Field(default=64, ge=8)  # numbers that share one scale; at most the size of an attention head
    residual: Whole = Field(default=128, ge=1)  # newest tokens of an answer that are kept whole; the prompt never is

    @model_validator(mode="after")
    def _bits_fit_backend(self) -> Self:
        if self.bits not in _BITS[self.backend]:
            known = " or ".join(map(str, _BITS[self.backend]))
            raise ValueError(f"{self.backend} has no {self.bits} bits; it has {known}")
        return self


class Decoding(Strict):
    """The path to the tokens. In exact arithmetic every path gives the same greedy answers."""

    draft: str | None = None  # a smaller model that proposes tokens: a directory, a hub id or ``smollm2``
    prompt_lookup: Whole | None = Field(default=None, ge=1)  # propose so many tokens that followed the same words
    max_batch: Whole | None = Field(default=None, ge=1)  # largest batch, in rows; `execution.max_batch` by default
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = None  # `execution.attention` by default

    @model_validator(mode="after")
    def _something_said(self) -> Self:
        if all(value is None for value in self.model_dump().values()):
            raise ValueError("says nothing: give draft, prompt_lookup, max_batch or attention")
        if self.draft is not None and self.prompt_lookup is not None:
            raise ValueError("draft and prompt_lookup both propose tokens: give one of them")
        return self

    @property
    def assisted(self) -> bool:
        """Whether tokens are proposed and then checked."""
        return self.draft is not None or self.prompt_lookup is not None


class Variant(Strict):
    """A model at a precision. A candidate inherits what it does not say from the baseline."""

    later: ClassVar = ("engine", "kv_cache", "decoding")
    name: Name  # unique in the config; names the folder of its results
    model: str = ""  # a directory, a hub id, or ``smollm2`` for the model that the demo uses
    revision: str | None = None  # the commit of a hub model
    dtype: Literal["bfloat16", "float16", "float32"] | None = None  # of computing; only if it is not quantized
    quantization: Annotated[Quantization, BeforeValidator(lambda value: named(value, "method"))] = Quantization()
    engine: Annotated[EngineSpec, BeforeValidator(named)] = EngineSpec()
    kv_cache: KVCache | None = None  # a quantized cache of keys and values; the model's own by default
    decoding: Decoding | None = None  # another path to the tokens: drafts, batch size, attention
    trust_remote_code: bool = False  # run Python code that comes with the model
    allow_partial: bool = False  # judge it, not refuse it, if less than half of its weights are quantized

    def differs_only_in(self, other: Self, *fields: str) -> bool:
        """Whether two variants differ in these fields, their names aside, and in no other."""
        one, two = (variant.model_dump(exclude={"name", *fields}) for variant in (self, other))
        return one == two and any(getattr(self, field) != getattr(other, field) for field in fields)


class SliceSpec(Strict):
    """One slice of the suite: which tasks, how they are split, how many items, what drop is tolerated."""

    name: str  # a folder under tasks/, or an lm_eval task's own name
    label: Name | None = None  # what the report calls it; the name unless the same slice is used twice
    tasks: tuple[str, ...] = ()  # only these of the slice's tasks; all unless said
    axes: dict[str, tuple[str | int | float | bool, ...]] = Field(default_factory=dict)  # levels to make or keep
    split_by: tuple[str, ...] | None = None  # axes whose cells are strata; the slice's own unless said, ``[]`` for one
    items: Whole = Field(default=100, ge=1, le=MOST_ITEMS)  # items per stratum
    margin: Margin | None = None  # largest tolerated drop; `policy.margin` unless said
    gating: bool = True  # whether its strata decide the gate
    advisory: tuple[str, ...] = Field(default=(), validation_alias=AliasChoices("advisory", "informative"))
    """Globs over names of strata that are shown but do not decide; ``informative`` in old configs."""
    public_range: fields.Range | None = None  # mean scores that others report; a baseline below them is called out
    tail_events: TailTolerances | None = None  # in place of the policy's; they gate even if scores do not
    data_dir: str | None = None  # local files to read instead of the hub
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)  # more of its generator

    @property
    def key(self) -> str:
        """What the results call it."""
        return self.label or self.name


class Policy(Strict):
    """What the gate demands."""

    later: ClassVar = ("pooled_margin", "spending", "advisory", "quantities", "latency")
    alpha: Annotated[Real, Field(gt=0, le=0.2)] = 0.05  # the chance of a wrong pass, and of a wrong fail, per candidate
    margin: Margin = 0.02  # largest tolerated drop where neither the slice nor `margins` says otherwise
    margins: dict[str, Margin] = Field(default_factory=dict)  # glob over ``slice/stratum``; the last match wins
    tail_events: TailTolerances = Field(default_factory=dict)  # tolerances in gating strata; other kinds are shown
    quantities: fields.RatioTolerances = Field(default_factory=dict)  # tolerated ratios to the baseline's
    latency: dict[fields.LatencyKind, Annotated[Real, Field(gt=0, le=60)]] = Field(default_factory=dict)
    """Seconds to the first token, or for each token after it, from which a streamed answer is late; how many may be
    late is a tolerance in `tail_events`."""
    inconclusive: Literal["hold", "fail"] = "hold"  # ``hold`` ends in exit code 3, ``fail`` in 1. Neither passes
    refuse_hopeless: bool = True  # refuse at plan time a gating stratum that is too small to ever pass
    effective_score: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Score that the effective level asks for; 0.85 of the baseline's score at the shortest level unless said."""
    chance_alpha: Real = Field(default=0.05, gt=0, le=0.2, validation_alias=AliasChoices("chance_alpha", "floor_alpha"))
    """Of the test against chance plus margin; ``floor_alpha`` in old configs."""
    discordance: Annotated[Real, Field(gt=0, lt=1)] = 0.1  # share of items that flip; for planning only
    pooled_margin: fields.Share | None = None  # over all gating strata, by traffic, besides each one's own margin
    spending: fields.SpendingName = "obrien-fleming"
    """With looks, what each may spend of alpha: ``obrien-fleming``, ``hwang-shih-decani:GAMMA`` or ``power:RHO``."""
    advisory: tuple[str, ...] = ()  # globs over ``slice/stratum`` that are shown but do not decide

    @field_validator("latency")
    @classmethod
    def _in_seconds(cls, value: dict[str, float]) -> dict[str, float]:
        if value.get("slow_tokens", 0.0) > 5.0:  # noqa: PLR2004 - more was meant as milliseconds
            raise ValueError("slow_tokens: seconds for each further token, such as 0.1, and at most 5")
        return value


class ThinkingMarks(Strict):
    """What opens and closes a block of thinking."""

    start: str = Field(min_length=1)
    end: str = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        if self.start == self.end or not (self.start.strip() and self.end.strip()):
            raise ValueError("start and end must be two different marks, with more than white space")
        return self


class Sampling(Strict):
    """How answers are sampled: one for all variants."""

    temperature: Real = Field(default=0.0, ge=0, le=2)  # 0 is greedy
    top_p: Real = Field(default=1.0, gt=0, le=1)
    samples: Whole = Field(default=1, ge=1, le=64)  # answers per item; the score is their mean
    chat_template: bool | Literal["auto"] = "auto"  # ``auto``: used where the baseline's tokenizer has one
    system: str | None = None  # system message, with a chat template only
    thinking: Literal["auto", "off"] | ThinkingMarks = "auto"
    """Blocks of thinking that are not scored: by the marks of the known model families, none, or by your own."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)  # for all variants: ``enable_thinking: false``
    clock: datetime = datetime(2025, 1, 1, 12)  # noqa: DTZ001 - local time, as templates read it
    """The time that chat templates read: one for all prompts, so that a run can be continued on another day."""

    @field_validator("thinking", mode="before")
    @classmethod
    def _said_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @property
    def marks(self) -> Thinking:
        """The setting as `harness.suite.toolkit.thinking.split` takes it."""
        one = self.thinking
        return (one.start, one.end) if isinstance(one, ThinkingMarks) else one

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_taken(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({*fields.ARGUMENTS["chat_template"]} & set(value)):
            raise ValueError(f"{', '.join(taken)}: set by quantcliff itself; leave it out")
        return value


class Rehearsal(Strict):
    """Answers made up without a model, to try a config, a cluster and a gate out before any GPU time."""

    accuracy: Annotated[Real, Field(ge=0, le=1)] = 0.8  # share of the items that the baseline gets right
    lost: dict[str, Annotated[Real, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """``candidate``, ``candidate/slice`` or ``candidate/slice/stratum`` to the share of all items that it loses."""
    seconds_per_item: Real = Field(default=0.0, ge=0)  # how long an answer takes
    wrong: str = "I do not know."  # a wrong free-text answer; ``""`` is an empty answer, a tail event


class Execution(Strict):
    """Where and how the models run: one for all variants."""

    later: ClassVar = ("cross_engine", "layers", "stop_on_fail", "unit_tokens")
    device: str = "auto"  # ``cpu``, ``cuda:1`` ...; ``cuda:all`` or ``cuda:0,cuda:1`` spread each model over several
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Compute dtype of every variant: two variants at two dtypes differ by the dtype. ``auto``: bfloat16 if the device
    computes it natively, else float32; settled when the run is planned, and kept when it is continued."""
    batch_tokens: Whole = Field(default=16384, ge=16)
    """Largest batch, in padded tokens of prompt and answer; a quarter more where that spares a round of few answers."""
    max_batch: Whole = Field(default=64, ge=1)  # largest batch, in rows
    unit_items: Whole = Field(default=32, ge=1)  # items in a work unit: what a kill can cost at most
    unit_tokens: Whole | None = Field(default=None, ge=1)  # most tokens in a unit, longest answers included
    threads: Whole | None = Field(default=None, ge=1)  # unless said, all that are allowed, or one if that is faster
    looks: fields.Looks = Field(default=1, ge=1, le=20)  # above 1, decided strata stop receiving items
    stop_on_fail: bool = False  # with looks, ask a candidate nothing more once it has failed
    control: fields.ShareOfItems = True
    """Run the baseline once more with other batch sizes: the A/A control. A share such as 0.25 asks it that part of
    each stratum's items."""
    skip_blind: bool = False
    """Do not ask control and candidates the items of strata in which the baseline shows no signal: these strata end as
    ``no_signal`` in any case. Strata with a tolerance of tail events are always asked."""
    layers: fields.Layers | None = None
    """Ask all but the baseline fewer of the choices of which it was sure: ``{unsure: 0.3, sure_share: 0.36}``."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    divergence: bool = False  # measure token by token how far probabilities are from the baseline's; it costs time
    divergence_tokens: Whole = Field(default=256, ge=1)  # first tokens of each answer that it is measured on
    divergence_gib: Real = Field(default=8.0, gt=0)  # most disk for the baseline's traces until the run ends
    rehearsal: Rehearsal | None = None  # where given, no model is loaded and answers are made up
    cross_engine: bool = False
    """Compare variants that different engines, versions, dtypes or flags serve: what the report then measures is the
    change of engine as well."""


class Experiment(Strict):
    """A whole config file."""

    name: Name  # names the run directory
    description: str = ""  # a sentence for the report
    baseline: Variant
    candidates: tuple[Variant, ...] = Field(min_length=1)
    slices: tuple[SliceSpec, ...] = Field(min_length=1)
    policy: Policy = Policy()
    sampling: Sampling = Sampling()
    execution: Execution = Execution()
    seed: Whole = Field(default=0, ge=0)  # root of every random choice
    output: str = "results"  # where run directories are made
    notes: tuple[str, ...] = ()  # sentences that the report must show, such as what the reference really is
    store_text: Literal["full", "redacted", "none"] = "full"  # what of texts is kept: all, all but personal data, none
    track: dict[Literal["mlflow", "trackio", "wandb"], str] = Field(default_factory=dict)
    """Experiment tracker to the place that a judged run is sent to, see `harness.report.trackers`; none by default."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The baseline, then the candidates."""
        return (self.baseline, *self.candidates)

    def compute_dtype(self, variant: Variant) -> str:
        """The dtype that a variant computes in: its own, the run's or the baseline's; ``auto``: the device's."""
        common = self.baseline.dtype if self.execution.dtype == "auto" else self.execution.dtype
        return variant.dtype or common or "auto"

    def digest(self) -> str:
        """Identify everything that decides a result; where results are put and what texts are kept does not."""
        return digest(self.model_dump(mode="json", exclude={"output", "description", "store_text", "track"}))


class Cut(Experiment):
    """What `--only` or `--limit` leaves of an experiment: patterns of its policy may match what was left out."""
