"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

`engine` is the way in. Text becomes tokens in `text`; `generate` and `loglikelihood` turn items into requests and the
answers into records; `scheduler` and `batches` decide what runs together, in rows of `packing`. Rows go through the
model in `prefill`, `attention` and `model`, answers grow in `cache` (`continuous`, `decode`, `sampling`), `head` makes
logits, and `divergence` and `traces` compare two models.
"""
