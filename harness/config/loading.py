"""The config file: the only place where people type, validated once, every problem reported together."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.config.engines import inherited_engine
from harness.config.fields import RelativeMargin, suggestion
from harness.config.methods import METHODS
from harness.config.schema import RESERVED, RESERVED_ENDINGS, RESERVED_SLICES, Cut, Experiment, Policy, Variant
from harness.config.text import LARGEST, read_mapping
from harness.errors import ConfigError, Problem

Found = Iterator[tuple[str, str]]
"""Places and what is wrong there, found only when the parts of a config are seen together."""


def load(path: Path) -> Experiment:
    """Read and validate a config file. Raises ConfigError with every problem."""
    return parse(_mapping_in(path), str(path))


def _mapping_in(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            read = file.read(LARGEST + 1)
        data = read_mapping(read.decode("utf-8")) if len(read) <= LARGEST else None
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        wrong = f"is not UTF-8 text: {error.reason}"
    except yaml.YAMLError as error:
        wrong = f"is not YAML: {error}"
    else:
        if isinstance(data, dict):
            return data
        wrong = f"holds a {type(data).__name__}, not a mapping of keys"
        if len(read) > LARGEST:
            wrong = f"is longer than {LARGEST:,} bytes, the most that is read"
        elif data is None:
            wrong = "is empty: `quantcliff demo --print-config` prints one to start from"
    raise ConfigError(str(path), [Problem("", wrong)])


def parse(data: dict[str, Any], source: str = "config", *, recorded: bool = False) -> Experiment:
    """Validate a config given as plain data. Raises ConfigError with every problem.

    recorded: the config of a run, perhaps of an earlier version or of a part (`--only`), whose names are not checked.
    """
    inherited = _inherit(data)
    taken = list(_names_given_twice(inherited))
    try:
        experiment = Experiment.model_validate(inherited)
    except ValidationError as error:
        found = error.errors()
        inner = {one["loc"][:1] for one in found if len(one["loc"]) > 1}
        told = [one for one in found if one["type"] != "too_short" or one["loc"] not in inner]
        raise ConfigError(source, [*map(_problem, told), *taken]) from error
    checks = [_variant_problems, _slice_problems] + ([] if recorded else [_same_folder, _unknown_places])
    if problems := [*taken, *(Problem(*one) for check in checks for one in check(experiment))]:
        raise ConfigError(source, problems)
    return experiment


def _inherit(data: dict[str, Any]) -> dict[str, Any]:
    """Give candidates the baseline's model, revision, trust and engine where they say nothing."""
    baseline, candidates = data.get("baseline"), data.get("candidates")
    if isinstance(baseline, str):
        baseline = {"model": baseline}
    if isinstance(baseline, dict):
        baseline = {"name": "baseline", **baseline}
    if not isinstance(baseline, dict) or not isinstance(candidates, list):
        return {**data, "baseline": baseline} if baseline is not None else data
    shared = {key: baseline[key] for key in ("model", "revision", "trust_remote_code") if key in baseline}

    def filled(candidate: object) -> object:
        if not isinstance(candidate, dict):
            return candidate
        given = {"trust_remote_code": shared.get("trust_remote_code", False)} if "model" in candidate else shared
        engine = inherited_engine(baseline.get("engine"), candidate.get("engine"))
        return {**given, **candidate, **({} if engine is None else {"engine": engine})}

    return {**data, "baseline": baseline, "candidates": [filled(candidate) for candidate in candidates]}


def _problem(details: ErrorDetails, *above: str) -> Problem:
    """Turn one of pydantic's errors into the sentence that a person needs. above: the place of what was validated."""
    location, path, value = (*above, *details["loc"]), "", details["input"]
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    match details["type"]:
        case "extra_forbidden":
            return Problem(path, _unknown_key(location))
        case "missing":
            return Problem(path, "is missing" + (": give the model to compare against" if path == "baseline" else ""))
        case "value_error":
            return Problem(path, str(details["ctx"]["error"]))
        case "literal_error":
            known = re.findall(r"'([^']*)'", details["msg"]) or [details["msg"]]
            return Problem(path, f"{value!r} is not one of the known values.{suggestion(str(value), known)}")
    return Problem(path, f"{value!r}: {details['msg'][0].lower()}{details['msg'][1:]}")


def _unknown_key(location: tuple[int | str, ...]) -> str:
    """Give the sentence for a key that does not exist."""
    key = str(location[-1])
    if key == "allow_code_execution":
        text = "a config, which may come from elsewhere, cannot allow this: give `quantcliff run` the flag"
        return f"{text} --allow-code-execution"
    if key in {"api_key", "key", "token"} and "engine" in location:
        return "a key does not belong in a file: export it, and name the variable in api_key_env"
    model: Any = Experiment
    for part in location[:-1]:
        kind = getattr(model.model_fields.get(part), "annotation", None)
        models = (one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, BaseModel))
        model = next(models, model)
    return f"is not a key here.{suggestion(key, model.model_fields)}"


