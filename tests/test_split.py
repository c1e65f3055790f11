"""Cutting a response into steps loses nothing, whatever the tokenizer and whatever the ids."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openrlhf_negdata.steps.split import PRESETS, Segmentation, first_step, split_steps, step_offsets
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
#: Prose and LaTeX, with all that ends a sentence or a formula or only looks so.
PROSE = st.lists(
    st.sampled_from(
        [
            *(
                "The cat",
                " sat",
                "Then",
                "x",
                "é",
                "漢",
                " ",
                "  ",
                "\n",
                "\n\n",
                "\n ",
                ". ",
                ".",
                "? ",
                '." ',
                "!) ",
            ),
            *(
                "$",
                "$5",
                " $",
                "$$",
                " 5",
                "1.",
                "Mr. ",
                "(e.g. ",
                "**",
                "_",
                "\\$",
                "\\\\",
                "\\(",
                "\\)",
                "\\[",
                "\\]",
            ),
            *("\\begin{a}", "\\end{a}", "\\begin{b}", "\\end{b}", " for as long as it takes"),
        ]
    ),
    max_size=30,
).map("".join)
NAMED = pytest.mark.parametrize("preset", PRESETS)


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


def check_lossless(ids, tokenizer, task, segmentation=PRESETS["task"]) -> list[tuple[int, int]]:
    steps = split_steps(ids, tokenizer, task, segmentation)
    assert [token for start, end in steps for token in ids[start:end]] == list(ids)
    assert all(start < end for start, end in steps)
    assert [start for start, _ in steps] == [0, *(end for _, end in steps)][: len(steps)]
    assert first_step(ids, tokenizer, task, segmentation) == (steps[0][1] if steps else 0)
    return steps


def check_delimiters(ids, tokenizer, task, segmentation=PRESETS["task"]) -> None:
    """A step ends with the first token by whose end the text holds a whole delimiter, found one token at a time."""
    text = text_of(tokenizer, ids)
    grown = [text_of(tokenizer, ids[:count]).rstrip("\ufffd") for count in range(len(ids))] + [text]
    assert all(text.startswith(so_far) for so_far in grown)
    ends = {
        next(count for count, so_far in enumerate(grown) if len(so_far) >= offset)
        for offset in step_offsets(text, task, segmentation)
    }
    assert {end for _, end in check_lossless(ids, tokenizer, task, segmentation)} == (ends | {len(ids)}) - {0}


def steps_of(text, segmentation) -> list[str]:
    edges = [0, *step_offsets(text, load("gsm8k"), segmentation), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def plain(text) -> int:
    return len(text.strip())


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


def test_the_default_is_the_task_s_own_steps(tokenizers):
    tokenizer, task = tokenizers["character"], load("running_value")
    text = "1 ; 2\n3 ; 4"
    assert step_offsets(text, task) == task.step_ends(text) != step_offsets(text, task, PRESETS["line"])
    ids = encode(tokenizer, text)
    assert split_steps(ids, tokenizer, task) == split_steps(ids, tokenizer, task, PRESETS["task"])
    assert split_steps(ids, tokenizer, task) != split_steps(ids, tokenizer, task, PRESETS["line"])


@pytest.mark.parametrize(
    "steps",
    [
        ["a\n\n", "b\n", " c"],
        ["a\n \n", "b. C\n"],
        ["\n\na\n", "b"],
        [" \n"],
    ],
)
def test_lines(steps):
    assert steps_of("".join(steps), PRESETS["line"]) == steps


@pytest.mark.parametrize("steps", [["a\nb\n\n", "c\n \n", "d\n\n"], ["a\nb"], ["a\n\n\n", "  b"], ["\n\na\n\n"]])
def test_paragraphs(steps):
    assert steps_of("".join(steps), PRESETS["paragraph"]) == steps


@pytest.mark.parametrize(
    "steps",
    [
        ["He has 2.", " She has 3!", " Who wins?", " They tie."],
        ["One.\n", "Two.", "  Three\n\n", " four"],
        ['He said "I won."', " Then (after all.)", " **He left.**", ' "Good," she said.'],
        ["Écoute.", " Élan."],
        ["It is 3.5 or .5, e.g. 5, i.e. A, at No. 5, as Mr. Smith (or J. Smith, U.S. Army) vs. Mrs. Smith says."],
        ["It is 5. and then there are 5. 3 are left."],
        ["1. Add them up.", " It is 2.", " Done.\n", "12. Stop."],
        # mathematics
        ["Then $f=1. Y$ holds.", " Next"],
        ["So $x=5.$", " Then \\(y=6.\\)", " Now $$z = 7. $$", " Done"],
        ["We get\n", "$$\nf. Y\n$$\n", "so"],
        ["\\[\na\n\\] and \\begin{align}\na1. B\n\\end{align}\n", "and \\(a\nb1. B\\) it is"],
        ["\\begin{array}\n\\begin{array}\nA\n\\end{array}\n\\end{array}\n", "B"],
        ["\\[ a\n\\\\[2pt]\nb \\]\n", "\\[ c \\]"],
        # money, and mathematics beside it
        ["She earns $5 per hour.", " He earns $10.", " Bob has $3."],
        ["He pays ($5).", " She pays ($10).", " Both pay 3*$5=$15."],
        ["It costs $5.", " Then $f=3$ holds.", " Now $f=4. Z$ too."],
        ["In US$.", " Then in US$ again.", " He pays 5$.", " She pays 6$.", " So"],
        ["It is \\$5.", " Then 6\\$ too.", " It is 5 $ now.", " Then 6$ too."],
        # what nothing closes is text
        ["Open $it.", " It\n", "ends$.", " Now"],
        ["\\[ it.", " But\n\n", "it \\] is."],
        ["$$ open.", " Then \\( open.", " Then \\begin{a} open.", " Then \\[ open.", " Then \\[ shut. Yes \\]."],
    ],
)
def test_sentences(steps):
    assert steps_of("".join(steps), PRESETS["sentence"]) == steps


@pytest.mark.parametrize(
    ("segmentation", "steps"),
    [
        (Segmentation("line", min_chars=3), ["a\nbcd\n", "e\nf"]),
        (Segmentation("line", min_chars=3), ["abc\n", "def\ng"]),
        (Segmentation("line", min_chars=3), ["a\n"]),
        (Segmentation("task", min_chars=1), ["\n\nabc\n", "d"]),
        (Segmentation("line", max_chars=7), ["aa bb", " cc dd\n", "ee"]),
        (Segmentation("line", max_chars=5), ["aa bb", " cc dd", "  ee ff"]),
        (Segmentation("line", max_chars=7), ["aaaaaaaaa bb"]),
        (Segmentation("paragraph", max_chars=6), ["aa bb\n", "cc"]),
        (Segmentation("task", max_chars=8), ["so", " $a + b + c$ is it"]),
        (Segmentation("line", min_chars=4, max_chars=8), ["aa bb ccc"]),
        (Segmentation("line", min_chars=4, max_chars=8), ["aaaa", " bb ccc"]),
        (Segmentation("line", max_steps=2), ["a\n", "b\nc\nd"]),
        (Segmentation("line", max_steps=1), ["a\nb\nc"]),
        (
            PRESETS["vineppo"],
            ["Yes. It is so. Then we add all of the numbers.", " Now he has twelve apples. Done.\n"],
        ),
        # 119 characters: a cut at 99 would leave 19
        (PRESETS["vineppo"], [("abcdefghi " * 9)[:-1], " abcdefghi" * 3]),
        (
            PRESETS["self_explore"],
            [f"This is line number {i}.\n" for i in range(8)] + ["This is line nine, or 9.\n" * 4],
        ),
    ],
)
def test_short_steps_are_merged_long_ones_cut_and_many_joined(segmentation, steps):
    assert steps_of("".join(steps), segmentation) == steps


def test_no_dollar_of_gsm8k_hides_the_end_of_a_sentence(gsm8k_rows):
    """60 problems with some 160 amounts of money, and not one formula."""
    texts = [text for row in gsm8k_rows for text in (row["question"], row["answer"])]
    assert sum(text.count("$") for text in texts) > 150
    for text in texts:
        ends = {match.end() for match in re.finditer(r"(?<!Mrs)(?<=\w\w\w)[.?!](?= +[A-Z$])|\n(?=.)", text)}
        assert ends <= {*step_offsets(text, load("gsm8k"), PRESETS["sentence"])}
        assert step_offsets(text, load("gsm8k"), PRESETS["line"]) == load("gsm8k").step_ends(text)


@NAMED
def test_a_cut_lies_after_newlines_or_before_spaces(preset):
    @settings(max_examples=300, deadline=None)
    @given(PROSE)
    def check(text):
        steps = steps_of(text, PRESETS[preset])
        assert "".join(steps) == text
        for before, after in zip(steps, steps[1:], strict=False):
            assert before.endswith("\n") or (not before[-1].isspace() and after[:1].isspace())

    check()


@NAMED
def test_steps_have_the_lengths_asked_for(preset):
    shape = PRESETS[preset]

    @settings(max_examples=300, deadline=None)
    @given(PROSE, st.lists(st.text("abc.A", min_size=1, max_size=10), max_size=60))
    def check(text, words):
        # Without mathematics and with words this short there is always a place to cut.
        for steps in (steps_of(text, shape), steps_of(" ".join(words), shape)):
            assert len(steps) == 1 or all(plain(step) >= shape.min_chars for step in steps)
            assert not shape.max_steps or len(steps) <= shape.max_steps
        assert not shape.max_chars or all(plain(step) <= shape.max_chars for step in steps)

    check()


TEXT_TASKS = [load("gsm8k"), load("math")]


class Counting:
    """A tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.decoded = tokenizer, 0
        self.all_special_ids, self.unk_token_id = tokenizer.all_special_ids, tokenizer.unk_token_id
        self.eos_token_id = tokenizer.eos_token_id

    def decode(self, ids, **how) -> str:
        self.decoded += len(ids)
        return self.tokenizer.decode(ids, **how)


