"""Cutting a response into steps loses nothing, whatever the tokenizer and whatever the ids."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_negdata.steps.split import first_step, split_steps
from openrlhf_negdata.tasks import load

KINDS = ("byte_bpe", "sentencepiece", "straddling", "character")
TASKS = [load("gsm8k"), load("running_value")]
#: Text with many delimiters, characters of several bytes, and what tokenizers treat in a way of their own.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["\n", "\n\n", " ;", "; ", "▁", "é", "漢", "🙂", "</s>", "<0x0A>", "\ufffd"]), st.text()
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="session")
def tekken():
    """The byte-level BPE of Mistral Nemo, as mistral_common ships it: 131,072 tokens."""
    mistral_common = pytest.importorskip("mistral_common")
    mistral = pytest.importorskip("transformers.integrations.mistral")
    path = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
    if not path.is_file():
        pytest.skip("this mistral_common ships no tekken_240911.json")
    return mistral.convert_tekken_tokenizer(str(path))


def text_of(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def encode(tokenizer, text) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def check_lossless(ids, tokenizer, task) -> list[tuple[int, int]]:
    steps = split_steps(ids, tokenizer, task)
    assert [token for start, end in steps for token in ids[start:end]] == list(ids)
    assert all(start < end for start, end in steps)
    assert [start for start, _ in steps] == [0, *(end for _, end in steps)][: len(steps)]
    assert first_step(ids, tokenizer, task) == (steps[0][1] if steps else 0)
    return steps


def check_delimiters(ids, tokenizer, task) -> None:
    """A step ends with the first token by whose end the text holds a whole delimiter, found one token at a time."""
    text = text_of(tokenizer, ids)
    grown = [text_of(tokenizer, ids[:count]).rstrip("\ufffd") for count in range(len(ids))] + [text]
    assert all(text.startswith(so_far) for so_far in grown)
    ends = {
        next(count for count, so_far in enumerate(grown) if len(so_far) >= offset) for offset in task.step_ends(text)
    }
    assert {end for _, end in check_lossless(ids, tokenizer, task)} == (ends | {len(ids)}) - {0}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_are_cut_without_loss(tokenizers, kind, task):
    tokenizer = tokenizers[kind]
    newline = encode(tokenizer, "1 ;\n2")

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.one_of(st.integers(0, len(tokenizer) - 1), st.sampled_from(newline)), max_size=40))
    def check(ids):
        check_lossless(ids, tokenizer, task)

    check()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("kind", KINDS)
def test_any_text_is_cut_without_loss_in_any_tokenization(tokenizers, kind, task):
    tokenizer = tokenizers[kind]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(TEXTS, max_size=4), st.booleans())
    def check(pieces, ended):
        # Pieces encoded apart and joined are mostly not what encoding the whole would give.
        ids = [token for piece in pieces for token in encode(tokenizer, piece)]
        check_lossless(ids + [tokenizer.eos_token_id] * ended, tokenizer, task)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_ends_with_the_first_token_that_completes_its_delimiter(tokenizers, kind):
    tokenizer = tokenizers[kind]

    @settings(max_examples=60, deadline=None)
    @given(st.text(st.sampled_from("a1 .;\n漢é"), min_size=1, max_size=60))
    def check(text):
        for task in TASKS:
            check_delimiters(encode(tokenizer, text), tokenizer, task)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_gsm8k_solutions_are_its_lines(tokenizers, kind, gsm8k_rows):
    """Each with the newline that ends it; a token that holds a newline and more goes with the line it ends."""
    tokenizer, task = tokenizers[kind], load("gsm8k")
    for row in gsm8k_rows:
        solution = row["answer"]
        ids = [*encode(tokenizer, solution), tokenizer.eos_token_id]
        steps = check_lossless(ids, tokenizer, task)
        lines = [text_of(tokenizer, ids[:end]) for _, end in steps[:-1]]
        expected = [solution[:end] for end in task.step_ends(solution)]
        if kind == "straddling":
            assert all(so_far.startswith(line) for so_far, line in zip(lines, expected, strict=True))
        else:
            assert lines == expected
        check_delimiters(ids[:-1], tokenizer, task)


def test_steps_of_a_tokenizer_in_use(tekken, gsm8k_rows):
    task = load("gsm8k")
    for row in gsm8k_rows[:20]:
        ids = encode(tekken, row["answer"])
        steps = check_lossless([*ids, tekken.eos_token_id], tekken, task)
        assert [text_of(tekken, ids[start:end]) for start, end in steps] == row["answer"].splitlines(keepends=True)
    for ids in ([], [1] * 9, list(range(0, 131_072, 997)), encode(tekken, "漢\n\n🙂\n")[:-1]):
        check_lossless(ids, tekken, task)


@pytest.mark.parametrize("kind", KINDS)
def test_end_of_sequence_belongs_to_the_last_step(tokenizers, kind):
    tokenizer, task = tokenizers[kind], load("gsm8k")
    eos = tokenizer.eos_token_id
    for text in ("a\nb\nc", "a\nb\n", "\n", "a"):
        ids = encode(tokenizer, text)
        without, ended = split_steps(ids, tokenizer, task), split_steps([*ids, eos], tokenizer, task)
        assert ended == [*without[:-1], (without[-1][0], len(ids) + 1)]
    assert split_steps([eos], tokenizer, task) == [(0, 1)]
    assert split_steps([], tokenizer, task) == []
    assert first_step([], tokenizer, task) == 0


def test_blank_lines_go_with_the_step_before_them(tokenizers):
    tokenizer, task = tokenizers["character"], load("gsm8k")
    assert split_steps(encode(tokenizer, "ab\n\n\ncd\ne"), tokenizer, task) == [(0, 5), (5, 8), (8, 9)]
    assert split_steps(encode(tokenizer, "\nab\n"), tokenizer, task) == [(0, 1), (1, 4)]


def test_a_character_of_several_tokens_is_not_reached_before_its_last(tokenizers):
    """漢 is three bytes, three tokens here; a task that ends steps at it ends them after the third."""
    task = load("gsm8k")
    task_at_han = type(
        "AtHan", (type(task),), {"step_ends": lambda _, text: [i + 1 for i, c in enumerate(text) if c == "漢"]}
    )()
    tokenizer = tokenizers["byte_bpe"]
    ids = encode(tokenizer, "a漢b")
    assert len(ids) == 5
    assert split_steps(ids, tokenizer, task_at_han) == [(0, 4), (4, 5)]