def _names_given_twice(data: dict[str, Any]) -> Iterator[Problem]:
    """Find names of variants given twice, even where other problems stop the rest."""
    baseline, candidates = data.get("baseline"), data.get("candidates")
    named = {str(baseline.get("name")): "baseline"} if isinstance(baseline, dict) else {}
    for index, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
        if isinstance(candidate, dict) and "name" in candidate:
            name, place = str(candidate["name"]), f"candidates[{index}]"
            if (first := named.setdefault(name, place)) != place:
                yield Problem(f"{place}.name", f"{name!r} is taken by {first}: give each variant its own name")


def _places(experiment: Experiment) -> list[tuple[str, Variant]]:
    candidates = [(f"candidates[{index}]", one) for index, one in enumerate(experiment.candidates)]
    return [("baseline", experiment.baseline), *candidates]


def _variant_problems(experiment: Experiment) -> Found:
    baseline = experiment.baseline
    if not baseline.model:
        yield "baseline.model", "is missing: give a directory or a hub id"
    for place, variant in _places(experiment):
        if variant.name in RESERVED or variant.name.lower().endswith(RESERVED_ENDINGS):
            yield f"{place}.name", f"{variant.name!r} is a name that the run directory uses: choose another"
        yield from _engine_problems(experiment, variant, place)
    for place, candidate in _places(experiment)[1:]:
        method, dtype = candidate.quantization.method, experiment.compute_dtype(candidate)
        if candidate.model_dump(exclude={"name"}) == baseline.model_dump(exclude={"name"}):
            yield place, f"{candidate.name!r} is the baseline itself: give it a quantization or another model"
        own = candidate.model != baseline.model or candidate.quantization.gguf_file
        if candidate.engine.here and METHODS[method].from_checkpoint and not own:
            text = f"{method} weights lie in their own checkpoint: give its directory (`quantcliff quantize` makes one)"
            yield f"{place}.model", text
        if method != "none" and dtype != experiment.compute_dtype(baseline):
            text = "differs from the baseline's compute dtype: the comparison would measure the dtype; leave it out"
            yield f"{place}.dtype", f"{dtype} {text}"


def _engine_problems(experiment: Experiment, variant: Variant, place: str) -> Found:
    """Find what the engine of a variant cannot do, and what a KV cache or a decode path cannot be combined with."""
    engine, decoding, method = variant.engine, variant.decoding, variant.quantization.method
    if engine.here and engine.served and method != "none" and not METHODS[method].from_checkpoint:
        text = f"quantcliff applies {method} in its own engine only; give {engine.name} a quantized checkpoint, or args"
        yield f"{place}.quantization", text
    for key in [one for one in ("kv_cache", "decoding") if engine.served and getattr(variant, one) is not None]:
        text = f"is for quantcliff's own engine; {engine.name} takes such options in engine.args"
        yield f"{place}.{key}", text
    if variant.kv_cache and experiment.execution.divergence:
        text = "execution.divergence reads whole answers at once, which a KV cache takes no part in: switch it off"
        yield f"{place}.kv_cache", text
    if decoding and decoding.assisted and (experiment.sampling.temperature or variant.kv_cache):
        text = "draft and prompt_lookup take greedy answers and the model's own KV cache"
        yield f"{place}.decoding", f"{text}: set temperature 0 and leave kv_cache out"
    if engine.tools != experiment.baseline.engine.tools:
        text = "tools stand in the prompts of all variants or of none: give all engines the same"
        yield f"{place}.engine.tools", text
    if engine.api == "chat" and experiment.sampling.chat_template is not False:
        text = "sends each prompt as a message, to which the server applies its template: set chat_template: false"
        yield "sampling.chat_template", f"{place}.engine.api: chat {text}"


def _slice_problems(experiment: Experiment) -> Found:
    seen: dict[str, int] = {}
    for index, spec in enumerate(experiment.slices):
        place = f"slices[{index}].label"
        if (first := seen.setdefault(spec.key, index)) != index:
            yield place, f"{spec.key!r} is taken by slices[{first}]: give one of them a label"
        if spec.key in RESERVED_SLICES:
            text = "is a name that the run directory or a report uses: give the slice another label"
            yield place, f"{spec.key!r} {text}"
    samples, execution = experiment.sampling.samples, experiment.execution
    if samples > 1 and experiment.sampling.temperature == 0:
        yield "sampling.samples", f"{samples} samples at temperature 0 are all the same: raise the temperature"
    if execution.skip_blind and execution.looks > 1:
        text = "cannot be combined with looks above 1: whether a stratum has signal is decided on all of its items"
        yield "execution.skip_blind", text
    if execution.layers:
        yield from _layer_problems(experiment)


