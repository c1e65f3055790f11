"""What step advantages in PPO, and PPO on CPU, rely on in OpenRLHF 0.11.2: one test a hook, read from its source."""

import ast
import importlib.util
from pathlib import Path

import pytest

from openrlhf_negdata.ppo.settings import NEEDED, NEEDED_ON_CPU

OPENRLHF = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])
EXPERIENCE_MAKER = "trainer/ppo_utils/experience_maker.py"
SAMPLES = "trainer/ppo_utils/samples_generator.py"


def source(path, name=""):
    """The code of a file of openrlhf, or of one definition in it, as ``ast`` writes it."""
    node = ast.parse((OPENRLHF / path).read_text(encoding="utf-8"))
    for part in filter(None, name.split(".")):
        node = next(child for child in node.body if getattr(child, "name", None) == part)
    return ast.unparse(node)


# The command.


def test_command_parses_hands_over_and_trains_in_this_order():
    code = source("cli/train_ppo_ray.py")
    command = code[code.index("if __name__ == '__main__':") :]
    parsed = command.index("args = parser.parse_args()")
    handed = command.index("from openrlhf.utils.config import hierarchize\n    args = hierarchize(args)")
    assert parsed < handed < command.index("args.reward.remote_url = 'agent'") < command.index("train(args)")
    assert command.count("hierarchize(") == 1


def test_command_looks_the_trainer_up_when_it_trains():
    assert "from openrlhf.trainer.ppo_trainer import PPOTrainer" in source("cli/train_ppo_ray.py", "train")


def test_command_starts_no_ray_where_there_is_one():
    assert "if not ray.is_initialized():" in source("cli/train_ppo_ray.py", "train")


