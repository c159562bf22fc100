"""A first config for a model, sized so that its verdict fits into a budget of hours."""

import math
import re
import string
from collections.abc import Sequence
from pathlib import Path

import yaml

from harness.config.loading import parse
from harness.config.methods import METHODS
from harness.errors import UsageError
from harness.stats.plan import RECOMMENDED, Design, Route, route

STRATA = 7  # gating strata of the config
PROMISES: tuple[tuple[float, float | None], ...] = (
    (0.02, None), (0.03, None), (0.05, 0.02), (0.05, 0.03), (0.05, None), (0.075, 0.03), (0.1, 0.04), (0.1, 0.05),
    (0.15, 0.05), (0.2, 0.1), (0.3, 0.15),
)  # fmt: skip
"""Margins of a stratum and of the mean, the strictest first."""


def config_text(model: str, candidates: Sequence[str], hours: float, rate: float) -> str:
    """Return the config as commented YAML. rate: items an hour. Raises UsageError if no promise or no method fits."""
    if not model.isprintable() or not model.strip():
        raise UsageError(f"{model!r}: is no model: give a directory or a hub id, without control characters")
    methods = [_method(one) for one in candidates]
    if not methods or len(set(candidates)) < len(candidates):
        raise UsageError(f"--candidates {','.join(candidates)}: give different methods, such as int8,nf4")
    passes = len(methods) + 1.25
    # The strictest promise that the items keep with 80 % power over all strata.
    routes = (route(Design((margin,) * STRATA, pooled, 10, RECOMMENDED)) for margin, pooled in PROMISES)
    found = next((one for one in routes if one is not None and one.largest <= int(hours * rate / passes)), None)
    if found is None:
        text = f"{hours * rate:,.0f} items in {passes:g} passes decide nothing"
        raise UsageError(f"--hours {hours:g} at --rate {rate:g}: {text}; give more hours or fewer candidates")
    lines = [f"  - {{name: {one}, quantization: {method}}}\n" for one, method in zip(candidates, methods, strict=True)]
    head = f"# {model} against {', '.join(candidates)}: written by `quantcliff init` for {hours:g} hours at {rate:,.0f}"
    text = f"{head} items an hour.\n{_config(model, ''.join(lines), passes, found)}"
    parse(yaml.safe_load(text), "the config that init wrote")
    return text


def _config(model: str, candidates: str, passes: float, found: Route) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name).strip("-._")[:48] or "model"
    margin, pooled, items = found.design.margins[0], found.design.pooled, math.ceil(found.largest / STRATA)
    policy = {"alpha": 0.05, "margin": margin, "spending": str(RECOMMENDED)}
    promise = f"# A pass promises that none of them drops by {margin * 100:g} points or more"
    if pooled is not None:
        policy["pooled_margin"] = pooled
        promise += f",\n# and that their mean drops by less than {pooled * 100:g}; a single one may hide more."
    largest, expected = (f"{math.ceil(one * passes):,}" for one in (found.largest, found.expected))
    template = string.Template(Path(__file__).with_name("starting.yaml.in").read_text(encoding="utf-8"))
    values = {"name": name, "candidates": candidates, "strata": STRATA, "items": items, "promise": promise}
    values |= {"model": yaml.safe_dump([model], default_flow_style=True, width=10_000)[1:-2], "passes": f"{passes:g}"}
    values |= {"largest": largest, "expected": expected, "power": f"{found.power:.0%}"}
    values |= {"discordance": f"{found.design.discordance:.0%}"}
    values |= {"policy": yaml.safe_dump(policy, default_flow_style=True, width=200).strip()}
    return template.substitute(values)


def _method(name: str) -> str:
    """Return a method by its name, or by what it is called without its library. Raises UsageError."""
    usable = [one for one, method in METHODS.items() if one != "none" and not method.from_checkpoint]
    fitting = [one for one in usable if name in (one, one.partition("-")[2])]
    if not fitting:
        known = ", ".join(sorted(one.partition("-")[2] or one for one in usable))
        raise UsageError(f"--candidates {name}: is not a method that is applied as a model loads; there are: {known}")
    return fitting[0]
