"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

`engine` is the way in. Text becomes tokens in `text`, questions are asked in `ask_choices` and `ask_texts`, sequences
that begin alike share a row (`packing`), those answered together are a session (`sessions`, `batches`), rows go through
the model (`read`, `model`), answers grow in `slots` or as `branches` of one text (`continuous`, `decode`, `sampling`),
logits are made by `head`, and `divergence`, `showing` and `traces` compare two models.
"""
