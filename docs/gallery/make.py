"""Makes docs/gallery.md: a row of every arm, built by `negdata build` from the four problems of values.json.

    python docs/gallery/make.py                # docs/gallery.md, from values.json
    python docs/gallery/make.py RUN            # values.json too: the first problems of a run of `negdata value`

values.json is an excerpt of a quickstart run (`make quickstart`, seed 0): what a model of half a million parameters
answered, and the rollouts from before each of its steps. Token ids are written as their words.
"""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from openrlhf_negdata.cli.main import main
from openrlhf_negdata.datasets import arms
from openrlhf_negdata.files import replacing
from openrlhf_negdata.records import Problem, Rollout, StepValues, Trace
from openrlhf_negdata.rollouts.store import Run
from openrlhf_negdata.tasks import load

HERE = Path(__file__).parent
INPUT, PAGE = HERE / "values.json", HERE.parent / "gallery.md"
PROBLEMS = 4
#: What an arm is built with besides its defaults.
FLAGS = {
    "algorithm1": ["--pit", "lowest_advantage"],
    "shared-prefix": ["--pit", "lowest_advantage"],
    "siblings": ["--min_rollouts", "2"],
    "theorem": ["--min_rollouts", "2"],
}


def words() -> Any:
    """The quickstart's tokenizer: a token a word (cli/new_model.py)."""
    vocabulary = ["<pad>", "<unk>", "</s>", *(load("running_value").words or ())]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def take(run: Run) -> dict[str, Any]:
    """The first problems of ``run``, its token ids as words."""
    tokenizer, problems = run.tokenizer(), run.problems()[:PROBLEMS]
    names = {problem.id for problem in problems}

    def row(record: Any) -> dict[str, Any]:
        return {
            name: tokenizer.decode(value) if name.endswith("_ids") else value for name, value in vars(record).items()
        }

    tables = ("traces", "values", "rollouts")
    taken = {table: [row(one) for one in run.read(table) if one.problem in names] for table in tables}
    return {"settings": run.manifest["settings"], "problems": [vars(problem) for problem in problems], **taken}


def put(kept: dict[str, Any], folder: Path) -> Run:
    """A run of `negdata value` that holds what :func:`take` took."""
    tokenizer = words()

    def record(kind: Any, row: dict[str, Any]) -> Any:
        ids = {name: tokenizer(text)["input_ids"] for name, text in row.items() if name.endswith("_ids")}
        return kind(**row | ids)

    run = Run.create(folder, "value", kept["settings"], [Problem(**row) for row in kept["problems"]])
    tokenizer.save_pretrained(folder / "tokenizer")
    run.expect(1)
    for table, kind in (("rollouts", Rollout), ("traces", Trace), ("values", StepValues)):
        run.write(table, 0, [record(kind, row) for row in kept[table]])
    run.finish({})
    return run


def page(kept: dict[str, Any]) -> str:
    """The page, in Markdown."""
    lines = [
        "# A row of every arm",
        "",
        "Made by `python docs/gallery/make.py` from the four problems of `docs/gallery/values.json`, an excerpt of a",
        "quickstart run: answers of a model of half a million parameters, and 8 rollouts from before each step. Rows",
        "hold token ids as well, left out here. A prompt is a number and operations on it, an answer a value after",
        "each operation, modulo 31, and the last one's remainder by 3; where the model lost track it writes `~`. What",
        "the fields say: [sets.md](sets.md).",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = put(kept, Path(folder) / "values")
        for name in arms.names():
            output, flags = Path(folder) / f"{name}.jsonl", FLAGS.get(name, [])
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                status = main(["build", name, "--input", str(run.path), "--output", str(output), *flags])
            rows = output.read_text(encoding="utf-8").splitlines() if status == 0 else []
            if not rows:
                raise SystemExit(f"{name}: no row, exit status {status}")
            row = {field: value for field, value in json.loads(rows[0]).items() if not field.endswith("_ids")}
            fields = [f"  {json.dumps(field)}: {json.dumps(value)}" for field, value in row.items()]
            about = arms.about(name)
            command = " ".join(["negdata build", name, *flags, "--input values --output", output.name])
            lines += [f"## {name}", "", f"{about[0].upper()}{about[1:]}. The first row, of {len(rows)}:", ""]
            lines += ["```", f"$ {command}", "{", ",\n".join(fields), "}", "```", ""]
    return "\n".join(lines[:-1]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        with replacing(INPUT) as file:
            file.write(json.dumps(take(Run.open(sys.argv[1])), separators=(",", ":")).replace("},{", "},\n{") + "\n")
    with replacing(PAGE) as file:
        file.write(page(json.loads(INPUT.read_text(encoding="utf-8"))))