def _layer_problems(experiment: Experiment) -> Found:
    """Find what layers by the baseline's confidence cannot be combined with."""
    execution, policy = experiment.execution, experiment.policy
    margins = (policy.margin, *policy.margins.values(), *(spec.margin for spec in experiment.slices))
    taken = {
        "execution.looks: layers are cut from all of the baseline's answers": execution.looks > 1,
        "sampling.samples: an item has one confidence": experiment.sampling.samples > 1,
        "execution.skip_blind: whole strata would be left out": execution.skip_blind,
        "execution.divergence: its means are those of all items": execution.divergence,
        "a share in execution.control: write true or false": not isinstance(execution.control, bool),
        "policy.pooled_margin: it pools strata that were asked evenly": policy.pooled_margin is not None,
        "a relative margin: write a number": any(isinstance(one, RelativeMargin) for one in margins),
    }
    yield from (("execution.layers", f"cannot be combined with {what}") for what, asked in taken.items() if asked)


def _same_folder(experiment: Experiment) -> Found:
    """Find names that differ by case alone: many file systems give them one folder or file."""
    variants = [(f"{place}.name", variant.name) for place, variant in _places(experiment)]
    slices = [(f"slices[{index}].label", spec.key) for index, spec in enumerate(experiment.slices)]
    for names, taken in ((variants, RESERVED), (slices, RESERVED_SLICES)):
        seen = {name: name for name in taken}
        for place, name in names:
            first = seen.setdefault(name.lower(), name)
            if first != name:
                text = f"{name!r} and {first!r} differ by case alone, and share a folder on many file systems"
                yield place, f"{text}: choose another name"


def _unknown_places(experiment: Experiment) -> Found:
    """Find losses of a rehearsal for a variant or a slice that is not in the config."""
    rehearsal = experiment.execution.rehearsal
    known = ([one.name for one in experiment.variants], [spec.key for spec in experiment.slices])
    for place in rehearsal.lost if rehearsal else ():
        for name, names, what in zip(place.split("/"), known, ("variant", "slice"), strict=False):
            if name not in names:
                text = f"{place!r}: {name!r} is not a {what} of this config.{suggestion(name, names)}"
                yield "execution.rehearsal.lost", text


def with_overrides(
    experiment: Experiment, source: str, only: tuple[str, ...] = (), limit: int | None = None, device: str | None = None
) -> Experiment:
    """Give the part of an experiment that the flags ask for, under a name of its own. Raises ConfigError."""
    names = {one.name for one in experiment.candidates}, {spec.key for spec in experiment.slices}
    for name in (one for one in only if one not in names[0] | names[1]):
        text = f"{name!r} is neither a slice nor a candidate.{suggestion(name, names[0] | names[1])}"
        raise ConfigError(source, [Problem("--only", text)])
    candidates = tuple(one for one in experiment.candidates if one.name in only or not names[0] & set(only))
    slices = tuple(one for one in experiment.slices if one.key in only or not names[1] & set(only))
    parts: dict[str, Any] = {"candidates": candidates, "slices": slices}
    suffix = "-only-" + "-".join(sorted(only)) if only else ""
    if limit is not None:
        parts["slices"] = tuple(spec.model_copy(update={"items": min(spec.items, limit)}) for spec in slices)
        parts["policy"] = experiment.policy.model_copy(update={"refuse_hopeless": False})
        suffix += f"-limit-{limit}"
    if device is not None:
        parts["execution"] = experiment.execution.model_copy(update={"device": device})
    if suffix:
        parts["name"] = f"{experiment.name}{suffix}"[:64].rstrip("-._")
    kind = Cut if limit is not None or len(slices) < len(experiment.slices) else Experiment
    return kind.model_construct(experiment.model_fields_set, **{**dict(experiment), **parts})


def policy_overrides(path: Path) -> dict[str, Any]:
    """Read a policy file: a mapping of `Policy` keys, or one that holds them under ``policy``. Raises ConfigError."""
    data = _mapping_in(path)
    section = data.get("policy", data)
    if "slices" in data and section is not data:
        sys.stderr.write(f"{path}: its policy alone is read; a margin or tolerance in it is that of all strata\n")
    if not isinstance(section, dict):
        raise ConfigError(str(path), [Problem("policy", f"holds a {type(section).__name__}, not a mapping of keys")])
    for key in [one for one in ("margin", "tail_events") if one in section and f"'{one}':" in str(data.get("slices"))]:
        raise ConfigError(str(path), [Problem(f"policy.{key}", "would overrule the slices' own: leave slices out")])
    if stray := [key for key in data if section is not data and key in Policy.model_fields]:
        raise ConfigError(str(path), [Problem(stray[0], "stands beside `policy`, which does not see it: indent it")])
    try:
        policy = Policy.model_validate(section)
    except ValidationError as error:
        raise ConfigError(str(path), [_problem(one, "policy") for one in error.errors()]) from error
    return {name: getattr(policy, name) for name in policy.model_fields_set}
