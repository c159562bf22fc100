"""What a config may say of the engine that answers for a variant: its name, its server and how it is asked."""

import ipaddress
import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator

from harness.config.fields import ARGUMENTS, Real, Strict, Whole

MANAGED = frozenset({"vllm", "sglang", "llama-cpp", "transformers-serve"})  # their server is started and stopped here
NO_LOGPROBS = frozenset({"llama-cpp", "transformers-serve"})  # no log-probabilities of prompts: no choices
UNDER_TEST = frozenset(ARGUMENTS["under_test"])  # a candidate may differ in these
_ASKED = frozenset({"concurrency", "timeout", "retry_seconds", "stream", "cached_pass"})
_TAKES = {
    "transformers": frozenset[str](),
    "openai": _ASKED | {"url", "model", "api", "api_key_env", "allow_http", "tools"},
    "lm_eval": frozenset({"model", "args"}),
    **dict.fromkeys(MANAGED, _ASKED | {"args", "python", "command", "start_seconds"}),
}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_SECRET = re.compile(r"api[-_]?key|token$|password|secret", re.IGNORECASE)
_Name = Literal["transformers", "vllm", "sglang", "llama-cpp", "transformers-serve", "openai", "lm_eval"]
_words = BeforeValidator(lambda command: shlex.split(command) if isinstance(command, str) else command)


class EngineSpec(Strict):
    """The engine of a variant: its name alone, or the name with its options."""

    later: ClassVar = ("stream", "cached_pass", "tools")
    name: _Name = "transformers"
    """``transformers`` runs in a process of quantcliff, `MANAGED` are servers that it starts, ``openai`` is a server
    that runs already, ``lm_eval`` any model class of lm_eval."""
    args: dict[str, Any] = Field(default_factory=dict)  # flags of the server, or arguments of the lm_eval model
    python: str | None = None  # the Python interpreter of the environment in which the server is installed
    command: Annotated[tuple[str, ...], _words] | None = None
    url: str | None = None  # the base URL of a server that speaks the OpenAI API, such as ``https://models.example/v1``
    model: str | None = None  # what the server calls the model, or lm_eval the model's class
    api: Literal["completions", "chat"] = "completions"
    """``completions`` sends each prompt as it is, as token ids if the server takes them. ``chat`` sends it as one
    message of the user, in which the server's own template is used: set ``sampling.chat_template: false``."""
    tools: bool = False
    """Offer a question's tools as ``tools`` of the chat API, and score the calls in its ``tool_calls``."""
    api_key_env: str | None = None  # the environment variable that holds the key
    allow_http: bool = False  # allow http to another machine: prompts, answers and the key are unprotected
    concurrency: Whole = Field(default=8, ge=1, le=256)  # requests in flight at most; another number for the control
    timeout: Real = Field(default=600, gt=0)  # seconds to wait for one answer
    retry_seconds: Real = Field(default=300, ge=0)  # seconds to repeat a request, if the server is busy or away
    start_seconds: Real = Field(default=1800, gt=0)  # seconds that a server may take to start
    stream: bool = False  # stream answers and keep their times, with a prompt that the server does not know
    cached_pass: bool = False  # ask for each streamed answer once more, for the times of a prompt that the server knows

    @field_validator("api_key_env")
    @classmethod
    def _is_a_variable(cls, value: str | None) -> str | None:
        if value is not None and not _VARIABLE.fullmatch(value):
            text = "is not the name of an environment variable: export the key, and write the variable's name here"
            raise ValueError(text)
        return value

    @field_validator("url")
    @classmethod
    def _is_a_base_url(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if parts.username or parts.password or parts.query or parts.fragment:
            text = "holds a user name, a password or a query: a key does not belong in a file, use api_key_env"
            raise ValueError(text)
        if value is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise ValueError(f"{value!r} is not a URL: write one such as https://models.example/v1")
        return value and value.rstrip("/")

    @field_validator("args")
    @classmethod
    def _hold_no_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        if secret := [name for name in value if _SECRET.search(name)]:
            text = "a key does not belong in a file, which is copied into the run; use api_key_env"
            raise ValueError(f"{secret[0]}: {text}")
        return {name.lstrip("-").replace("-", "_"): one for name, one in value.items()}

    @model_validator(mode="after")
    def _options_fit_engine(self) -> Self:
        fields, free = type(self).model_fields, {"name"} | _TAKES.get(self.name, frozenset())
        # A recorded config names every option; those that say nothing new are not extra.
        defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
        extra = sorted(name for name in defaults if name not in free and getattr(self, name) != defaults[name])
        if extra:
            takes = ", ".join(sorted(free - {"name"})) or "no options"
            raise ValueError(f"{self.name} does not take {', '.join(extra)} (it takes {takes})")
        if self.name == "openai" and (not self.url or not self.model):
            raise ValueError("openai needs the server's url and the name that it gives to the model")
        if self.url and self.url.startswith("http:") and not _local(self.url) and not self.allow_http:
            text = "sends prompts and the key without TLS to another machine: use https or a tunnel to localhost"
            raise ValueError(f"{self.url} {text}, or set allow_http: true if the network is trusted")
        if self.name == "lm_eval" and not self.model:
            raise ValueError("lm_eval needs the name of a model class: model: hf")
        if self.tools and self.api != "chat":
            raise ValueError("tools are offered by the chat API alone: set api: chat")
        if self.cached_pass and not self.stream:
            raise ValueError("cached_pass takes times, which only streamed answers have: set stream: true")
        if self.name in MANAGED and (own := sorted({*ARGUMENTS["server"]} & set(self.args))):
            raise ValueError(f"args: {', '.join(own)}: set by quantcliff itself; leave it out")
        return self

    @property
    def served(self) -> bool:
        """Whether another program or library than quantcliff's own engine answers."""
        return self.name != "transformers"

    @property
    def here(self) -> bool:
        """Whether quantcliff loads or starts the model itself, from files that it can check."""
        return self.name == "transformers" or self.name in MANAGED

    def asked(self) -> dict[str, Any]:
        """Give what decides the answers: not how many requests are in flight, nor how long one takes or may take."""
        return self.model_dump(mode="json", exclude={*_ASKED, "start_seconds", "allow_http"})


def _local(url: str) -> bool:
    host = str(urlsplit(url).hostname)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def named(value: object, key: str = "name") -> object:
    """Give the mapping that a name alone stands for: of an engine, or with another `key` of a method."""
    return {key: value} if isinstance(value, str) else value


def inherited_engine(baseline: object, own: object) -> object:
    """Give a candidate's engine with what it does not say from the baseline's, if both name the same engine.

    Arguments are merged one by one. A key is never sent to another URL than the one that it was given for.
    """
    baseline, own = named(baseline), named(own)
    if own is None:
        return baseline
    if not isinstance(baseline, Mapping) or not isinstance(own, Mapping):
        return own
    merged = {**baseline, **own}
    if merged.get("name") != baseline.get("name"):
        return own
    if merged.get("url") != baseline.get("url") and "api_key_env" not in own:
        merged.pop("api_key_env", None)
    if isinstance(baseline.get("args"), Mapping) and isinstance(own.get("args"), Mapping):
        merged["args"] = {**baseline["args"], **own["args"]}
    return merged