def slow_ends(ids, tokenizer, task, segmentation) -> tuple[list[int], bool]:
    """The ends by definition: every prefix is decoded. And whether the text grows with every token."""
    text, lengths = text_of(tokenizer, ids), []
    for count in range(len(ids)):
        grown = [text_of(tokenizer, ids[:whole]) for whole in range(count, max(count - 4, -1), -1)]
        whole = next((one for one in grown if not one.endswith("\ufffd")), grown[-1].rstrip("\ufffd"))
        lengths.append(len(whole))
    lengths.append(len(text))
    offsets = step_offsets(text, task, segmentation)
    cuts = {next(count for count, length in enumerate(lengths) if length >= offset) for offset in offsets}
    return sorted(cuts - {0, len(ids)}) + [len(ids)] * bool(ids), lengths == sorted(lengths)


@pytest.mark.parametrize("kind", [*KINDS, "tekken"])
def test_cuts_are_those_of_decoding_every_prefix(tokenizers, kind, request):
    tokenizer = tokenizers.get(kind) or request.getfixturevalue(kind)
    task, seen = TEXT_TASKS[1], []
    newline = encode(tokenizer, "漢. So\n\n🙂 é")
    ids_of = st.one_of(
        st.lists(st.one_of(st.integers(0, len(tokenizer) - 1), st.sampled_from(newline)), max_size=150),
        st.lists(st.one_of(TEXTS, PROSE), max_size=8).map(
            lambda parts: [t for p in parts for t in encode(tokenizer, p)]
        ),
    )

    @settings(max_examples=120, deadline=None)
    @example(encode(tokenizer, "So it is.\n" * 8))  # what is drawn may have few lines
    @given(ids_of)
    def check(ids):
        ids = [token for token in ids if token not in tokenizer.all_special_ids]
        ends, grows = slow_ends(ids, tokenizer, task, PRESETS["line"])
        steps = check_lossless(ids, tokenizer, task, PRESETS["line"])
        # Bytes that are no text may take back characters before them; then there is no first token that reaches one.
        if grows:
            assert [end for _, end in steps] == ends
            seen.append(len(ends))

    check()
    assert max(seen) > 5


