"""The project's own engine: a transformers model on one device, exact, batched, with bounded memory.

`engine` is the way in. Text becomes tokens in `text`; `items` turns items into requests and the answers into records;
`continuous` decides what runs together, in rows and batches of `packing`. Rows go through the model in `model` and
`attention`, answers grow in `cache` (`decode`), `head` makes logits, and `divergence` compares two models. `probe`
finds out how a model may be asked.
"""
