"""What a config may say: every field with its type, its bounds and its meaning.

It does not know files, nor whether a method works on this machine,
whether a model exists, or what a slice's task files hold.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator

from harness.config.decoding import Decoding, KVCache
from harness.config.engines import EngineSpec, named_engine
from harness.config.fields import (
    LatencyKind,
    Margin,
    Name,
    RatioTolerances,
    Real,
    Share,
    Strict,
    TailTolerances,
    Whole,
    looks_field,
    range_field,
    share_field,
    spending_field,
    suggestion,
)
from harness.config.quantization import Quantization
from harness.records import digest

__all__ = [
    "MOST_ITEMS",
    "RESERVED",
    "RESERVED_ENDINGS",
    "RESERVED_SLICES",
    "Execution",
    "Experiment",
    "Policy",
    "Quantization",
    "Rehearsal",
    "Sampling",
    "SliceSpec",
    "Variant",
    "suggestion",
]

RESERVED = frozenset({"items", "shards", "control"})
"""Names that a variant must not have, because the run directory uses them."""

RESERVED_ENDINGS = (".json", ".html", ".md", ".csv", ".parquet", ".xml", ".yaml")
"""How the name of a variant must not end, because files of the run directory do."""

RESERVED_SLICES = frozenset({"all", "all, by traffic", "timings"})
"""Names that a slice must not have: averages over all slices have them, or a file beside its answers."""

MOST_ITEMS = 1_000_000
"""At most so many items, strata or combinations of levels in a slice: more is a slip of the pen."""

RENAMED = {"slices": {"informative": "advisory"}, "policy": {"floor_alpha": "chance_alpha"}}
"""Section to old key to new key: old keys are read, with a notice."""


def _quantization(value: object) -> object:
    return {"method": value} if isinstance(value, str) else value


class Variant(Strict):
    """A model at a precision. A candidate inherits what it does not say from the baseline."""

    name: Name
    """Unique in the config; names the folder of its results."""
    model: str = ""
    """A directory, a hub id, or ``smollm2`` for the model that the demo uses."""
    revision: str | None = None
    """The commit of a hub model."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Compute dtype; `execution.dtype` unless said, and then only for a variant that is not quantized."""
    quantization: Annotated[Quantization, BeforeValidator(_quantization)] = Quantization()
    """A method's name alone, or the method with its options."""
    engine: Annotated[EngineSpec, BeforeValidator(named_engine)] = EngineSpec()
    """What answers: an engine's name alone, or the engine with its options."""
    kv_cache: KVCache | None = None
    """A quantized cache of keys and values while answers grow; the model's own by default."""
    decoding: Decoding | None = None
    """Another path to the tokens: drafts, batch size, attention."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    allow_partial: bool = False
    """Judge a candidate of whose weights less than half are quantized, instead of refusing it."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        """Leave out defaults of keys that came later, so that a config from before them keeps its digest."""
        data: dict[str, Any] = handler(self)
        given = {"engine": self.engine.served, "kv_cache": self.kv_cache, "decoding": self.decoding}
        return {key: value for key, value in data.items() if given.get(key, True)}

    def differs_only_in(self, other: Variant, *fields: str) -> bool:
        """Whether two variants differ in these fields, their names aside, and in no other."""
        skipped = {"name", *fields}
        return self.model_dump(exclude=skipped) == other.model_dump(exclude=skipped) and any(
            getattr(self, field) != getattr(other, field) for field in fields
        )


class SliceSpec(Strict):
    """One slice of the suite: which tasks, how they are split, how many items, what drop is tolerated."""

    name: str
    """A folder under tasks/, or an lm_eval task's own name."""
    label: Name | None = None
    """What the report calls it; the name unless the same slice is used twice."""
    tasks: tuple[str, ...] = ()
    """Only these of the slice's tasks; all unless said."""
    axes: dict[str, tuple[str | int | float | bool, ...]] = Field(default_factory=dict)
    """Axis to the levels to make or keep."""
    split_by: tuple[str, ...] | None = None
    """The axes whose cells are strata; the slice's own choice unless said, ``[]`` for one stratum."""
    items: Whole = Field(default=100, ge=1, le=MOST_ITEMS)
    """Items per stratum."""
    margin: Margin | None = None
    """Largest tolerated drop; `policy.margin` unless said."""
    gating: bool = True
    """Whether its strata decide the gate."""
    advisory: tuple[str, ...] = ()
    """Strata (glob patterns over their names) that are shown but do not decide."""
    public_range: Annotated[tuple[float, float], BeforeValidator(range_field)] | None = None
    """Lowest and highest mean score that others report for the baseline; one below it is called out, not passed."""
    tail_events: TailTolerances | None = None
    """Tolerances that replace the policy's here; they gate, also if the slice's scores do not."""
    data_dir: str | None = None
    """Local files to read instead of the hub."""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Further parameters of the slice's generator."""

    @property
    def key(self) -> str:
        """What the results call it."""
        return self.label or self.name


