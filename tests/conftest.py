"""Tokenizers of the kinds that cut text differently, trained here on GSM8K text: nothing is downloaded."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_negdata.cli.main import main

DATA = Path(__file__).with_name("data") / "gsm8k"
EOS = "</s>"

#: Files that take minutes, the longest first: where several processes share the tests, none is left waiting for them.
SLOW = (
    "end_to_end",
    "trainers",
    "ppo",
    "reasoning_gym",
    "launch",
    "openrlhf_hooks",
    "invariance",
    "evaluate",
    "step_dpo",
    "kill_cost",
    "synthesize",
    "upstream",
)


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))


def gsm8k_texts() -> list[str]:
    rows = [json.loads(line) for line in (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    return [f"Question: {row['question']}\nAnswer:\n{row['answer']}" for row in rows]


@pytest.fixture(autouse=True)
def no_exit_status_is_lost():
    """Where SIGCHLD is ignored every command that a test runs seems to succeed."""
    yield
    ignored = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn"))
    assert not int(ignored.split()[1], 16) & 1 << (signal.SIGCHLD - 1)


@pytest.fixture(scope="session")
def tokenizers() -> dict:
    """By kind. ``byte_bpe``: a character may be several tokens. ``sentencepiece``: words carry their leading space,
    newlines and rare characters are bytes. ``straddling``: a token may hold a newline and what follows it.
    ``character``: one token a character, and an unknown one."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = gsm8k_texts()

    byte_bpe = Tokenizer(models.BPE())
    byte_bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    byte_bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=700, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False),
    )

    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for text in texts for line in text.split("\n")]
    learnt.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=500, show_progress=False))
    learnt_model = json.loads(learnt.to_str())["model"]
    pieces = ["<unk>", EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt_model["vocab"]]
    sentencepiece = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [tuple(merge) for merge in learnt_model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    sentencepiece.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sentencepiece.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )

    straddling = Tokenizer(models.BPE(unk_token="<unk>"))
    straddling.pre_tokenizer = pre_tokenizers.Metaspace()
    straddling.decoder = decoders.Metaspace()
    straddling.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", EOS], show_progress=False)
    )

    characters = sorted({character for text in texts for character in text})
    character = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(["<unk>", EOS, *characters])}, [], unk_token="<unk>")
    )
    character.decoder = decoders.Fuse()

    made = {"byte_bpe": byte_bpe, "sentencepiece": sentencepiece, "straddling": straddling, "character": character}
    return {
        kind: PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token=EOS, unk_token=None if kind == "byte_bpe" else "<unk>"
        )
        for kind, backend in made.items()
    }


@pytest.fixture(scope="session")
def gsm8k_rows() -> list[dict]:
    """60 problems of GSM8K's train file, as published: ``question`` and ``answer``."""
    return [json.loads(line) for line in (DATA / "problems.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of an untrained Llama of 70,000 parameters that knows the words of running_value."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    size = ["--width", "64", "--layers", "1", "--heads", "2", "--max_len", "128"]
    assert main(["new_model", "--task", "running_value", *size, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    """``train(module, argv, die=None) -> (exit status, output)``: a trainer's command line in a process of its own
    that starts at once (see forked_trainer.py), on one thread, so that equal runs add up in one order."""
    log = tmp_path_factory.mktemp("train") / "log"
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked_trainer.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(log.with_name("datasets"))},
        text=True,
    )

    def run(module, argv, die=None):
        request = {"module": module, "argv": [str(word) for word in argv], "log": str(log), "die": die}
        print(json.dumps(request), file=server.stdin, flush=True)
        return int(server.stdout.readline()), log.read_text(encoding="utf-8")

    yield run
    server.stdin.close()
    server.wait()
