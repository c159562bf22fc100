"""Rows of sequences that begin alike, batches, and stop texts: the parts of the engine that need no model."""

from __future__ import annotations

import random

import engine_models as tiny
import numpy as np
import pytest
from lazily import lazy

from harness.errors import ModelError, RunError
from harness.stops import cut_at_stops

hf_packing = lazy("harness.engines.transformers.packing")
hf_text = lazy("harness.engines.transformers.text")


def sequences(draw: random.Random) -> list[list[int]]:
    """A few short sequences over two or three tokens, many of them beginning alike."""
    begin = [draw.randint(0, 2) for _ in range(draw.randint(0, 5))]
    count = draw.randint(1, 7)
    return [
        (begin if draw.random() < 0.8 else []) + [draw.randint(0, 1) for _ in range(draw.randint(1, 6))]
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_every_token_sees_its_own_sequence_and_nothing_else(seed):
    """For random sequences: each path spells its sequence, the mask shows exactly the tokens before, each once."""
    draw = random.Random(seed)
    for _ in range(100):
        wanted = sequences(draw)
        row = hf_packing.pack(wanted)
        length = len(row.tokens)
        assert length == len({tuple(one[: depth + 1]) for one in wanted for depth in range(len(one))})
        for one, path in zip(wanted, row.paths, strict=True):
            assert row.tokens[path].tolist() == one
            assert row.positions[path].tolist() == list(range(len(one)))
            for depth, query in enumerate(path):
                visible = [key for key in range(length) if key <= query < row.ends[key]]
                assert visible == path[: depth + 1].tolist()


def test_the_shared_prefix_is_what_comes_before_the_first_branch():
    """Two sequences that share three tokens have a prefix of three; one sequence is all prefix."""
    assert hf_packing.pack([[1, 2, 3, 4, 5], [1, 2, 3, 6]]).shared_prefix == 3
    assert not hf_packing.pack([[1, 2, 3, 4, 5], [1, 2, 3, 6]]).single
    assert hf_packing.pack([[1, 2, 3]]).shared_prefix == 3
    assert hf_packing.pack([[1, 2, 3]]).single
    assert hf_packing.pack([[1], [2]]).shared_prefix == 0


def test_only_a_long_enough_beginning_is_worth_a_common_row():
    """Questions on one haystack share a row, a few common tokens do not, and a row has an end."""
    hay, other = list(range(100)), list(range(200, 300))
    questions = [[*hay, 7, n] for n in range(3)] + [[*other, 7, n] for n in range(2)]
    assert sorted(sorted(group) for group in hf_packing.group_by_prefix(questions)) == [[0, 1, 2], [3, 4]]
    few = [[1, 2, 3, n, n] for n in range(4)]
    assert hf_packing.group_by_prefix(few) == [[0], [1], [2], [3]]
    many = [[*hay, n, *range(30)] for n in range(10)]
    assert [len(group) for group in hf_packing.group_by_prefix(many, most=100)] == [4, 4, 2]
    assert [len(group) for group in hf_packing.group_by_prefix(many, most=0)] == [1] * 10


def test_sharing_is_refused_where_little_of_a_sequence_is_shared():
    """A row whose sequences share less than a third would hide most of itself from itself."""
    beginning = list(range(30))
    assert len(hf_packing.group_by_prefix([[*beginning, n, *range(100, 190)] for n in range(2)])) == 2
    assert len(hf_packing.group_by_prefix([[*beginning, n, *range(100, 150)] for n in range(2)])) == 1


def test_batches_keep_the_budget():
    """No batch is over its rows or padded tokens, except a row that is over them alone; nothing is lost."""
    draw = random.Random(3)
    lengths = [draw.randint(1, 400) for _ in range(200)]
    batches = hf_packing.plan(lengths, hf_packing.Budget(tokens=1000, rows=7))
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert len(batch) <= 7
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 1000
    assert max(map(len, batches)) == 7


def test_rows_of_one_length_where_padding_is_forbidden():
    """A model with an opaque cache never gets a filled row."""
    lengths = [3, 5, 3, 5, 3]
    batches = hf_packing.plan(lengths, hf_packing.Budget(tokens=1000, rows=64, equal=True))
    assert sorted(map(sorted, batches)) == [[0, 2, 4], [1, 3]]


def test_a_long_shared_prefix_is_read_alone():
    """A tree with a prefix of 1024 tokens or more gets its own batch; sequences are kept from trees."""
    prefix = list(range(1100))
    trees = [[[*prefix, 1], [*prefix, 2]], [[1, 2, 3, 4]], [[1, 2, 3], [1, 2, 4]], [[5, 6]]]
    rows = [hf_packing.PackedRequests((number,), hf_packing.pack(tree)) for number, tree in enumerate(trees)]
    batches = hf_packing.plan_rows(rows, hf_packing.Budget(100_000, 64))
    assert [[row.requests[0] for row in batch] for batch in batches] == [[0], [2], [1, 3]]
    batches = hf_packing.plan_rows(rows, hf_packing.Budget(100_000, 64, prefix_alone=4096))
    assert [[row.requests[0] for row in batch] for batch in batches] == [[0, 2], [1, 3]]


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    """All answers come, in batches of what fits, and a note says so."""
    sizes = []

    def run(batch: list[int]) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return [one * 10 for one in batch]

    notes, batches = [], [list(range(8)), list(range(5))]
    found = hf_packing.run_batches(batches, run, lambda one: [one], str, notes)
    assert list(found) == [one * 10 for batch in batches for one in batch]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 1]
    assert notes == [
        "out of memory with 8 rows in a batch: went on with 4",
        "out of memory with 4 rows in a batch: went on with 2",
    ]


