"""Any lm_eval model as an engine: what it does not tell is worked out from the text by its tokenizer, else left out."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval import __version__ as lm_eval_version
from lm_eval.api.instance import Instance

from harness.engines.protocol import EngineBase
from harness.errors import NonFinite
from harness.records import ChoiceLogprobs, Generation, Item, Proof, Response, Settings, Unanswered
from harness.stops import cut_at_stops


class LmEvalEngine(EngineBase):
    """An lm_eval model, already made, behind the engine protocol; `name` tells its version from other models'."""

    def __init__(self, lm: Any, proof: Proof, *, name: str) -> None:
        super().__init__(proof)
        self._lm, self._name, self.version = lm, name, f"lm_eval/{lm_eval_version}-{name}"
        said = getattr(lm, "max_length", None)
        self.context_limit = int(said) if isinstance(said, int) else 2**31 - 1
        if hasattr(lm, "softmax_dtype") and lm.softmax_dtype is None:
            import torch

            lm.softmax_dtype = torch.float32  # in bf16 lm_eval's `hf` rounds log-likelihoods to whole numbers

    def answer(self, items: Sequence[Item], settings: Settings) -> Iterator[Response]:
        """Yield the responses, choices first. Raises NonFinite where a log-likelihood is not a number."""
        fitting = []
        for item in items:
            tokens = self._count(item)
            if tokens is not None and tokens + item.max_tokens > self.context_limit + (item.kind == "choice"):
                samples = settings.samples if item.kind == "generate" else 1
                yield from (Unanswered(item.id, "over_context", tokens, sample) for sample in range(samples))
            else:
                fitting.append(item)
        if choices := [item for item in fitting if item.kind == "choice"]:
            yield from self._choices(choices)
        if texts := [item for item in fitting if item.kind == "generate"]:
            for sample in range(settings.samples):
                yield from self._texts(texts, settings, sample)

    def _choices(self, items: Sequence[Item]) -> Iterator[Response]:
        asked = ((item, index, choice) for item in items for index, choice in enumerate(item.choices))
        requests = [Instance("loglikelihood", dict(one.doc), (one.prompt, choice), at) for one, at, choice in asked]
        answers = iter(self._lm.loglikelihood(requests, disable_tqdm=True))
        for item in items:
            pairs = [next(answers) for _ in item.choices]
            logprobs = tuple(float(logprob) for logprob, _ in pairs)
            if not all(map(math.isfinite, logprobs)):
                raise NonFinite(f"{item.id}: a log-likelihood is not finite: {logprobs}", item.id)
            counts = [self._pair(item.prompt, choice) for choice in item.choices]
            self._spent.prompt_tokens += sum(begin + rest - 1 for begin, rest in counts if rest)
            lengths, greedy = tuple(rest for _, rest in counts), tuple(bool(best) for _, best in pairs)
            yield ChoiceLogprobs(item.id, logprobs, lengths, greedy, counts[0][0] or item.prompt_tokens)

    def _texts(self, items: Sequence[Item], settings: Settings, sample: int) -> Iterator[Response]:
        if settings.temperature > 0:
            note = f"{self._name} draws its own random numbers: samples are not paired between variants"
            self._spent.notes.append(note)
        texts = self._generated([(item, item.stop) for item in items], settings, sample)
        # White space at the beginning never ends an answer: such items are asked again without white space that stops.
        again = [at for at, item in enumerate(items) if not texts[at].strip() and any(map(str.isspace, item.stop))]
        kept = [(items[at], tuple(one for one in items[at].stop if one.strip())) for at in again]
        for at, text in zip(again, self._generated(kept, settings, sample), strict=True):
            texts[at] = cut_at_stops(text, items[at].stop)
        for item, text in zip(items, texts, strict=True):
            ids, prompt = self._encode(text, add_special_tokens=False) or [], self._count(item) or item.prompt_tokens
            self._spent.prompt_tokens += prompt
            self._spent.output_tokens += len(ids)
            finish = "length" if len(ids) >= item.max_tokens > 0 else "eos"
            yield Generation(item.id, text, tuple(ids), finish, prompt, sample)  # type: ignore[arg-type]

    def _generated(self, asked: Sequence[tuple[Item, tuple[str, ...]]], settings: Settings, sample: int) -> list[str]:
        """Return the answer to each item, ended by the stop texts beside it."""
        drawn: dict[str, Any] = {"do_sample": False}
        if settings.temperature > 0:
            drawn = {"do_sample": True, "temperature": settings.temperature, "top_p": settings.top_p}
        requests = []
        for item, stop in asked:
            arguments = {"until": list(stop), "max_gen_toks": item.max_tokens, **drawn}
            requests.append(Instance("generate_until", dict(item.doc), (item.prompt, arguments), sample))
        return list(self._lm.generate_until(requests, disable_tqdm=True)) if requests else []

    def _encode(self, text: str, **special: bool) -> list[int] | None:
        """Return the tokens of a text; None if the model has no tokenizer in this process."""
        if getattr(self._lm, "tokenizer", None) is None or not hasattr(self._lm, "tok_encode"):
            return None
        return [int(one) for one in self._lm.tok_encode(text, **special)]

    def _pair(self, context: str, choice: str) -> tuple[int, int]:
        """Return the numbers of tokens of context and choice, zeros where they cannot be counted."""
        if not context or self._encode("", add_special_tokens=False) is None or not hasattr(self._lm, "_encode_pair"):
            return 0, 0
        begin, rest = self._lm._encode_pair(context, choice)  # noqa: SLF001  # no public way to lm_eval's own split
        return len(begin), len(rest)

    def _count(self, item: Item) -> int | None:
        """Return the tokens of a prompt and its longest choice; None where they cannot be counted."""
        if item.kind == "generate":
            ids = self._encode(item.prompt)
            return None if ids is None else len(ids)
        return max((sum(self._pair(item.prompt, choice)) for choice in item.choices), default=0) or None