@pytest.mark.parametrize("kind", [*KINDS, "tekken"])
def test_the_tokens_decoded_grow_as_the_response_does(tokenizers, kind, request, gsm8k_rows):
    tokenizer, task = tokenizers.get(kind) or request.getfixturevalue(kind), load("gsm8k")
    text = "\n".join(row["answer"] for row in gsm8k_rows)
    ids = [token for token in encode(tokenizer, text) if token not in tokenizer.all_special_ids]
    for many in (1, 4):
        counting = Counting(tokenizer)
        split_steps(ids * many, counting, task)
        assert counting.decoded < 25 * many * len(ids)
        counting.decoded = 0
        first_step(ids * many, counting, task)
        assert counting.decoded < many * len(ids) + 1000


@pytest.mark.parametrize("task", TEXT_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", [*KINDS, "tekken"])
def test_the_first_step_of_a_rollout_is_the_step_of_the_whole(tokenizers, kind, preset, task, request):
    """Of any tokenizer, though tokens straddle steps, and of presets that count steps."""
    tokenizer = tokenizers.get(kind) or request.getfixturevalue(kind)

    @settings(max_examples=15, deadline=None)
    @given(PROSE)
    def check(text):
        ids = encode(tokenizer, text)
        for start, end in split_steps(ids, tokenizer, task, PRESETS[preset]):
            assert first_step(ids, tokenizer, task, PRESETS[preset], start) == end

    check()


@pytest.mark.parametrize("task", TEXT_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("preset", [name for name, shape in PRESETS.items() if not shape.max_steps])
def test_what_follows_a_step_is_cut_as_it_is_within_the_whole(preset, task):
    @settings(max_examples=400, deadline=None)
    @given(PROSE)
    def check(text):
        offsets = step_offsets(text, task, PRESETS[preset])
        for start in offsets:
            rest = step_offsets(text[start:], task, PRESETS[preset])
            assert rest == [end - start for end in offsets if end > start]

    check()


@pytest.mark.parametrize("kind", [*KINDS, "tekken"])
def test_every_preset_is_lossless_and_cuts_after_the_delimiter(tokenizers, kind, request):
    tokenizer, task = tokenizers.get(kind) or request.getfixturevalue(kind), load("gsm8k")

    @settings(max_examples=60, deadline=None)
    @given(PROSE, TEXTS)
    def check(prose, anything):
        for segmentation in PRESETS.values():
            check_delimiters(encode(tokenizer, prose), tokenizer, task, segmentation)
            check_lossless(encode(tokenizer, anything), tokenizer, task, segmentation)

    check()


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece", "character", "tekken"])
def test_a_continuation_is_cut_as_it_is_within_the_response(tokenizers, kind, request):
    """Where no token holds both the end of a step and what comes after it."""
    tokenizer, task = tokenizers.get(kind) or request.getfixturevalue(kind), load("gsm8k")

    @settings(max_examples=60, deadline=None)
    @given(PROSE)
    def check(text):
        ids = encode(tokenizer, text)
        for preset in ("task", "line", "paragraph", "sentence", "vineppo"):
            steps = split_steps(ids, tokenizer, task, PRESETS[preset])
            for number, (start, _) in enumerate(steps):
                rest = split_steps(ids[start:], tokenizer, task, PRESETS[preset])
                assert [(start + a, start + b) for a, b in rest] == steps[number:]

    check()


def test_a_sentence_ends_before_the_token_of_the_next_word(tekken):
    ids = encode(tekken, "She earns $5 per hour. He earns $10.\nSo $x = 1. Y$ holds. Now")
    steps = check_lossless(ids, tekken, load("gsm8k"), PRESETS["sentence"])
    assert [text_of(tekken, ids[start:end]) for start, end in steps] == [
        *("She earns $5 per hour.", " He earns $10.\n", "So $x = 1. Y$ holds.", " Now")
    ]
