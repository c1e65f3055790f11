"""The command of PPO with step advantages, which writes down, in ``$PPO_PROBE``, what the executor returned and what
the policy's loss was given. It changes neither."""

import json
import os
import sys
from functools import wraps


def write(kind, row):
    with open(os.path.join(os.environ["PPO_PROBE"], f"{kind}.{os.getpid()}.jsonl"), "a", encoding="utf-8") as file:
        print(json.dumps(row), file=file)


def setup():
    from openrlhf_negdata import cpu

    cpu.setup_ray_worker()
    from openrlhf.models.loss import PolicyLoss
    from openrlhf.utils.agent import AgentExecutorBase

    def watch(cls):
        if cls.__module__ == "agent_module":  # as RolloutRayActor loads it
            execute = cls.execute

            @wraps(execute)
            async def watched(self, **given):
                sample = await execute(self, **given)
                fields = ("observation_tokens", "action_ranges", "rollout_log_probs", "truncated", "reward")
                write("executor", {name: sample[name] for name in fields} | {"logs": sample["extra_logs"]})
                return sample

            cls.execute = watched

    AgentExecutorBase.__init_subclass__ = classmethod(watch)
    forward = PolicyLoss.forward

    def watched(self, log_probs, old_log_probs, advantages, action_mask, rollout_log_probs, **given):
        columns = {"mask": action_mask, "advantages": advantages, "old": old_log_probs, "rollout": rollout_log_probs}
        for row in range(len(advantages)):
            write("loss", {name: column[row].tolist() for name, column in columns.items()})
        return forward(self, log_probs, old_log_probs, advantages, action_mask, rollout_log_probs, **given)

    PolicyLoss.forward = watched


if __name__ == "__main__":
    from openrlhf_negdata import cpu
    from openrlhf_negdata.cli.train_ppo_ray import main

    cpu.WORKER_SETUP = "ppo_probe.setup"
    sys.exit(main())
