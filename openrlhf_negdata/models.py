"""Model folders: found, checked before anything long starts, identified by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import write_json

#: Head sizes vLLM's CPU attention can run (vllm/v1/attention/backends/cpu_attn.py).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)

#: Files that decide, beside the weights, what a model is asked, what it computes and where it stops: its
#: architecture, its end tokens, its tokenizer, its chat templates, and code of its own.
DECIDING = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "chat_template.json", "*.jinja"),
    *("additional_chat_templates/*.jinja", "*.py"),
)
#: Entries of config.json and generation_config.json that no engine of ours reads: where a model came from and who
#: wrote the file; the type of the stored weights (--vllm.dtype says what engines run in); what only a trainer reads.
NOT_SERVED = {
    *("_name_or_path", "_commit_hash", "_from_model_config", "transformers_version", "dtype", "torch_dtype"),
    *("use_cache", "initializer_range", "attention_dropout", "hidden_dropout", "attention_probs_dropout_prob"),
}
#: Files that vLLM never takes for weights (filter_files_not_needed_for_inference).
NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "scaler.bin", "random_states.bin")
#: Bytes from which a file's digest is remembered, and from which hashing them all is said.
LARGE, LONG = 1 << 26, 1 << 32
#: Ropes for which max_position_embeddings is the extended length already (vLLM's _get_and_verify_max_len).
EXTENDED_ROPES = ("su", "longrope", "llama3")


def resolve(name: str) -> Path:
    """The folder of a model: ``name`` itself, or its snapshot in the local Hugging Face cache. Nothing is
    downloaded."""
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # huggingface_hub raises a dozen kinds for "not a name" and "not in the cache"
        raise UserError(
            f"no model folder {name}, and no such model in the Hugging Face cache: "
            f"give a folder, or fetch it first with `hf download {name}`"
        ) from error


def check_model(name: str, trust_remote_code: bool = False) -> Path:
    """The folder of a model that has a config, weights and a tokenizer, and runs no code of its own unless trusted.

    OpenRLHF loads every model with ``trust_remote_code=True`` (openrlhf/models/actor.py:158, utils/utils.py:75), so a
    folder that carries code is refused here, before OpenRLHF sees it.
    """
    path = resolve(name)
    if (path / "adapter_config.json").is_file():
        base = _json(path / "adapter_config.json").get("base_model_name_or_path") or "BASE"
        raise UserError(
            f"{path} is a LoRA adapter: merge it with `python -m openrlhf.cli.lora_combiner --model_path {base} "
            f"--lora_path {path} --output_path MERGED` and give MERGED"
        )
    config = _config(path)
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise UserError(f"{path}: no weights in it (*.safetensors)")
    tokenizer = _json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else None
    if tokenizer is None and not (path / "tokenizer.json").is_file():
        raise UserError(f"{path}: a model folder without a tokenizer (no tokenizer.json, no tokenizer_config.json)")
    if not trust_remote_code and ("auto_map" in config or "auto_map" in (tokenizer or {})):
        raise UserError(f"{path} runs Python code of its own: read it, then pass --model.trust_remote_code")
    return path


def check_head_size(path: Path) -> None:
    """Raise unless vLLM's CPU attention has a kernel for the model's head size."""
    config = _config(path)
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads")
    size = config.get("head_dim") or (config["hidden_size"] // heads if heads and "hidden_size" in config else None)
    if size is not None and size not in CPU_HEAD_SIZES:
        raise UserError(
            f"{path}: vLLM on CPU cannot run a head size of {size} (hidden_size / num_attention_heads), "
            f"only {', '.join(map(str, CPU_HEAD_SIZES))}"
        )


def check_length(path: Path, prompts: Mapping[str, int], max_tokens: int) -> int:
    """The longest prompt and response together, in tokens: what an engine must take. UserError where that is more than
    the model takes. ``prompts``: tokens of the prompt, by the problem's id; ``max_tokens``: those of a response."""
    longest = max(prompts.values())
    limit = longest_sequence(path)
    if limit is None or longest + max_tokens <= limit:
        return longest + max_tokens
    over = [(problem, tokens) for problem, tokens in prompts.items() if tokens + max_tokens > limit]
    named = ", ".join(f"{problem} ({tokens:,})" for problem, tokens in over[:3]) + ", ..." * (len(over) > 3)
    room = f"lower --rollout.max_new_tokens to {limit - longest:,}, or " if longest < limit else ""
    raise UserError(
        f"{path} takes {limit:,} tokens, prompt and response together: with --rollout.max_new_tokens {max_tokens:,} "
        f"the prompts of {len(over):,} of {len(prompts):,} problems are too long, by id (tokens): {named}; "
        f"{room}leave these problems out"
    )


def longest_sequence(path: Path) -> int | None:
    """The longest sequence, in tokens, that vLLM lets the model have; None where its config does not say.

    As vLLM's _get_and_verify_max_len (vllm/config/model.py): a rope's factor stretches max_position_embeddings, unless
    that is the stretched length already, and YaRN's stretches original_max_position_embeddings.
    """
    config = _config(path)
    config = config.get("text_config", config)
    limit = config.get("max_position_embeddings")
    if limit is None:
        return None
    ropes = config.get("rope_parameters") or config.get("rope_scaling") or {}
    factor = 1.0
    # Transformers 5 may hold one rope a type of layer.
    for rope in ropes.values() if ropes and all(isinstance(rope, dict) for rope in ropes.values()) else [ropes]:
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in EXTENDED_ROPES and "gemma3" not in str(config.get("model_type")):
            factor = rope.get("factor") or factor
            if kind == "yarn":
                limit = rope.get("original_max_position_embeddings") or limit
    return int(limit * factor)


