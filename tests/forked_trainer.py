"""Runs trainers' command lines in forks of a process that has imported what they import: seconds in place of a minute.

Each line of standard input is a JSON object: ``module`` and its ``argv``; ``log``, the file its output goes to; and
``die``, null or the moment at which the run is killed with SIGKILL: ["update", n] once update n is done but not logged
or saved, ["save", 0] with the trained model written but not yet in place, ["checkpoint", n] with the model's half of
the checkpoint after update n written, ["latest", n] once the file that names the last checkpoint is open and empty,
["reference", n] before the reference's log-probabilities are written for the n-th time.
Each answer is the run's exit status, negative for a signal.
"""

import importlib
import itertools
import json
import os
import runpy
import signal
import sys
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what the imports have to say is no answer
os.environ["DS_ACCELERATOR"] = "cpu"
for heavy in ("deepspeed", "peft", "transformers.trainer", "torchdata.stateful_dataloader", "torch.utils.tensorboard"):
    importlib.import_module(heavy)


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment, number):
    from openrlhf_negdata import cpu

    cpu.setup()
    from deepspeed.runtime import engine
    from openrlhf.trainer.dpo_trainer import DPOTrainer
    from openrlhf.trainer.sft_trainer import SFTTrainer
    from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

    if moment == "save":
        write = DeepspeedStrategy.save_model
        DeepspeedStrategy.save_model = lambda *args: die(write(*args))
        return
    if moment == "checkpoint":
        write_states = engine.DeepSpeedEngine._save_zero_checkpoint

        def write_half(self, *args):
            die() if self.global_steps == number else write_states(self, *args)

        engine.DeepSpeedEngine._save_zero_checkpoint = write_half
        return
    if moment == "reference":
        from openrlhf_negdata.trainers.reference import Reference

        merge, times = Reference._merge, itertools.count(1)
        Reference._merge = lambda self: die() if next(times) == number else merge(self)
        return
    if moment == "latest":

        def open_and_die(path, mode="r"):
            file = open(path, mode)  # noqa: SIM115 - it stands in for open
            folder, name = os.path.split(path)
            if (name, mode) == ("latest", "w") and os.path.isdir(f"{folder}/global_step{number}"):
                die()
            return file

        engine.open = open_and_die
        return
    for trainer in (DPOTrainer, SFTTrainer):

        def log(self, args, step, *rest, go_on=trainer.save_logs_and_checkpoints):
            die() if step == number else go_on(self, args, step, *rest)

        trainer.save_logs_and_checkpoints = log


for line in sys.stdin:
    run = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)
        log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 1
        try:
            if run["die"]:
                arm(*run["die"])
            sys.argv = [run["module"], *run["argv"]]
            runpy.run_module(run["module"], run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
