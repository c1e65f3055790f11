"""What identifies a model, what decides whether two can share an engine, and how long a sequence may be."""

import json
import os
import shutil

import pytest

from openrlhf_negdata import models
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.rollouts.prompts import Prompting
from openrlhf_negdata.tasks import load


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


LLAMA3 = {"original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def edit(path, **fields):
    made = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**made, **fields}))


@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model"),
        *("chat_template.json", "additional_chat_templates/tools.jinja", "modeling.py"),
    ],
)
def test_what_decides_prompts_stops_or_architecture_is_part_of_identity_and_serving_key(model, file):
    before = models.revision(model), models.serving_key(model)
    (model / file).parent.mkdir(exist_ok=True)
    if file.endswith(".json"):
        edit(model / file, another=1)
    else:
        (model / file).write_text("another")
    assert models.revision(model) != before[0]
    assert models.serving_key(model) != before[1]


def test_weights_are_part_of_the_identity_and_not_of_the_serving_key(model):
    before = models.revision(model), models.serving_key(model)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert models.revision(model) != before[0]
    assert models.serving_key(model) == before[1]


def test_what_no_loader_reads_is_not_part_of_the_identity(model):
    before = models.revision(model)
    for name in ("README.md", "training.json", "training_args.bin", "pytorch_model.bin"):
        (model / name).write_text("another")
    assert models.revision(model) == before
    edit(model / "model.safetensors.index.json", weight_map={"a": "model.safetensors"})
    assert models.revision(model) == before
    (model / "stray.safetensors").write_text("a shard that the index does not name")
    assert models.revision(model) == before
    edit(model / "model.safetensors.index.json", weight_map={"a": "model.safetensors", "b": "stray.safetensors"})
    assert models.revision(model) != before
    (model / "stray.safetensors").unlink()
    with pytest.raises(UserError, match=r"its index names stray\.safetensors, which is not there"):
        models.revision(model)


def test_config_entries_that_no_engine_reads_keep_two_models_together(model):
    before = models.serving_key(model)
    edit(model / "config.json", transformers_version="0", torch_dtype="float32", use_cache=False)
    assert models.serving_key(model) == before
    edit(model / "config.json", rope_theta=1e6)
    assert models.serving_key(model) != before


def test_digests_of_large_files_are_remembered_until_the_file_changes(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "LARGE", 1)
    monkeypatch.setattr(models, "LONG", 1)
    monkeypatch.setattr(models.time, "time_ns", lambda: 2**62)  # no file is fresh
    before = models.revision(model)
    assert "GB of weights" in capsys.readouterr().err
    assert models.revision(model) == before
    assert capsys.readouterr().err == ""  # nothing was read
    weights = model / "model.safetensors"
    times = weights.stat().st_mtime_ns
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(times, times))  # as rsync does
    assert models.revision(model) != before
    (tmp_path / "cache" / "openrlhf_negdata" / "digests.json").write_text("no JSON")
    after = models.revision(model)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("in the way")  # nothing can be written there
    assert models.revision(model) == after


def test_a_file_that_was_just_written_is_not_remembered(model, tmp_path, monkeypatch):
    """It may change again within one tick of the file system's clock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "LARGE", 1)
    (model / "tokenizer.json").touch()
    models.revision(model)
    cache = tmp_path / "cache" / "openrlhf_negdata" / "digests.json"
    assert str(model / "tokenizer.json") not in (cache.read_text() if cache.exists() else "")


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({}, 128),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 128),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, **LLAMA3}}, 128),
        ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, 128),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 512),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 256),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 256),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    ],
)
def test_the_longest_sequence_is_the_one_that_vllm_takes(model, rope, limit):
    from transformers import AutoConfig
    from vllm.config import ModelConfig

    config = json.loads((model / "config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("rope")} | rope
    if rope.get("rope_scaling", {}).get("type") == "longrope":
        size = config["head_dim"] // 2
        config["rope_scaling"] |= {"short_factor": [1.0] * size, "long_factor": [1.0] * size}
        config["original_max_position_embeddings"] = 128
    (model / "config.json").write_text(json.dumps(config))
    AutoConfig.from_pretrained(model)
    assert models.longest_sequence(model) == limit
    assert ModelConfig(str(model), max_model_len=limit).max_model_len == limit
    with pytest.raises(ValueError, match="max_model_len"):
        ModelConfig(str(model), max_model_len=limit + 1)
    assert models.check_length(model, {"a": limit - 9, "b": 1}, 9) == limit
    with pytest.raises(UserError, match=f"takes {limit} tokens, "):
        models.check_length(model, {"a": limit - 9, "b": 1}, 10)


def test_prompts_that_are_too_long_are_named_with_their_number_and_what_to_do(model):
    prompts = {"short": 28} | {f"long{i}": 100 + i for i in range(5)}
    with pytest.raises(UserError) as told:
        models.check_length(model, prompts, 27)
    assert str(told.value).endswith(
        "takes 128 tokens, prompt and response together: with --rollout.max_new_tokens 27 the prompts of 3 of 6 "
        "problems are too long, by id (tokens): long2 (102), long3 (103), long4 (104); lower "
        "--rollout.max_new_tokens to 24, or leave these problems out"
    )
    with pytest.raises(UserError, match=r"of 4 of 6 problems .*: long1 .*, long3 \(103\), \.\.\.; lower"):
        models.check_length(model, prompts, 28)
    # Nothing is left for a response: a smaller limit does not help.
    with pytest.raises(UserError, match=r"of 1 of 2 problems .*: whole \(128\); leave these problems out"):
        models.check_length(model, {"short": 28, "whole": 128}, 28)


def test_a_chat_template_that_is_not_there_or_fails_is_one_line(tiny_model):
    tokenizer, task = models.load_tokenizer(str(tiny_model)), load("running_value")
    for template in (None, "{{ raise_exception('system role\nis required') }}"):
        tokenizer.chat_template = template
        with pytest.raises(UserError, match="--data.apply_chat_template: .*model: ") as told:
            Prompting(chat_template=True).encoder(tokenizer, task)("1 +1 ?")
        assert "\n" not in str(told.value)