def test_flags_that_must_have_a_value_exist_and_have_it_by_default():
    defaults = {}
    for node in ast.walk(ast.parse((OPENRLHF / "cli/train_ppo_ray.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            if isinstance(node.args[0], ast.Constant):
                default = given.get("default") or ast.Constant("action" not in given and None)
                defaults[node.args[0].value[2:]] = default
    needed = {name: value for name, (value, _) in NEEDED.items()} | NEEDED_ON_CPU
    assert needed.pop("algo.advantage.estimator") == "reinforce"
    for name, value in needed.items():
        assert ast.literal_eval(defaults[name]) == value, name


# Samples and experience.


def test_samples_generator_draws_training_and_evaluation_alike():
    for method in ("generate_samples", "generate_eval_samples"):
        assert "self._generate_vllm(" in source(SAMPLES, f"SamplesGenerator.{method}")
    assert "self._dispatch_prompts_to_vllm(prompts, labels, images=images, **generate_kwargs)" in source(
        SAMPLES, "SamplesGenerator._generate_vllm"
    )
    assert "label=label" in source(SAMPLES, "SamplesGenerator._dispatch_prompts_to_vllm")


def test_samples_generator_makes_a_list_in_the_extra_logs_a_row_of_info():
    code = source(SAMPLES, "SamplesGenerator._process_response_into_experience")
    assert "info[key] = torch.tensor([value])" in code
    assert "action_mask = action_mask[1:truncate_length]" in code


def test_the_answers_to_a_prompt_are_sampled_side_by_side_by_one_engine_with_one_label():
    """What tells an answer its group: without it, a group would never be complete."""
    code = source("trainer/ray/vllm_engine.py", "RolloutRayActor.generate_responses")
    assert "label=label" in code
    assert "for _ in range(num_samples)" in code
    assert "asyncio.gather(*tasks)" in code
    code = source(SAMPLES, "SamplesGenerator._dispatch_prompts_to_vllm")
    assert "n_samples = generate_kwargs.get('n_samples_per_prompt', self.args.rollout.n_samples_per_prompt)" in code
    assert "num_samples=n_samples" in code


@pytest.mark.parametrize(
    "attribute", ["strategy", "prompts_dataloader", "eval_dataloader", "tokenizer", "vllm_engines"]
)
def test_samples_generator_is_made_of(attribute):
    assert f"self.{attribute} = {attribute}" in source(SAMPLES, "SamplesGenerator.__init__")


@pytest.mark.parametrize(
    "code",
    [
        *(f"self.{group}_model_group = {group}_model_group" for group in ("actor", "critic", "reward", "initial")),
        *("self.kl_ctl = kl_controller", "self.strategy = strategy", "self.tokenizer = tokenizer"),
    ],
)
def test_experience_maker_is_made_of(code):
    assert code in source(EXPERIENCE_MAKER, "RemoteExperienceMaker.__init__")


def test_experience_maker_computes_advantages_last():
    code = source(EXPERIENCE_MAKER, "RemoteExperienceMaker.make_experience_batch")
    assert code.rstrip().endswith(
        "experiences = self.compute_advantages_and_returns(experiences)\n    return experiences"
    )


def test_trainer_holds_what_is_exchanged():
    assert "self.experience_maker = RemoteExperienceMaker(" in source(
        "trainer/ppo_trainer.py", "BasePPOTrainer.__init__"
    )
    assert "self.samples_generator = SamplesGenerator(" in source("trainer/ppo_trainer.py", "PPOTrainer.__init__")


def test_single_turn_executor_returns():
    code = source("utils/agent.py", "SingleTurnAgentExecutor.execute")
    for name in ("observation_tokens", "action_ranges", "rollout_log_probs", "truncated", "reward", "scores"):
        assert f"'{name}': " in code
    assert "hf_tokenizer(text=prompt, add_special_tokens=False, return_tensors='pt')['input_ids'][0].tolist()" in code
    assert code.count("hf_tokenizer") == 5  # the signature, images, and the reward of others
    assert "is_truncated = generation_output.finish_reason == 'length'" in code
    assert "max(1, max_length - len(prompt_token_ids))" in code


# What cpu.py works around.


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("trainer/ray/launcher.py", "torch.cuda.synchronize()"),
        ("trainer/ray/ppo_actor.py", "device = torch.cuda.current_device()"),
        ("trainer/ray/ppo_actor.py", "stream=torch.cuda.current_stream()"),
        ("trainer/ppo_utils/replay_buffer.py", "torch.device(f'cuda:{torch.cuda.current_device()}')"),
    ],
)
def test_models_call_cuda(path, code):
    assert code in source(path)


def test_weights_are_sent_through_a_group_that_can_be_rebound():
    assert "from openrlhf.utils.distributed_util import stateless_init_process_group" in source(
        "trainer/ray/ppo_actor.py"
    )
    code = source("trainer/ray/ppo_actor.py", "ActorPPOTrainer")
    assert (
        "stateless_init_process_group(master_address, master_port, 0, world_size, torch.cuda.current_device())" in code
    )
    assert "self._model_update_group.broadcast(param.data, src=0, stream=torch.cuda.current_stream())" in code
    assert "empty_cache=count == num_params" in code  # the last weight


def test_engines_receive_weights_into_cuda_memory_by_an_extension_that_is_fixed():
    assert "'worker_extension_cls': 'openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap'" in source(
        "trainer/ray/vllm_engine.py", "create_vllm_engines"
    )
    assert "'dtype': 'bfloat16'" in source("trainer/ray/vllm_engine.py", "create_vllm_engines")
    assert "RolloutRayActor.options(" in source("trainer/ray/vllm_engine.py", "create_vllm_engines")
    code = source("trainer/ray/vllm_worker_wrap.py", "WorkerWrap")
    assert "torch.empty(shape, dtype=dtype, device='cuda')" in code
    assert "def update_weight(self, name, dtype, shape, empty_cache=False)" in code


def test_vllm_reloads_from_an_iterator_of_weights_and_broadcasts_over_a_store():
    vllm = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])
    assert "weights_iterator: Iterable[tuple[str, torch.Tensor]] | None = None" in (
        vllm / "v1/worker/gpu_model_runner.py"
    ).read_text(encoding="utf-8")
    assert "def broadcast(self, tensor: torch.Tensor, src: int)" in (vllm / "distributed/utils.py").read_text(
        encoding="utf-8"
    )