class Policy(Strict):
    """What the gate demands."""

    alpha: Annotated[Real, Field(gt=0, le=0.2)] = 0.05
    """The chance of a wrong pass, and of a wrong fail, per candidate."""
    margin: Margin = 0.02
    """Largest tolerated drop where neither the slice nor `margins` says otherwise."""
    margins: dict[str, Margin] = Field(default_factory=dict)
    """Glob over ``slice/stratum`` to a margin; the last match wins."""
    tail_events: TailTolerances = Field(default_factory=dict)
    """Tolerances of tail events in gating strata; events of other kinds are shown and decide nothing."""
    quantities: RatioTolerances = Field(default_factory=dict)
    """Tolerances of thought length and tokens per solved item in gating strata, as ratios to the baseline's."""
    latency: dict[LatencyKind, Annotated[Real, Field(gt=0)]] = Field(default_factory=dict)
    """Seconds to the first token, or for each token after it, from which a streamed answer is late; how many may be
    late is a tolerance in `tail_events`."""
    inconclusive: Literal["hold", "fail"] = "hold"
    """``hold`` ends in exit code 3, ``fail`` in 1. Neither passes."""
    refuse_hopeless: bool = True
    """Refuse at plan time a gating stratum that is too small to ever pass."""
    effective_score: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Score that the effective level asks for; 0.85 of the baseline's score at the shortest level unless said."""
    chance_alpha: Annotated[Real, Field(gt=0, le=0.2)] = 0.05
    """Level of the test that the baseline scores above chance plus the margin."""
    discordance: Annotated[Real, Field(gt=0, lt=1)] = 0.1
    """Share of items expected to flip either way: for planning only."""
    pooled_margin: Share | None = None
    """Largest tolerated drop over all gating strata, by traffic, in addition to each stratum's own, larger one."""
    spending: Annotated[str, BeforeValidator(spending_field)] = "obrien-fleming"
    """With looks, what each may spend of alpha: ``obrien-fleming``, ``hwang-shih-decani:GAMMA`` or ``power:RHO``."""
    advisory: tuple[str, ...] = ()
    """Globs over ``slice/stratum`` that are shown but do not decide."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        """Leave out what earlier versions did not have, unless it is used, so that configs keep their digests."""
        later: dict[str, Any] = {
            "pooled_margin": None,
            "spending": "obrien-fleming",
            "advisory": (),
            "quantities": {},
            "latency": {},
        }
        return {key: one for key, one in handler(self).items() if key not in later or getattr(self, key) != later[key]}


Thinking = Literal["auto", "off"] | tuple[str, str]
"""How thinking is told from the answer: by known marks, not at all, or by what opens and closes it."""


class ThinkingMarks(Strict):
    """What opens and closes a block of thinking."""

    start: str = Field(min_length=1)
    """Before the first thought."""
    end: str = Field(min_length=1)
    """After the last one."""

    @model_validator(mode="after")
    def _told_apart(self) -> ThinkingMarks:
        if self.start == self.end or not (self.start.strip() and self.end.strip()):
            raise ValueError("start and end must be two different marks, with more than white space")
        return self


_TEMPLATE_TAKEN = frozenset(
    [
        "conversation",
        "messages",
        "tokenize",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tools",
        "documents",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    ]
)


class Sampling(Strict):
    """How answers are sampled: one for all variants."""

    temperature: Real = Field(default=0.0, ge=0, le=2)
    """0 is greedy."""
    top_p: Real = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    samples: Whole = Field(default=1, ge=1, le=64)
    """Answers per item; the score is their mean."""
    chat_template: bool | Literal["auto"] = "auto"
    """``auto``: used where the baseline's tokenizer has one."""
    system: str | None = None
    """System message, with a chat template only."""
    thinking: Literal["auto", "off"] | ThinkingMarks = "auto"
    """Blocks of thinking that are not scored: by the marks of the known model families, none, or by your own."""

    @field_validator("thinking", mode="before")
    @classmethod
    def _said_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads a bare off as false

    @property
    def marks(self) -> Thinking:
        """The setting as `harness.suite.toolkit.thinking.split` takes it."""
        one = self.thinking
        return (one.start, one.end) if isinstance(one, ThinkingMarks) else one

    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the chat template for all variants, such as ``enable_thinking: false``."""
    clock: datetime = datetime(2025, 1, 1, 12)  # noqa: DTZ001 - local time, as templates read it
    """The time that chat templates read: one for all prompts, so that a run can be continued on another day."""

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_taken(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(_TEMPLATE_TAKEN & set(value)):
            msg = f"{', '.join(taken)}: set by quantcliff itself; leave it out"
            raise ValueError(msg)
        return value


class Rehearsal(Strict):
    """Answers made up without a model, to try a config, a cluster and a gate out before any GPU time.

    Every report of such a run says that nothing was measured.
    """

    accuracy: Annotated[Real, Field(ge=0, le=1)] = 0.8
    """Share of the items that the baseline gets right."""
    lost: dict[str, Annotated[Real, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """``candidate``, ``candidate/slice`` or ``candidate/slice/stratum`` to the share of all items that it loses."""
    seconds_per_item: Real = Field(default=0.0, ge=0)
    """How long an answer takes."""
    wrong: str = "I do not know."
    """What a wrong free-text answer says: ``""`` and the lost items are empty answers, a tail event."""


class Execution(Strict):
    """Where and how the models run: one for all variants."""

    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1`` ...; ``cuda:all`` or ``cuda:0,cuda:1`` spread each model over several."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Compute dtype of every variant: two variants at two dtypes differ by the dtype. ``auto``: bfloat16 if the device
    computes it natively, else float32; settled when the run is planned, and kept when it is continued."""
    batch_tokens: Whole = Field(default=16384, ge=16)
    """Largest batch, in padded tokens of prompt and answer."""
    max_batch: Whole = Field(default=64, ge=1)
    """Largest batch, in rows."""
    unit_items: Whole = Field(default=32, ge=1)
    """Items in a work unit: what a kill can cost at most."""
    unit_tokens: Whole | None = Field(default=None, ge=1)
    """Most tokens in a work unit, of prompts and longest answers, so that long prompts can be shared out evenly."""
    threads: Whole | None = Field(default=None, ge=1)
    """CPU threads. By default all that affinity and CPU quota allow, or one if that is faster when a variant loads."""
    looks: Annotated[int, BeforeValidator(looks_field)] = Field(default=1, ge=1, le=20)
    """Interim looks: above 1, decided strata stop receiving items; ``true`` means ten."""
    stop_on_fail: bool = False
    """With looks, ask a candidate nothing more once a gating stratum, or the pooled difference, has failed."""
    control: Annotated[bool | float, BeforeValidator(share_field)] = True
    """Run the baseline once more with other batch sizes: the A/A control. A share such as 0.25 asks it that part of
    each stratum's items."""
    skip_blind: bool = False
    """Do not ask control and candidates the items of strata in which the baseline shows no signal: these strata end as
    ``no_signal`` in any case. Strata with a tolerance of tail events are always asked."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """Attention implementation."""
    divergence: bool = False
    """Measure exactly, token by token, how far each variant's probabilities are from the baseline's: it costs time."""
    divergence_tokens: Whole = Field(default=256, ge=1)
    """First tokens of each answer that it is measured on."""
    divergence_gib: Real = Field(default=8.0, gt=0)
    """Most disk for the baseline's traces until the run ends; a plan that needs more is refused."""
    rehearsal: Rehearsal | None = None
    """Where given, no model is loaded and answers are made up."""
    cross_engine: bool = False
    """Compare variants that different engines, versions, dtypes or flags serve: what the report then measures is the
    change of engine as well."""

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: Any) -> dict[str, Any]:
        """Leave out keys that came later while they have no effect, so that the digests of older configs hold."""
        later = ("cross_engine", "stop_on_fail", "unit_tokens")
        return {key: value for key, value in handler(self).items() if value or key not in later}

    @model_validator(mode="before")
    @classmethod
    def _without_divergence_with(cls, data: Any) -> Any:
        """Accept a key of earlier versions if it asks for what is done now; refuse what is gone."""
        if not isinstance(data, dict) or "divergence_with" not in data:
            return data
        if data["divergence_with"] not in ("auto", "traces"):
            raise ValueError(
                "divergence_with was removed: candidates are always compared with the baseline's traces on disk "
                "(see divergence_gib); leave the key out"
            )
        return {key: value for key, value in data.items() if key != "divergence_with"}


