"""Another release of OpenRLHF is refused with one line."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from openrlhf_negdata import host
from openrlhf_negdata.errors import UserError


def test_the_supported_release_and_its_local_builds_pass(monkeypatch):
    host.check_release()
    monkeypatch.setattr(metadata, "version", lambda name: "0.11.2+cu128")
    host.check_release()


@pytest.mark.parametrize("release", ["0.11.1", "0.11.3", "0.12.0"])
def test_any_other_is_refused(monkeypatch, release):
    monkeypatch.setattr(metadata, "version", lambda name: release)
    with pytest.raises(UserError, match=f"^openrlhf {release} is installed, and openrlhf 0.11.2 is the release"):
        host.check_release()


def test_so_is_none(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(UserError, match="^no openrlhf is installed"):
        host.check_release()


def test_a_trainer_refuses_it_with_one_line(tiny_model, tmp_path):
    """The command line of a trainer, where the first openrlhf on the path is another release."""
    other = tmp_path / "openrlhf-0.11.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: openrlhf\nVersion: 0.11.1\n")
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt_ids": [3], "chosen_ids": [4], "rejected_ids": [5]}\n')
    words = ["--model.model_name_or_path", tiny_model, "--data.dataset", data, "--ckpt.output_dir", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "openrlhf_negdata.cli.train_step_dpo", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("train_step_dpo: error: openrlhf 0.11.1 is installed, and openrlhf 0.11.2 is")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("trainer", ["train_sft", "train_advantage_weighted", "train_step_dpo"])
def test_help_gives_every_flag_its_default_and_an_unknown_flag_two_lines(trainer):
    command = [sys.executable, "-m", f"openrlhf_negdata.cli.{trainer}"]
    text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    rate = "1e-05" if trainer == "train_step_dpo" else "5e-06"
    assert f"--adam.lr ADAM.LR     peak learning rate (default: {rate})" in text
    assert "decoupled weight decay (default: 0.0)" in text
    assert "(default: None)" not in text
    words = ["--model.model_name_or_path", "m", "--data.dataset", "d", "--ckpt.output_dir", "o", "--adam.lrr", "1"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 2
    usage, error = done.stderr.splitlines()
    assert usage.startswith(f"usage: {trainer} --model.model_name_or_path MODEL")
    assert error == f"{trainer}: error: unrecognized arguments: --adam.lrr 1"


@pytest.mark.parametrize("variable", [None, "true"])
def test_after_ray_is_started_a_command_that_fails_is_still_seen_to_fail(variable):
    """Ray makes the kernel reap the children of all that join a node which ends what dead workers leave behind: each
    command's exit status there reads as 0."""
    code = (
        "import os, signal, subprocess\n"
        "from openrlhf_negdata import host\n"
        "heard = lambda *_: None\n"
        "signal.signal(signal.SIGCHLD, heard)\n"
        "host.init_ray('local', num_cpus=1, include_dashboard=False)\n"
        "assert signal.getsignal(signal.SIGCHLD) is heard\n"
        "print(subprocess.run(['false']).returncode, os.environ.get(host.SUBREAPER))\n"
    )
    environment = {**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    environment.pop(host.SUBREAPER, None)
    if variable:
        environment[host.SUBREAPER] = variable
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [f"1 {variable}"], done.stderr[-2000:]
