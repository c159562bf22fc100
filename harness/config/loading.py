"""The config file: the only place where people type, validated once, every problem reported together.

`load` reads YAML and gives an `Experiment`, or raises `harness.errors.ConfigError` with all problems, each with its
path, its value, the rule it breaks and a suggestion. What may stand in it is said in `harness.config.schema`, whose
names can all be had from here. It does not know whether a method works on this machine or whether a model exists.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from harness.config.decoding import Decoding, KVCache
from harness.config.engines import EngineSpec, inherited_engine
from harness.config.methods import METHODS
from harness.config.schema import (
    RENAMED,
    RESERVED,
    RESERVED_ENDINGS,
    RESERVED_SLICES,
    Execution,
    Experiment,
    Policy,
    Quantization,
    Sampling,
    SliceSpec,
    Variant,
    suggestion,
)
from harness.config.text import LARGEST, read_mapping
from harness.errors import ConfigError, Problem

__all__ = ["load", "parse", "policy_overrides", "with_overrides"]


def load(path: Path) -> Experiment:
    """Read and validate a config file, with a notice for each renamed key. Raises ConfigError with every problem."""
    data, notices = _with_new_names(_mapping_in(path))
    _show(notices, path)
    return parse(data, str(path))


def _show(notices: list[str], path: Path) -> None:
    sys.stderr.writelines(f"{path}: {notice}\n" for notice in notices)


def _with_new_names(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a config with every renamed key under its new name, and a notice for each."""
    found, notices = dict(data), list[str]()

    def renewed(section: object, place: str, names: Mapping[str, str]) -> object:
        if not isinstance(section, dict):
            return section
        old = [key for key in section if key in names and names[key] not in section]
        notices.extend(f"{place}.{key} is now called {names[key]}; the old name is still read" for key in old)
        return {names[key] if key in old else key: value for key, value in section.items()}

    for name, names in RENAMED.items():
        section = found.get(name)
        if isinstance(section, list):
            found[name] = [renewed(one, f"{name}[{at}]", names) for at, one in enumerate(section)]
        elif section is not None:
            found[name] = renewed(section, name, names)
    return found, notices


