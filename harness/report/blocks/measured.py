"""How sure the figures are and how they were made: A/A noise, answers spent, provenance."""

from collections.abc import Mapping
from typing import Any

from harness.judge.decisions import points
from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.evidence import Evidence
from harness.report.section import Block, Section, names


def control_sentence(judgement: Judgement) -> str:
    """Return what differs if nothing but the batching does; empty if it was not measured."""
    found = {(one.slice, one.stratum): one for candidate in judgement.candidates for one in candidate.strata}
    own = judgement.control.strata if judgement.control is not None else ()
    asked = {(one.slice, one.stratum): one.n for one in reversed(own)}
    known = [(asked.get(key, one.n), one.control, one) for key, one in found.items() if one.control is not None]
    if not known:
        return ""
    items, flips = sum(n for n, *_ in known), sum(noise.flips for _, noise, _ in known)
    text = f"The baseline against itself at another batch size flipped {flips} of {items:,} items"
    _, noise, worst = max(known, key=lambda one: abs(one[1].delta))
    if noise.delta:
        text += f"; the largest difference is {points(noise.delta)} points in {words.place(worst)}"
    if judgement.control is not None and judgement.control.verdict == "fail":
        text += "; it FAILS the gate itself, so nothing here can be compared"
    return f"{text}."


def _noise(judgement: Judgement, _: Evidence) -> Section:
    judged = any(one.strata for one in judgement.candidates)
    return Section.listed("A/A noise", [control_sentence(judgement) or _NO_NOISE] if judged else [])


def answers_spent(judgement: Judgement, evidence: Evidence) -> tuple[int, int] | None:
    """Return answers asked and answers that the fixed plan asks for; None if no plan is known."""
    if evidence.items_spent is not None and evidence.items_planned is not None:
        return evidence.items_spent, evidence.items_planned
    known = [one for candidate in judgement.candidates for one in candidate.strata if one.items_planned]
    return (sum(one.n for one in known), sum(max(one.items_planned, one.n) for one in known)) if known else None


def provenance(judgement: Judgement, evidence: Evidence) -> Section:
    """Return every fact about how the figures were made."""
    facts = {"results": evidence.path, **flat({**judgement.provenance, **evidence.provenance})}
    known = facts | flat({"policy": judgement.policy}) if any(facts.values()) else {}
    rows = tuple((name, value) for name, value in known.items() if value)
    return Section("How it was measured", names("what", "value"), rows, folded="every digest, version, device, setting")


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return nested facts as ``path.to.key`` and text, in the order they came; empty values are left out."""
    facts: dict[str, str] = {}
    for key, one in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(one, Mapping):
            facts |= flat(one, name)
        elif isinstance(one, (list, tuple)):
            facts |= {name: " ".join(map(str, one))} if one else {}
        elif one is not None and one != "":
            facts[name] = str(one)
    return facts


def measured(judgement: Judgement, evidence: Evidence) -> list[str]:
    """Return how the figures were made, as far as the files know it, in a few sentences."""
    known = {(one.slice, one.stratum): one for candidate in judgement.candidates for one in candidate.strata}
    if not known:
        return []
    facts, count, slices = evidence.provenance, len(known), len({label for label, _ in known})

    def variant(name: str) -> str:
        about = ", ".join(str(one) for key in ("quantization", "dtype") if (one := facts.get(key, {}).get(name)))
        return f"{name} ({about})" if about else name

    base, *others = map(variant, (judgement.baseline, *(one.name for one in judgement.candidates)))
    where = f"{count} strat{'um' if count == 1 else 'a'} of {slices} slice{'' if slices == 1 else 's'}"
    items = sum(one.n for one in known.values())
    said = [f"{', '.join(others)} answered the same {items:,} items as {base}, compared item by item in {where}"]
    if devices := dict.fromkeys(facts.get("devices", {}).values()):
        said.append(f"device: {', '.join(devices)}")
    if sampling := facts.get("sampling"):
        how = ", ".join(f"{key} {sampling[key]}" for key in ("temperature", "top_p", "samples") if key in sampling)
        said.append("answers chosen greedily" if sampling.get("temperature") == 0 else f"answers sampled with {how}")
    if (seed := facts.get("seed", judgement.provenance.get("seed"))) is not None:
        said.append(f"seed {seed}")
    return said


def _provenance(judgement: Judgement, evidence: Evidence) -> list[Section]:
    said = ["; ".join(measured(judgement, evidence))]
    if spent := answers_spent(judgement, evidence):
        said.append(f"{spent[0]:,} answers of the {spent[1]:,} that the fixed plan asks for.")
    return [Section.listed("", filter(None, said), ("page",)), provenance(judgement, evidence)]


_NO_NOISE = "Not measured: a difference may be noise of batching."
_NO_FACTS = "The comparison came without provenance."
BLOCKS = (
    Block("noise", "A/A noise", _noise, {"terminal": 50, "markdown": 20}),
    Block("provenance", "How it was measured", _provenance, {"markdown": 100, "page": 130}, "Provenance", _NO_FACTS),
)
