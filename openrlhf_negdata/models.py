"""Model folders: found, checked before anything long starts, identified by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from openrlhf_negdata.errors import UserError

#: Head sizes vLLM's CPU attention can run (vllm/v1/attention/backends/cpu_attn.py).
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


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


def check_length(path: Path, tokens: int) -> None:
    """Raise unless the model takes a prompt and response of ``tokens`` tokens together."""
    config = _config(path)
    config = config.get("text_config", config)
    scaled = config.get("rope_scaling") or config.get("rope_parameters") or {}
    limit = int(config.get("max_position_embeddings", tokens) * scaled.get("factor", 1))
    if tokens > limit:
        raise UserError(
            f"{path} takes {limit} tokens at most, and the longest prompt with --rollout.max_new_tokens makes {tokens}"
        )


def revision(path: Path) -> str:
    """What identifies a model: a digest of its config, weights and tokenizer, whatever the folder is called."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".safetensors", ".bin", ".model") or file.name in ("config.json", "tokenizer.json"):
            with file.open("rb") as content:
                digest.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model folder, or of a folder that holds a tokenizer alone."""
    from transformers import AutoTokenizer

    path = resolve(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others for a broken folder
        raise UserError(f"{path}: no tokenizer can be loaded from it: {str(error).splitlines()[0]}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{path}: its tokenizer has no end-of-sequence token")
    return tokenizer


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