class Experiment(Strict):
    """A whole config file."""

    name: Name
    """Names the run directory."""
    description: str = ""
    """A sentence for the report."""
    baseline: Variant
    """The variant compared against."""
    candidates: tuple[Variant, ...] = Field(min_length=1)
    """The variants under test."""
    slices: tuple[SliceSpec, ...] = Field(min_length=1)
    """The suite."""
    policy: Policy = Policy()
    """What the gate demands."""
    sampling: Sampling = Sampling()
    """How answers are sampled."""
    execution: Execution = Execution()
    """Where and how the models run."""
    seed: Whole = Field(default=0, ge=0)
    """Root of every random choice."""
    output: str = "results"
    """Where run directories are made."""
    notes: tuple[str, ...] = ()
    """Sentences that the report must show, such as what the reference really is."""
    store_text: Literal["full", "redacted", "none"] = "full"
    """What of prompts and answers is kept on disk: all, all but personal data, or scores alone."""
    track: dict[Literal["mlflow", "trackio", "wandb"], str] = Field(default_factory=dict)
    """Experiment tracker to the place that a judged run is sent to, see `harness.report.trackers`; none by default."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The baseline, then the candidates."""
        return (self.baseline, *self.candidates)

    def compute_dtype(self, variant: Variant) -> str:
        """The compute dtype of a variant; ``auto`` if that is left to the device.

        An ``auto`` next to a baseline with a dtype of its own means the baseline's.
        """
        dtype = self.execution.dtype
        if dtype == "auto" and self.baseline.dtype is not None:
            dtype = self.baseline.dtype
        return variant.dtype or dtype

    def digest(self) -> str:
        """Identify everything that decides a result; where results are put and what texts are kept does not."""
        return digest(self.model_dump(mode="json", exclude={"output", "description", "store_text", "track"}))