def revision(path: Path) -> str:
    """What identifies a model: a digest of its weights and of all that decides its prompts and stops, whatever the
    folder is called.

    Only weights that a loader may read count: of several safetensors those that their index names, and
    ``model.safetensors``; ``*.bin`` where there are no safetensors. Mistral's ``consolidated*.safetensors``, which
    vLLM prefers, always count. Nothing else in the folder does (README, training.json, an optimizer's state).

    Digests of large files are remembered in the user's cache folder, by path, size and times.
    """
    files = [*_deciding(path), *_weights(path)]
    return _digest(files, _file_digests(files), path)


def serving_key(path: Path) -> str:
    """A digest of all that an engine and the encoding of prompts depend on beside the weights: models with one key can
    be served by one engine, whose weights are exchanged. Entries that cannot matter (:data:`NOT_SERVED`) are left
    out."""

    def content(file: Path) -> bytes:
        if file.name not in ("config.json", "generation_config.json"):
            return file.read_bytes()
        return json.dumps(_served(_json(file)), sort_keys=True).encode()

    return _digest(_deciding(path), lambda file: hashlib.sha256(content(file)).digest(), path)


def _served(config: Any) -> Any:
    """``config`` without the entries that no engine reads, at any depth."""
    if isinstance(config, dict):
        return {key: _served(value) for key, value in config.items() if key not in NOT_SERVED}
    return [_served(value) for value in config] if isinstance(config, list) else config


def _digest(files: list[Path], digest_of: Callable[[Path], bytes], folder: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode() + digest_of(file))
    return digest.hexdigest()[:16]


def _deciding(path: Path) -> list[Path]:
    return sorted({file for pattern in DECIDING for file in path.glob(pattern) if file.is_file()})


def _weights(path: Path) -> list[Path]:
    """The files that a loader, vLLM's or transformers', may read the weights from."""
    safetensors = set(path.glob("*.safetensors"))
    if not safetensors:
        return sorted(file for file in path.glob("*.bin") if file.name not in NOT_WEIGHTS)
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{index}: no weight_map in it")
        named = {path / str(name) for name in weight_map.values()}
        if missing := sorted(file.name for file in named - safetensors):
            raise UserError(f"{path}: its index names {missing[0]}, which is not there")
        safetensors = named | {file for file in safetensors if file.name.startswith(("model.safe", "consolidated"))}
    return sorted(safetensors)


def _file_digests(files: list[Path]) -> Callable[[Path], bytes]:
    """How to find the digest of each of ``files``, read or remembered; says so where reading takes long."""
    remembered = _remembered()
    known = {file: _known_digest(file, remembered) for file in files}
    unread = sum(file.stat().st_size for file, digest in known.items() if digest is None)
    if unread >= LONG:
        print(
            f"reading {unread / 1e9:.0f} GB of weights in {files[0].parent}, whose digest identifies the model "
            "(remembered until they change)",
            file=sys.stderr,
            flush=True,
        )
    made: dict[str, list[Any]] = {}
    for file, digest in known.items():
        if digest is None:
            stamp = _stamp(file)
            with file.open("rb") as content:
                known[file] = hashlib.file_digest(content, "sha256").hexdigest()
            # A file that is being written may change again within one tick of its clock.
            if stamp[0] >= LARGE and stamp == _stamp(file) and time.time_ns() - max(stamp[1:]) > 2 * 10**9:
                made[str(file.resolve())] = [*stamp, known[file]]
    if made:
        with contextlib.suppress(OSError, RuntimeError):  # a cache that cannot be written: hashed again next time
            write_json(_cache_file(), _remembered() | made)
    return lambda file: bytes.fromhex(str(known[file]))


def _stamp(file: Path) -> list[int]:
    """Size, and when its content and its entry were last changed, in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _known_digest(file: Path, remembered: dict[str, Any]) -> str | None:
    entry = remembered.get(str(file.resolve()))
    if not isinstance(entry, list) or entry[:-1] != _stamp(file) or len(str(entry[-1])) != 64:
        return None
    return str(entry[-1])


def _cache_file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openrlhf_negdata" / "digests.json"


def _remembered() -> dict[str, Any]:
    try:
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a user without a home
        return {}
    return content if isinstance(content, dict) else {}


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder, or of a folder that holds a tokenizer alone."""
    from transformers import AutoTokenizer

    path = resolve(name)
    settings = path / "tokenizer_config.json"
    if not trust_remote_code and settings.is_file() and "auto_map" in _json(settings):
        raise UserError(f"{path}: its tokenizer runs Python code: read it, then pass --model.trust_remote_code")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others for a broken folder
        raise UserError(f"{path}: no tokenizer can be loaded from it: {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: its tokenizer has no end-of-sequence token")
    return tokenizer


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that a folder's tokenizer is made of: what may be copied without running any code of it."""
    found = [file for file in _deciding(folder) if file.name not in ("generation_config.json", "config.json")]
    if not found:
        raise UserError(f"{folder}: no tokenizer can be loaded from it: there are no files of one")
    return [*found, *(file for file in [folder / "config.json"] if file.is_file())]


def _config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: not a model folder (no config.json)")
    return _json(path / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content
