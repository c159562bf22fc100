"""Our engine as an lm_eval model, ``quantcliff``, with the arguments of lm_eval's own ``hf``.

`python scripts/lm_eval_model.py --model quantcliff ...` is lm_eval's command line with it; Python calls `register`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from harness.engines.transformers.decode import Request
from harness.engines.transformers.engine import HFEngine
from harness.engines.transformers.items import Continuation, TextGeneration, score_choices
from harness.engines.transformers.text import StopDetector
from harness.records import Proof, Settings

NAME = "quantcliff"  # what it is called on lm_eval's command line

# Arguments of generation that the engine knows; with any other, lm_eval's own way is taken.
SAMPLED_BY_US = frozenset({"do_sample", "temperature", "top_p", "until", "max_gen_toks"})
ROWS = 64  # rows at once where lm_eval is asked to find out by itself


class QuantcliffLM(HFLM):
    """lm_eval's ``hf`` model with its two inner loops replaced.

    Takes every argument of `HFLM`, and `batch_tokens`: the largest batch in padded tokens. Encoder-decoder models, and
    generation with beams, penalties and the like, go lm_eval's own way.
    """

    def __init__(self, *args: Any, batch_tokens: int = 16384, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._engine: HFEngine | None = None
        if self.backend != "causal":
            return
        proof = Proof("unknown", "", 0, 0, 0.0, 0, 0, str(self.model.dtype), 0, "")
        rows = ROWS if self.batch_size == "auto" else max(int(self.batch_size), ROWS)
        how: dict[str, Any] = {"device": str(self.device), "batch_tokens": int(batch_tokens), "max_batch": rows}
        self._engine = HFEngine(self.model, self.tokenizer, proof, **how)

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Weigh continuations, [(texts, context tokens, continuation tokens)]; too long ones are cut from the left."""
        if self._engine is None:
            answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *args, **kwargs)
            return answers
        asked = []
        for number, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)
            asked.append(Continuation(f"request {number}", number, tuple(context[-room:]), tuple(continuation)))
        found = {one.choice: (one.logprob, one.greedy) for one in score_choices(self._engine.context, asked)}
        for number, (texts, _, _) in enumerate(requests):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[number])
        return [found[number] for number in range(len(requests))]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: FBT001, FBT002  # lm_eval's signature
        """Answer prompts in free text, in lm_eval's order."""
        plain = [normalize_gen_kwargs(dict(request.args[1]), self.max_gen_toks) for request in requests]
        known = all(set(arguments) <= SAMPLED_BY_US for arguments in plain)
        if self._engine is None or not known or isinstance(self.think_end_token, int):
            theirs: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
            return theirs
        texts: dict[int, str] = {}
        settings = [_settings(arguments) for arguments in plain]
        for one in sorted(set(settings), key=str):
            mine = [number for number, own in enumerate(settings) if own == one]
            asked = [self._request(self._engine, number, requests[number].args[0], plain[number]) for number in mine]
            for answer in TextGeneration(self._engine.context, one).decode(asked):
                number = int(answer.request.item_id.removeprefix("request "))
                decoded, stops = self.tok_decode(answer.ids), self._stops(plain[number])
                texts[number] = postprocess_generated_text(decoded, stops, self.think_end_token)
                self.cache_hook.add_partial("generate_until", tuple(requests[number].args), texts[number])
        return [texts[number] for number in range(len(requests))]

    def _request(self, engine: HFEngine, number: int, context: str, arguments: Mapping[str, Any]) -> Request:
        ids, _ = self.tok_batch_encode([context], truncation=self.truncation)
        room = self.max_length - arguments["max_gen_toks"]
        watch = StopDetector(engine.context.texts, self._stops(arguments))
        prompt = tuple(ids[0].tolist()[-room:])
        return Request(f"request {number}", 0, prompt, arguments["max_gen_toks"], watch)

    def _stops(self, arguments: Mapping[str, Any]) -> list[str]:
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        return list(handle_stop_sequences(list(arguments["until"]), eos=eos))


def _settings(arguments: Mapping[str, Any]) -> Settings:
    temperature = float(arguments.get("temperature", 1.0)) if arguments.get("do_sample") else 0.0
    return Settings(temperature=temperature, top_p=float(arguments.get("top_p", 1.0)))


def register() -> None:
    """Make ``--model quantcliff`` known to lm_eval in this process. Calling it again changes nothing."""
    register_model(NAME)(QuantcliffLM)


def main() -> None:
    """Run lm_eval's command line with our model registered."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
