"""A training set as the Hugging Face hub keeps it: a folder that `datasets.load_dataset` reads, with its card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from openrlhf_negdata.errors import UserError


def validation(output: Path) -> Path:
    """The file beside a training set that holds the rows for validation."""
    return output.with_suffix(f".validation{output.suffix}")


def write(folder: Path, output: Path) -> None:
    """The set at ``output`` as ``train.jsonl``, its rows for validation as ``validation.jsonl``, its card as
    ``README.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output, folder / "train.jsonl")
    shutil.copyfile(output.with_name(f"{output.name}.card.md"), folder / "README.md")
    if validation(output).is_file():
        shutil.copyfile(validation(output), folder / "validation.jsonl")


def push(name: str, output: Path) -> None:
    """Send the set to the hub as the data set ``name``, which is made, private, if there is none."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), output)
        try:
            api = huggingface_hub.HfApi()
            made = api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
            api.upload_folder(
                repo_id=made.repo_id, repo_type="dataset", folder_path=folder, commit_message=f"{output.name}"
            )
        except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"--push_to_hub {name}: {reason} (`hf auth login` first?); {output} is written") from None
    print(f"{output} is on the hub: {made}")