def _mapping_in(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            read = file.read(LARGEST + 1)
        if len(read) > LARGEST:
            raise ConfigError(str(path), [Problem("", f"is longer than {LARGEST:,} bytes, the most that is read")])
        text = read.decode("utf-8")
    except OSError as error:
        raise ConfigError(str(path), [Problem("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Problem("", f"is not UTF-8 text: {error.reason}")]) from error
    try:
        data = read_mapping(text)
    except yaml.YAMLError as error:
        raise ConfigError(str(path), [Problem("", f"is not YAML: {error}")]) from error
    if data is None:
        raise ConfigError(
            str(path), [Problem("", "is empty: `quantcliff demo --print-config` prints one to start from")]
        )
    if not isinstance(data, dict):
        raise ConfigError(str(path), [Problem("", f"holds a {type(data).__name__}, not a mapping of keys")])
    return data


def parse(data: dict[str, Any], source: str = "config", *, recorded: bool = False) -> Experiment:
    """Validate a config given as plain data. Raises ConfigError with every problem.

    recorded: the config of a run, perhaps of an earlier version or of a part (`--only`), whose names are not checked.
    """
    inherited = _inherit(_with_new_names(data)[0])
    try:
        experiment = Experiment.model_validate(inherited)
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(details) for details in error.errors()]
        inner = {tuple(one["loc"])[:1] for one in found if len(one["loc"]) > 1}
        told = [one for one in found if not (one["type"] == "too_short" and tuple(one["loc"]) in inner)]
        problems = [_problem(details) for details in told]
        raise ConfigError(source, problems + _cross_checks_raw(inherited)) from error
    problems = _cross_checks_raw(inherited) + _cross_checks(experiment)
    problems += [] if recorded else [*_same_folder(experiment), *_unknown_places(experiment)]
    if problems:
        raise ConfigError(source, problems)
    return experiment


def _inherit(data: dict[str, Any]) -> dict[str, Any]:
    """Give candidates the baseline's model, revision, trust and engine where they say nothing."""
    baseline = data.get("baseline")
    if isinstance(baseline, str):
        baseline = {"model": baseline}
    if isinstance(baseline, dict):
        baseline = {"name": "baseline", **baseline}
    candidates = data.get("candidates")
    if not isinstance(baseline, dict) or not isinstance(candidates, list):
        return {**data, "baseline": baseline} if baseline is not None else data
    shared = {key: baseline[key] for key in ("model", "revision", "trust_remote_code") if key in baseline}

    def filled(candidate: object) -> object:
        if not isinstance(candidate, dict):
            return candidate
        own_model = "model" in candidate
        engine = inherited_engine(baseline.get("engine"), candidate.get("engine"))
        return {
            **({"trust_remote_code": shared.get("trust_remote_code", False)} if own_model else shared),
            **candidate,
            **({} if engine is None else {"engine": engine}),
        }

    return {**data, "baseline": baseline, "candidates": [filled(candidate) for candidate in candidates]}


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


_LITERAL = re.compile(r"'([^']*)'")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Give the keys that may stand where an unknown one was found."""
    model: Any = Experiment
    steps = {"baseline": Variant, "candidates": Variant, "slices": SliceSpec, "policy": Policy, "sampling": Sampling,
             "execution": Execution, "quantization": Quantization, "engine": EngineSpec,
             "kv_cache": KVCache, "decoding": Decoding}  # fmt: skip
    for part in location[:-1]:
        model = steps.get(str(part), model)
    return list(model.model_fields)


def _unknown_key(location: tuple[int | str, ...]) -> str:
    """Give the sentence for a key that does not exist."""
    if location[-1] == "allow_code_execution":
        text = "a config, which may come from elsewhere, cannot allow this: give `quantcliff run` the flag"
        return f"{text} --allow-code-execution"
    if location[-1] in {"api_key", "key", "token"} and "engine" in location:
        return "a key does not belong in a file: export it, and name the variable in api_key_env"
    return f"is not a key here.{suggestion(str(location[-1]), _known_keys(location))}"


def _problem(details: dict[str, Any]) -> Problem:
    """Turn one of pydantic's errors into the sentence that a person needs."""
    location = tuple(details["loc"])
    path, kind, value = _path(location), details["type"], details.get("input")
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(location))
    if kind == "missing":
        return Problem(path, "is missing" + (": give the model to compare against" if path == "baseline" else ""))
    if kind == "value_error":
        return Problem(path, str(details["ctx"]["error"]))
    if kind == "literal_error":
        known = _LITERAL.findall(details["msg"]) or [details["msg"]]
        return Problem(path, f"{value!r} is not one of the known values.{suggestion(str(value), known)}")
    rule = details["msg"][0].lower() + details["msg"][1:]
    return Problem(path, f"{value!r}: {rule}")


def _cross_checks_raw(data: dict[str, Any]) -> list[Problem]:
    """Find names given twice, even where other problems stop the rest."""
    baseline, candidates = data.get("baseline"), data.get("candidates")
    if not isinstance(candidates, list):
        return []
    named: dict[str, str] = {}
    if isinstance(baseline, dict):
        named[str(baseline.get("name"))] = "baseline"
    problems = []
    for index, candidate in enumerate(candidates):
        if not isinstance(candidate, dict) or "name" not in candidate:
            continue
        name, place = str(candidate["name"]), f"candidates[{index}]"
        if name in named:
            problems.append(
                Problem(f"{place}.name", f"{name!r} is taken by {named[name]}: give each variant its own name")
            )
        named.setdefault(name, place)
    return problems


def _same(one: Variant, other: Variant) -> bool:
    return one.model_dump(exclude={"name"}) == other.model_dump(exclude={"name"})


def _cross_checks(experiment: Experiment) -> list[Problem]:
    """Find what is wrong only when the parts are seen together."""
    problems = [
        Problem(f"{place}.name", f"{variant.name!r} is a name that the run directory uses: choose another")
        for place, variant in _places(experiment)
        if variant.name in RESERVED or variant.name.lower().endswith(RESERVED_ENDINGS)
    ]
    if not experiment.baseline.model:
        problems.append(Problem("baseline.model", "is missing: give a directory or a hub id"))
    problems += _engine_problems(experiment, experiment.baseline, "baseline")
    for index, candidate in enumerate(experiment.candidates):
        problems += _candidate_problems(experiment, candidate, f"candidates[{index}]")
    seen: dict[str, int] = {}
    for index, spec in enumerate(experiment.slices):
        if spec.key in seen:
            text = f"{spec.key!r} is taken by slices[{seen[spec.key]}]: give one of them a label"
            problems.append(Problem(f"slices[{index}].label", text))
        seen.setdefault(spec.key, index)
        if spec.key in RESERVED_SLICES:
            text = f"{spec.key!r} is a name that the run directory or a report uses: give the slice another label"
            problems.append(Problem(f"slices[{index}].label", text))
    if experiment.sampling.samples > 1 and experiment.sampling.temperature == 0:
        text = f"{experiment.sampling.samples} samples at temperature 0 are all the same: raise the temperature"
        problems.append(Problem("sampling.samples", text))
    if experiment.execution.skip_blind and experiment.execution.looks > 1:
        text = "cannot be combined with looks above 1: whether a stratum has signal is decided on all of its items"
        problems.append(Problem("execution.skip_blind", text))
    return problems


def _same_folder(experiment: Experiment) -> list[Problem]:
    """Find names that differ by case alone: many file systems give them one folder or file."""
    variants = [(f"{place}.name", variant.name) for place, variant in _places(experiment)]
    slices = [(f"slices[{index}].label", spec.key) for index, spec in enumerate(experiment.slices)]
    problems = []
    for names, taken in ((variants, RESERVED), (slices, RESERVED_SLICES)):
        seen = {name: name for name in taken}
        for place, name in names:
            first = seen.setdefault(name.lower(), name)
            if first != name:
                text = f"{name!r} and {first!r} differ by case alone, and share a folder on many file systems"
                problems.append(Problem(place, f"{text}: choose another name"))
    return problems


def _unknown_places(experiment: Experiment) -> list[Problem]:
    """Find losses of a rehearsal for a variant or a slice that is not in the config."""
    rehearsal, problems = experiment.execution.rehearsal, []
    known = ([one.name for one in experiment.variants], [spec.key for spec in experiment.slices])
    for place in rehearsal.lost if rehearsal else ():
        for name, names, what in zip(place.split("/"), known, ("variant", "slice"), strict=False):
            if name not in names:
                text = f"{place!r}: {name!r} is not a {what} of this config.{suggestion(name, names)}"
                problems.append(Problem("execution.rehearsal.lost", text))
    return problems


def _places(experiment: Experiment) -> list[tuple[str, Variant]]:
    candidates = [(f"candidates[{index}]", one) for index, one in enumerate(experiment.candidates)]
    return [("baseline", experiment.baseline), *candidates]


def _candidate_problems(experiment: Experiment, candidate: Variant, place: str) -> list[Problem]:
    problems = []
    if _same(candidate, experiment.baseline):
        text = f"{candidate.name!r} is the baseline itself: give it a quantization or another model"
        problems.append(Problem(place, text))
    method = candidate.quantization.method
    problems += _engine_problems(experiment, candidate, place)
    if (
        candidate.engine.here
        and METHODS[method].from_checkpoint
        and candidate.model == experiment.baseline.model
        and not candidate.quantization.gguf_file
    ):
        text = f"{method} weights lie in their own checkpoint: give its directory (`quantcliff quantize` makes one)"
        problems.append(Problem(f"{place}.model", text))
    dtype = experiment.compute_dtype(candidate)
    if method != "none" and dtype != experiment.compute_dtype(experiment.baseline):
        text = (
            f"{dtype} differs from the baseline's compute dtype: the comparison would measure the dtype; leave it out"
        )
        problems.append(Problem(f"{place}.dtype", text))
    return problems


def _engine_problems(experiment: Experiment, variant: Variant, place: str) -> list[Problem]:
    """Find what an engine cannot do; called for each candidate, and for the baseline with the place ``baseline``."""
    engine, method = variant.engine, variant.quantization.method
    problems = []
    if engine.here and engine.served and method != "none" and not METHODS[method].from_checkpoint:
        text = f"quantcliff applies {method} in its own engine only; give {engine.name} a quantized checkpoint, or args"
        problems.append(Problem(f"{place}.quantization", text))
    problems += _decoding_problems(experiment, variant, place)
    if engine.tools != experiment.baseline.engine.tools:
        text = "tools stand in the prompts of all variants or of none: give all engines the same"
        problems.append(Problem(f"{place}.engine.tools", text))
    if engine.api == "chat" and experiment.sampling.chat_template is not False:
        text = "sends each prompt as a message, to which the server applies its template: set chat_template: false"
        problems.append(Problem("sampling.chat_template", f"{place}.engine.api: chat {text}"))
    return problems


def _decoding_problems(experiment: Experiment, variant: Variant, place: str) -> list[Problem]:
    """Find what a KV cache or a decode path cannot be combined with."""
    decoding, problems = variant.decoding, []
    given = [key for key in ("kv_cache", "decoding") if getattr(variant, key) is not None]
    if variant.engine.served and given:
        text = f"is for quantcliff's own engine; {variant.engine.name} takes such options in engine.args"
        problems += [Problem(f"{place}.{key}", text) for key in given]
    if variant.kv_cache and experiment.execution.divergence:
        text = "execution.divergence reads whole answers at once, which a KV cache takes no part in: switch it off"
        problems.append(Problem(f"{place}.kv_cache", text))
    if decoding and decoding.assisted and (experiment.sampling.temperature or variant.kv_cache):
        text = "draft and prompt_lookup take greedy answers and the model's own KV cache"
        problems.append(Problem(f"{place}.decoding", f"{text}: set temperature 0 and leave kv_cache out"))
    return problems


def with_overrides(
    experiment: Experiment,
    *,
    only: tuple[str, ...] = (),
    limit: int | None = None,
    device: str | None = None,
    source: str = "config",
) -> Experiment:
    """Give the part of an experiment that the flags ask for, under a name of its own. Raises ConfigError."""
    update: dict[str, Any] = {}
    suffix = ""
    if only:
        update |= _only(experiment, only, source)
        suffix += "-only-" + "-".join(sorted(only))
    if limit is not None:
        slices = update.get("slices", experiment.slices)
        update["slices"] = tuple(spec.model_copy(update={"items": min(spec.items, limit)}) for spec in slices)
        update["policy"] = experiment.policy.model_copy(update={"refuse_hopeless": False})
        suffix += f"-limit-{limit}"
    if device is not None:
        update["execution"] = experiment.execution.model_copy(update={"device": device})
    if suffix:
        update["name"] = f"{experiment.name}{suffix}"[:64].rstrip("-._")
    return experiment.model_copy(update=update)


def _only(experiment: Experiment, only: tuple[str, ...], source: str) -> dict[str, Any]:
    candidates = {one.name for one in experiment.candidates}
    slices = {spec.key for spec in experiment.slices}
    unknown = [name for name in only if name not in candidates | slices]
    if unknown:
        near = suggestion(unknown[0], frozenset(candidates | slices))
        text = f"{unknown[0]!r} is neither a slice nor a candidate.{near}"
        raise ConfigError(source, [Problem("--only", text)])
    update: dict[str, Any] = {}
    if candidates & set(only):
        update["candidates"] = tuple(one for one in experiment.candidates if one.name in only)
    if slices & set(only):
        update["slices"] = tuple(spec for spec in experiment.slices if spec.key in only)
    return update


def policy_overrides(path: Path) -> dict[str, Any]:
    """Read a policy file: a mapping of `Policy` keys, or one that holds them under ``policy``. Raises ConfigError."""
    data = _mapping_in(path)
    section = data.get("policy", data)
    renamed, notices = _with_new_names({"policy": section})
    _show(notices, path)
    section = renamed["policy"]
    if not isinstance(section, dict):
        raise ConfigError(str(path), [Problem("policy", f"holds a {type(section).__name__}, not a mapping of keys")])
    try:
        Policy.model_validate(section)
    except ValidationError as error:
        found: list[dict[str, Any]] = [dict(details) for details in error.errors()]
        problems = [_problem({**one, "loc": ("policy", *one["loc"])}) for one in found]
        raise ConfigError(str(path), problems) from error
    return section