def test_an_item_that_does_not_fit_alone_is_named():
    """The error names the item and the remedy."""

    def run(batch: list[str]) -> list[str]:
        raise MemoryError

    with pytest.raises(RunError, match="t/7: out of memory with this item alone"):
        list(hf_packing.run_batches([["t/7", "t/8"]], run, lambda one: [one], str, []))


def test_other_errors_are_not_taken_for_lack_of_memory():
    """A plain RuntimeError is not one; a library without room for its workspace is."""
    assert hf_packing.out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert hf_packing.out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"))
    assert not hf_packing.out_of_memory(RuntimeError("shape mismatch"))
    assert hf_packing.device_failed(RuntimeError("CUDA error: device-side assert triggered"))
    assert not hf_packing.device_failed(RuntimeError("Expected all tensors to be on cuda:0"))
    assert not hf_packing.out_of_memory(ValueError("out of memory"))
    fails = hf_packing.run_batches(
        [[1, 2]], lambda _: (_ for _ in ()).throw(RuntimeError("shape")), lambda one: [one], str, []
    )
    with pytest.raises(RuntimeError, match="shape"):
        list(fails)


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("three", "two"), "one "),
        ("one", ("", "x"), "one"),
        ("", ("a",), ""),
        ("aXbYc", ("Y", "X"), "a"),
    ],
)
def test_an_answer_is_cut_as_lm_eval_cuts_it(text, stops, expected):
    """The same text as lm_eval's own function."""
    from lm_eval.models.utils import postprocess_generated_text

    assert cut_at_stops(text, stops) == expected
    assert postprocess_generated_text(text, list(stops), None) == expected


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("\n 42\nmore", ("\n",), "\n 42"),
        ("\n\n\n42\n\nmore", ("\n\n",), "\n\n\n42"),
        (" \t\r\n", (" ", "\n"), " \t\r\n"),
        ("\ndef f():\n", ("\n", "\ndef "), ""),
        ("\u3000\n七\n", ("\n",), "\u3000\n七"),
    ],
)
def test_white_space_at_the_beginning_ends_no_answer(text, stops, expected):
    """Stop texts of white space count from the first other character on; with other characters they count anywhere."""
    assert cut_at_stops(text, stops) == expected
    ids = tiny.tokenizer().encode(text)
    texts = hf_text.TextCodec(tiny.tokenizer())
    assert hf_text.StopDetector(texts, stops).stopped(ids) == (expected != text)
    assert not hf_text.StopDetector(texts, ("\n", "\n\n", " ")).stopped(tiny.tokenizer().encode("\n\n \n"))


def test_a_stop_text_is_seen_across_tokens_and_characters():
    """A stop text of several tokens and bytes stops an answer at the token that completes it, not before."""
    texts = hf_text.TextCodec(tiny.tokenizer())
    for stop in ("fox jumps", "Москва", "東京", "\n\n"):
        ids = tiny.tokenizer().encode(f"The quick brown {stop} over and out")
        watch = hf_text.StopDetector(texts, ("never", stop))
        ends = [count for count in range(1, len(ids) + 1) if watch.stopped(ids[:count])]
        assert ends == list(range(ends[0], len(ids) + 1))
        assert stop in tiny.tokenizer().decode(ids[: ends[0]])
        assert stop not in tiny.tokenizer().decode(ids[: ends[0] - 1])


def test_pairs_are_those_of_lm_eval():
    """Tokens of context and choice are `_encode_pair`'s, spaces at the end of the context moved."""
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=tiny.model("llama"), tokenizer=tiny.tokenizer())
    texts = hf_text.TextCodec(tiny.tokenizer())
    for context in ("Question: 12 plus", "Answer: ", "東京は  ", "<eos>already begun"):
        for choice in ("30", " Paris", "  two spaces", "は日本"):
            assert texts.pairs(context, [choice], "t/1") == [tuple(lm._encode_pair(context, choice))]


def test_a_choice_without_a_token_is_refused():
    """An empty choice has no probability; the error names item and choice."""
    with pytest.raises(ModelError, match="t/3: the choice '' adds no token"):
        hf_text.TextCodec(tiny.tokenizer()).pairs("context", ["a", ""], "t/3")


def test_ends_of_paths_are_the_last_tokens():
    """The states that predict a sequence's end are where its path ends, also for one that another goes on from."""
    row = hf_packing.pack([[1, 2], [1, 2, 3]])
    assert row.paths[0][-1] == row.paths[1][1]
    assert np.array_equal(row.tokens, [1, 2, 3])
