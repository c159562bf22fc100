"""Every engine but ``transformers`` (see `harness.run.worker`), by its name: what a worker asks to get one."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.config.engines import MANAGED
from harness.config.schema import Variant
from harness.engines.http_client import Client
from harness.engines.managed import RECIPES, SERVED_NAME, command_of, hardware, package_version, started_server
from harness.engines.protocol import Engine
from harness.engines.served import ServedEngine, Target
from harness.engines.server_probe import PromptEncoder
from harness.errors import ModelError
from harness.models.formats import read_json, stored, weight_files
from harness.models.resolve import context_limit, stored_end_tokens, tokenizer_place
from harness.records import Proof


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What a worker needs an engine for."""

    variant: Variant
    path: str  # the model's folder or GGUF file; for an endpoint the folder of the baseline's tokenizer
    prompts: str  # the folder of the baseline's tokenizer
    dtype: str
    device: str  # ``cpu``, ``cuda`` or ``cuda:N``
    concurrency: int
    choices: bool
    log: Path  # the worker's log, which a managed server writes to as well
    requests: Path | None = None  # the file for what each request took
    key: str = field(default="", repr=False)


def _proof(request: EngineRequest, kind: str, *, method: str, disk_bytes: int = 0, **facts: Any) -> Proof:
    """Give what is known of a model that another program serves: nothing of it is counted layer by layer."""
    spec = request.variant.engine
    served = {"kind": kind, "engine": spec.name, "version": "", "flags": dict(spec.args), **facts}
    served["concurrency"] = request.concurrency
    if kind == "proven":
        note = f"proven: quantcliff started {spec.name} on this checkpoint ({' '.join(facts['command'])})"
    else:
        name = f" as {spec.model}" if spec.model else ""
        note = f"declared: what {spec.url or spec.name} serves{name} was not seen, only its answers were"
    dtype = str(facts.get("dtype") or "")
    return Proof(method, spec.name, 0, 0, 0.0, 0, disk_bytes, dtype, 0, "", notes=(note,), served=served)


def _asked(
    request: EngineRequest, proof: Proof, url: str, model: str, device: str, limit: int | None = None, **client: Any
) -> AbstractContextManager[ServedEngine]:
    """Give the engine of a server that runs. client: further options of the `Client`."""
    from transformers import AutoTokenizer

    spec, (folder, more) = request.variant.engine, tokenizer_place(Path(request.prompts))
    client |= {"concurrency": request.concurrency, "timeout": spec.timeout, "retry_seconds": spec.retry_seconds}
    how = {"chat": spec.api == "chat", "stream": spec.stream, "cached_pass": spec.cached_pass, "tools": spec.tools}
    target = Target(model, device, choices=request.choices, limit=limit, requests=request.requests, **how)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=request.variant.trust_remote_code, **more)
    if limit is not None:  # a folder's model, which ends at its tokenizer's end token, too
        proof = replace(proof, end_tokens=tuple(sorted({*proof.end_tokens, tokenizer.eos_token_id} - {None})))
    return contextlib.closing(ServedEngine(Client(url, **client), PromptEncoder(tokenizer), proof, target))


def _endpoint(request: EngineRequest) -> AbstractContextManager[Engine]:
    """Give the engine of a server that somebody else runs."""
    spec, url = request.variant.engine, str(request.variant.engine.url)
    proof = _proof(request, "declared", method=request.variant.quantization.method, url=url, model=spec.model)
    return _asked(request, proof, url, str(spec.model), f"server at {urlsplit(url).hostname}", key=request.key)


@contextlib.contextmanager
def _managed(request: EngineRequest) -> Iterator[Engine]:
    """Give the engine of a server that is started for it, and ends with it."""
    spec, path = request.variant.engine, Path(request.path)
    recipe, command = RECIPES[spec.name], command_of(spec, request.path, request.dtype, request.device)
    if path.is_file():
        method, size, limit, ends = "gguf", path.stat().st_size, None, tuple[int, ...]()
    else:
        found = stored(path)
        method, size = found.method, sum(file.stat().st_size for file in weight_files(path, found))
        limit, ends = context_limit(read_json(path / "config.json")), stored_end_tokens(path)
    device, dtype = hardware(request.device), request.dtype if recipe.dtype else ""
    facts = {"dtype": dtype, "command": command, "version": package_version(spec), "hardware": device}
    method, model = str(spec.args.get("quantization", method)), SERVED_NAME if recipe.named else request.path
    proof = replace(_proof(request, "proven", method=method, disk_bytes=size, **facts), end_tokens=ends)
    with started_server(command, request.log, spec.start_seconds) as server:
        client = {"gone": server.gone, "proxies": False}
        with _asked(request, proof, server.url, model, device, limit, **client) as engine:
            yield engine


def _lm_eval(request: EngineRequest) -> AbstractContextManager[Engine]:
    """Give the engine round a model class of lm_eval. Raises ModelError if there is none of that name."""
    from lm_eval.api.registry import get_model

    from harness.engines.lm_eval import LmEvalEngine

    spec = request.variant.engine
    try:
        made = get_model(spec.model).create_from_arg_obj(dict(spec.args))
    except (ValueError, TypeError, ImportError, KeyError, OSError) as error:
        raise ModelError(f"{request.variant.name}: lm_eval cannot make its model {spec.model!r}: {error}") from error
    proof = _proof(request, "declared", method=request.variant.quantization.method, model=spec.model)
    return contextlib.nullcontext(LmEvalEngine(made, proof, name=str(spec.model)))


ENGINES: Mapping[str, Callable[[EngineRequest], AbstractContextManager[Engine]]] = {
    **dict.fromkeys(MANAGED, _managed),
    "openai": _endpoint,
    "lm_eval": _lm_eval,
}  # names of a config to what gives the engine for a request, and ends what it started
