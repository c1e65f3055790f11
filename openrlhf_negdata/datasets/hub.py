"""A training set as the Hugging Face hub keeps it: a folder that `datasets.load_dataset` reads, with its card."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import Output


def validation(output: Path) -> Path:
    """The file beside a training set that holds the rows for validation."""
    return output.with_suffix(f".validation{output.suffix}")


class Folder:
    """The folder that ``--local_dir`` names, for the set at ``output``: made before the set is, so that what cannot be
    written is refused at once.

    UserError where the folder is the set's own, or holds a file of these names that ``--local_dir`` did not make.
    """

    def __init__(self, path: Path, output: Path) -> None:
        if path.exists() and not path.is_dir():
            raise UserError(f"--local_dir {path} is in the way: it is not a folder")
        if path.resolve() == output.parent.resolve():
            raise UserError(f"--local_dir {path} is the folder of --output: give another")
        self.path, self.output = path, output
        beside = [path / "README.md", path / "validation.jsonl"]
        self.files = Output(path / "train.jsonl", {"command": "build --local_dir"}, beside=beside, flag="--local_dir")

    def write(self) -> None:
        self.files.claim()
        _copy(self.output, self.path)
        self.files.commit()


def _copy(output: Path, folder: Path) -> None:
    """The set at ``output`` as ``train.jsonl``, its rows for validation as ``validation.jsonl``, its card as
    ``README.md``; without such rows, no ``validation.jsonl`` of an earlier set stays."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output, folder / "train.jsonl")
    shutil.copyfile(output.with_name(f"{output.name}.card.md"), folder / "README.md")
    if validation(output).is_file():
        shutil.copyfile(validation(output), folder / "validation.jsonl")
    else:
        (folder / "validation.jsonl").unlink(missing_ok=True)


def push(name: str, output: Path) -> None:
    """Send the set to the hub as the data set ``name``, which is made, private, if there is none."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    with tempfile.TemporaryDirectory() as folder:
        _copy(output, Path(folder))
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
