"""What a run writes: a model folder that appears whole, and carries what decided its weights."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from openrlhf_negdata import models
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.files import only_writer
from openrlhf_negdata.trainers import checkpoints, metrics
from openrlhf_negdata.trainers.processes import from_rank_0

#: Flags that decide no weight: places, logs, and how a run is computed, which changes its course by rounding alone. So
#: a run that ran out of memory goes on with others.
UNDECIDING = (
    *("ckpt.", "logger.", "local_rank", "ref.log_probs", "ref.offload", "eval.", "ds.ring", "ds.tensor_parallel"),
    *("train.micro_batch_size", "train.max_tokens_per_gpu", "train.separate_sequences_enable"),
    *("model.gradient_checkpointing", "ds.attn_implementation", "ds.experts_implementation", "ds.packing_samples"),
    *("ds.use_liger_kernel", "ds.adam_offload", "ds.overlap_comm", "ds.zpg", "data.dataloader_num_workers"),
)
#: What training.json of a model that is not the last one says of it.
KEPT = "intermediate"


def settings_of(flags: dict[str, Any]) -> dict[str, Any]:
    """What decides the trained weights: every flag but the UNDECIDING ones, and the content of what paths point at."""
    settings = _deciding(flags)
    if flags.get("model.aux_loss_coef"):  # the balancing loss is of a micro-batch
        settings["train.micro_batch_size"] = flags["train.micro_batch_size"]
    settings["data.dataset"] = _content(flags["data.dataset"])
    for name in ("model.model_name_or_path", "ref.model_name_or_path"):
        if settings.get(name):
            path = models.check_model(settings[name], flags["model.trust_remote_code"])
            settings[name] = models.revision(path)
    return json.loads(json.dumps(settings))


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not key.startswith(UNDECIDING)}


def _content(paths: str) -> str:
    """A digest of the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths.split(","):
        with open(path, "rb") as file:
            while some := file.read(1 << 20):
                digest.update(some)
    return digest.hexdigest()[:16]


def claim(flags: dict[str, Any]) -> dict[str, Any] | None:
    """The settings of the run that these flags ask for, whose output this process alone writes from now on; None where
    it is there already."""
    settings = settings_of(flags)
    output = Path(flags["ckpt.output_dir"])
    checkpoints.check(Path(flags["ckpt.path"] or checkpoints.folder_of(output)))
    if not already_trained(output, settings):
        only_writer(output.with_name(f".{output.name}.lock"))
    if already_trained(output, settings):
        print(f"{output} is trained already")
        return None
    metrics.size(metrics.under_way(output))  # raises where that is someone's own
    for model in models_of(output).glob("[!.]*/"):  # a killed save leaves .NAME.tmp
        already_trained(model, settings)
    return settings


def already_trained(output: Path, settings: dict[str, Any]) -> bool:
    """Whether ``output`` holds a model trained with these settings; a model trained with others is an error."""
    if not (output / "training.json").is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise UserError(f"{output} is in the way: it holds something this command did not make")
        return False
    made = json.loads((output / "training.json").read_text(encoding="utf-8"))
    made.pop(KEPT, None)
    if settings["ds.param_dtype"] is None:  # What suits the device, which only torch could tell, suited its device.
        settings = settings | {"ds.param_dtype": made.get("ds.param_dtype")}
    for key in sorted({*_deciding(made), *settings}):
        if made.get(key) != settings.get(key):
            raise UserError(
                f"{output} was trained with {key} = {made.get(key)!r}, not {settings.get(key)!r}: "
                "give another --ckpt.output_dir, or remove that folder"
            )
    return True


def models_of(output: Path) -> Path:
    """Where the models of a run that are not its last one are kept."""
    return output.with_name(f"{output.name}.models")


def save(args: Any, strategy: Any, model: Any, tokenizer: Any) -> None:
    """Write the trained model to ``--ckpt.output_dir`` in one atomic step, then drop its checkpoints."""
    output = Path(args.ckpt.output_dir)
    _write(strategy, model, tokenizer, output, args.settings, output)
    from_rank_0(lambda: _drop_under_way(output, Path(args.ckpt.path)))


def keep(args: Any, strategy: Any, model: Any, tokenizer: Any, name: str, said: dict[str, Any]) -> None:
    """Write the model as it is now to the folder ``name`` of OUTPUT.models; ``said`` is what training.json says of
    it."""
    output = Path(args.ckpt.output_dir)
    folder = models_of(output) / name
    if not from_rank_0(folder.exists):
        _write(strategy, model, tokenizer, folder, args.settings | {KEPT: said}, output)


def keep_best(args: Any, strategy: Any, model: Any, tokenizer: Any, name: str, reached: dict[str, Any]) -> None:
    """Keep the model if its ``value`` is better than that of the one that was kept so far."""
    said = reached | {"held_out": from_rank_0(lambda: _content(args.eval.dataset))}
    folder = models_of(Path(args.ckpt.output_dir))
    if from_rank_0(lambda: all(_beats(said, _said(other)) for other in folder.glob("best_*/"))):
        keep(args, strategy, model, tokenizer, name, said)
        from_rank_0(lambda: _drop_others(folder, name))


def _drop_others(folder: Path, name: str) -> None:
    for other in folder.glob("best_*/"):
        if other.name != name:
            shutil.rmtree(other)


def _beats(said: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a model is better than another; one that another held-out set, or another figure, chose is no rival."""
    if any(said[name] != other[name] for name in ("held_out", "figure")):
        return True
    return said["value"] > other["value"] if said["more_is_better"] else said["value"] < other["value"]


def _said(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))[KEPT]


def _write(strategy: Any, model: Any, tokenizer: Any, output: Path, content: dict[str, Any], of_run: Path) -> None:
    """Write a model folder whole, with what has been logged so far of the run whose output is ``of_run``."""
    temporary = output.with_name(f".{output.name}.tmp")

    def empty() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)

    def put() -> None:
        (temporary / "training.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if metrics.under_way(of_run).exists():
            shutil.copyfile(metrics.under_way(of_run), temporary / metrics.NAME)
        if output.exists():
            output.rmdir()
        os.replace(temporary, output)

    from_rank_0(empty)
    strategy.save_model(model, tokenizer, str(temporary))
    from_rank_0(put)


def _drop_under_way(output: Path, checkpoints_at: Path) -> None:
    """Remove what a run needs only until it is done."""
    metrics.under_way(output).unlink(missing_ok=True)
    if (checkpoints_at / "settings.json").is_file():
        shutil.rmtree(checkpoints_at)
