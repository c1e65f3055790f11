"""What we rely on in OpenRLHF 0.11.2, one test a hook, so that a release that moves one fails by its name.

Most tests read the source and import nothing, so they run where flash-attn, vLLM and CUDA are missing.
"""

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPENRLHF = Path(importlib.util.find_spec("openrlhf").submodule_search_locations[0])


def tree(path):
    return ast.parse((OPENRLHF / path).read_text(encoding="utf-8"))


def definition(path, qualified_name):
    """The class or function of that dotted name in a file of openrlhf."""
    node = tree(path)
    for name in qualified_name.split("."):
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        inside = {child.name: child for child in node.body if isinstance(child, kinds)}
        assert name in inside, f"openrlhf/{path} has no {qualified_name}"
        node = inside[name]
    return node


def parameters(path, qualified_name):
    """Names of the parameters, ``self`` left out, ``*`` and ``**`` in front of the collecting ones."""
    arguments = definition(path, qualified_name).args
    names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args] if argument.arg != "self"]
    names += [f"*{arguments.vararg.arg}"] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    return names + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])


def source(path, qualified_name):
    """The code of a definition as ``ast`` writes it: comments and line breaks do not count."""
    return ast.unparse(definition(path, qualified_name))


def test_version_is_the_one_pinned():
    assert importlib.metadata.version("openrlhf") == "0.11.2"


# What trainers/model.py and the two trainers build on.


def test_dpo_trainer_constructor():
    assert parameters("trainer/dpo_trainer.py", "DPOTrainer.__init__") == [
        "model",
        "ref_model",
        "strategy",
        "tokenizer",
        "optim",
        "train_dataloader",
        "eval_dataloader",
        "scheduler",
        "max_norm",
        "beta",
        "max_epochs",
        "save_hf_ckpt",
        "disable_ds_ckpt",
    ]


@pytest.mark.parametrize("attribute", ["beta", "loss_fn", "args", "_wandb", "_tensorboard"])
def test_dpo_trainer_attribute(attribute):
    assert f"self.{attribute} = " in source("trainer/dpo_trainer.py", "DPOTrainer.__init__")


def test_dpo_trainer_concatenated_forward():
    name = "DPOTrainer.concatenated_forward"
    assert parameters("trainer/dpo_trainer.py", name) == [
        "model",
        "chosen_ids",
        "c_mask",
        "reject_ids",
        "r_mask",
        "prompt_id_lens",
    ]
    returns = [node for node in ast.walk(definition("trainer/dpo_trainer.py", name)) if isinstance(node, ast.Return)]
    assert [len(node.value.elts) for node in returns] == [4]  # both log-probabilities, aux loss, NLL


def test_dpo_trainer_save_logs_and_checkpoints():
    assert parameters("trainer/dpo_trainer.py", "DPOTrainer.save_logs_and_checkpoints") == [
        "args",
        "global_step",
        "step_bar",
        "logs_dict",
        "client_states",
    ]


def test_dpo_loss():
    assert parameters("models/loss.py", "DPOLoss.forward") == [
        "policy_chosen_logps",
        "policy_rejected_logps",
        "reference_chosen_logps",
        "reference_rejected_logps",
    ]


def test_sft_trainer_constructor():
    takes = parameters("trainer/sft_trainer.py", "SFTTrainer.__init__")
    gives = "model strategy optim train_dataloader eval_dataloader scheduler max_norm batch_size max_epochs tokenizer"
    assert not {*gives.split()} - {*takes}


def test_sft_trainer_fit():
    assert parameters("trainer/sft_trainer.py", "SFTTrainer.fit") == [
        "args",
        "consumed_samples",
        "num_update_steps_per_epoch",
    ]


def test_sft_trainer_resumes_by_the_row():
    assert "divmod(consumed_samples, samples_per_epoch)" in source("trainer/sft_trainer.py", "SFTTrainer.fit")


def test_sft_loss_mask_is_shifted_and_without_its_last_column():
    assert "loss_mask[:, :-1]" in source("trainer/sft_trainer.py", "SFTTrainer.fit")


def test_actor_constructor():
    takes = parameters("models/actor.py", "Actor.__init__")
    gives = (
        "attn_implementation experts_implementation param_dtype load_in_4bit lora_rank lora_alpha target_modules "
        "lora_dropout ds_config packing_samples use_liger_kernel"
    )
    assert not {*gives.split()} - {*takes}


def test_actor_forward():
    takes = parameters("models/actor.py", "Actor.forward")
    assert not {"attention_mask", "return_output", "return_logprobs", "ring_attn_group"} - {*takes}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("setup_dataloader", "replay_buffer batch_size pin_memory shuffle collate_fn drop_last sampler"),
        ("prepare", "*args"),
        ("backward", "loss model _optimizer"),
        ("optimizer_step", "_optimizer model _scheduler"),
        ("save_model", "model tokenizer output_dir"),
        ("load_ckpt", "model load_dir"),
        ("get_ds_eval_config", "offload"),
        ("get_grad_norm", "model"),
    ],
)
def test_strategy_method(method, expected):
    takes = parameters("utils/deepspeed/deepspeed.py", f"DeepspeedStrategy.{method}")
    assert takes[: len(expected.split())] == expected.split()


def test_sampler_set_epoch():
    assert parameters("utils/distributed_sampler.py", "DistributedSampler.set_epoch") == ["epoch", "consumed_samples"]


def test_hierarchize():
    assert parameters("utils/config.py", "hierarchize")


def test_strategy_marks_a_whole_checkpoint():
    names = {ast.unparse(node) for node in definition("utils/deepspeed/deepspeed.py", "DeepspeedStrategy").body}
    assert "CKPT_METRIC_FILENAME = 'metric.json'" in names
    code = source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.save_ckpt")
    assert code.index("model.save_checkpoint(") < code.index("self._write_ckpt_metric(")
    takes = parameters("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.load_ckpt")
    assert takes[:3] == ["model", "load_dir", "tag"]


@pytest.mark.parametrize("trainer", ["DPOTrainer", "SFTTrainer"])
def test_trainer_without_a_loader_of_held_out_rows_evaluates_nothing_of_its_own(trainer):
    code = source(f"trainer/{trainer[:3].lower()}_trainer.py", f"{trainer}.save_logs_and_checkpoints")
    assert code.count("self.evaluate(") == 1
    assert "self.eval_dataloader is not None" in code


@pytest.mark.parametrize("trainer", ["DPOTrainer", "SFTTrainer"])
def test_trainer_saves_a_checkpoint_and_its_own_model_only_where_it_is_told_to(trainer):
    """Ours go elsewhere: among the checkpoints they would count as one, and be removed with them."""
    code = source(f"trainer/{trainer[:3].lower()}_trainer.py", f"{trainer}.save_logs_and_checkpoints")
    assert "global_step % args.ckpt.save_steps == 0" in code
    assert "if self.save_hf_ckpt:" in code


def test_a_model_that_is_not_trained_is_offloaded_by_its_attribute_at_stage_3():
    code = source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy._ds_init_eval_model")
    assert "self.get_ds_eval_config(offload=getattr(model, '_offload', False))" in code
    code = source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.get_ds_eval_config")
    assert "stage=self.stage if self.stage == 3 else 0" in code


def test_strategy_takes_its_micro_batches_from_attributes():
    code = source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.get_ds_train_config")
    assert "ds_config['train_micro_batch_size_per_gpu'] = self.micro_train_batch_size" in code
    assert "ds_config['train_batch_size'] = self.train_batch_size" in code


@pytest.mark.parametrize("attribute", ["optimizer", "scheduler", "aux_loss", "epochs", "_wandb", "_tensorboard"])
def test_sft_trainer_attribute(attribute):
    assert f"self.{attribute} = " in source("trainer/sft_trainer.py", "SFTTrainer.__init__")


def test_loss_is_normalised_over_the_whole_update():
    takes = parameters("models/loss.py", "aggregate_loss")
    assert takes[:2] == ["loss", "loss_mask"]
    assert {"dp_size", "batch_num_tokens"} <= {*takes}


def flags_of(path):
    """The flags of one of OpenRLHF's commands and the code of their defaults."""
    found = {}
    for node in ast.walk(tree(path)):
        if _called(node) == "add_argument":
            more = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            default = more.get("default", "False" if "store_true" in more.get("action", "") else "None")
            found |= {ast.literal_eval(name): default for name in node.args}
    return found


#: Flags of OpenRLHF's commands that ours do without. Sets are token ids, so none of text is needed.
WITHOUT = {
    *(
        "--ckpt.disable_ds",
        "--ckpt.load_enable",
        "--data.dataloader_num_workers",
        "--data.apply_chat_template",
        "--data.chosen_key",
    ),
    *("--data.dataset_probs", "--data.dataset_split", "--data.disable_fast_tokenizer", "--data.input_key"),
    *("--data.input_template", "--data.multiturn", "--data.output_key", "--data.prompt_key", "--data.rejected_key"),
    *("--data.tokenizer_chat_template", "--ds.deepcompile", "--ds.ring_attn_head_stride", "--ds.use_universal_ckpt"),
    *("--eval.split", "--model.pretrain_mode_enable", "--muon.nesterov", "--muon.no_nesterov", "--muon.ns_steps"),
    "--use_ms",
}
#: Flags whose defaults are our own, as their help says, and OpenRLHF's: where one of these moves, ours wants thought.
#: (The default of wandb.run_name is a time.)
OWN_DEFAULT = {
    "train_sft": {"--data.max_samples": "1000000", "--ckpt.output_dir": "'./ckpt'"}
    | {"--ckpt.path": "'./ckpt/checkpoints_sft'", "--logger.wandb.project": "'openrlhf_train_sft'"},
    "train_dpo": {"--data.max_len": "512", "--data.max_samples": "1000000", "--ckpt.output_dir": "'./ckpt'"}
    | {"--ckpt.path": "'./ckpt/checkpoints_dpo'", "--logger.wandb.project": "'openrlhf_train_dpo'"},
}
#: The host's, which suit CUDA; ours are chosen by the device.
OF_CUDA = {"--ds.attn_implementation": "'flash_attention_2'", "--ds.param_dtype": "'bf16'"}


@pytest.mark.parametrize(
    ("command", "ours", "other"),
    [
        ("train_sft", "train_sft", set()),
        ("train_sft", "train_advantage_weighted", set()),
        ("train_dpo", "train_step_dpo", {"--train.micro_batch_size", "--model.aux_loss_coef", "--ds.packing_samples"}),
    ],
)
def test_flags_and_defaults_are_the_hosts(command, ours, other):
    """``other``: flags of theirs that ours has no use for. The parser is that of the command line itself."""
    parser = parser_of(ours)
    defaults = {action.option_strings[0]: action.default for action in parser._actions if action.option_strings}
    theirs = flags_of(f"cli/{command}.py")
    assert {*theirs} - {*defaults} - WITHOUT == other
    own = OWN_DEFAULT[command] | OF_CUDA
    assert {flag: theirs[flag] for flag in own} == own
    for flag in {*theirs} & {*defaults} - {*own} - {"--logger.wandb.run_name"}:
        default = re.sub(r"^int\((.*)\)$", r"\1", theirs[flag])  # one is int(1e8)
        assert ast.literal_eval(default) == defaults[flag], flag


def parser_of(command):
    """The parser that one of our commands runs with."""
    import runpy

    from openrlhf_negdata.trainers import command as own

    with pytest.MonkeyPatch.context() as patch:
        made = []
        patch.setattr(own, "run", lambda parser, *_, **__: made.append(parser))
        with pytest.raises(SystemExit):
            runpy.run_module(f"openrlhf_negdata.cli.{command}", run_name="__main__")
    return made[0]


# What shared-prefix packing builds on, in DeepSpeed and transformers.


def test_deepspeed_engine_is_told_which_micro_batch_is_an_updates_last():
    from deepspeed.runtime.engine import DeepSpeedEngine

    code = inspect.getsource(DeepSpeedEngine.set_gradient_accumulation_boundary)
    assert "self._is_gradient_accumulation_boundary = is_boundary" in code
    assert "self.optimizer.set_gradient_accumulation_boundary(is_boundary)" in code
    assert "_is_gradient_accumulation_boundary" in inspect.getsource(DeepSpeedEngine.is_gradient_accumulation_boundary)
    assert callable(DeepSpeedEngine.gradient_accumulation_steps)


def test_transformers_takes_a_mask_of_four_dimensions_as_it_is():
    from transformers import masking_utils

    code = inspect.getsource(masking_utils._preprocess_mask_arguments)
    assert "if isinstance(attention_mask, (torch.Tensor, BlockMask)) and len(attention_mask.shape) == 4:" in code


# What trainers/tokens.py builds on.


def test_sft_dataset_collate_fn_needs_a_tokenizer_alone():
    assert parameters("datasets/sft_dataset.py", "SFTDataset.collate_fn") == ["item_list"]
    assert "return (input_ids, attention_masks, loss_masks)" in source(
        "datasets/sft_dataset.py", "SFTDataset.collate_fn"
    )
    assert {*_self_attributes("datasets/sft_dataset.py", "SFTDataset.collate_fn")} == {"tokenizer"}


def _self_attributes(path, qualified_name):
    for node in ast.walk(definition(path, qualified_name)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


# What cpu.py works around.


def test_get_strategy_looks_the_strategy_up_when_it_is_called():
    assert "from openrlhf.utils.deepspeed import DeepspeedStrategy" in source("utils/utils.py", "get_strategy")


def test_strategy_module_synchronizes_cuda_under_a_name_that_can_be_rebound():
    assert "torch.cuda.synchronize()" in source("utils/distributed_util.py", "torch_dist_barrier_and_cuda_sync")
    module = tree("utils/deepspeed/deepspeed.py")
    imported = {alias.name for node in module.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert "torch_dist_barrier_and_cuda_sync" in imported


def test_strategy_sets_a_cuda_device_for_a_local_rank():
    code = source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.setup_distributed")
    assert "if local_rank != -1:\n        torch.cuda.set_device(local_rank)" in code


@pytest.mark.parametrize("method", ["all_reduce", "all_gather"])
def test_strategy_moves_what_it_gathers_to_cuda(method):
    assert "torch.cuda.current_device()" in source("utils/deepspeed/deepspeed.py", f"DeepspeedStrategy.{method}")


def test_strategy_all_reduce_knows_three_operations():
    assert parameters("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.all_reduce") == ["data", "op"]
    assert "op in ('mean', 'max', 'sum')" in source("utils/deepspeed/deepspeed.py", "DeepspeedStrategy.all_reduce")


def test_only_these_names_are_imported_from_flash_attn():
    wanted = {}
    for node in ast.walk(tree("models/ring_attn_utils.py")):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("flash_attn"):
            wanted[node.module] = {alias.name for alias in node.names}
    assert wanted == {
        "flash_attn.bert_padding": {"index_first_axis", "pad_input", "rearrange", "unpad_input"},
        "flash_attn.utils.distributed": {"all_gather"},
    }


def test_nothing_else_imports_flash_attn_at_its_top():
    importers = set()
    for path in OPENRLHF.rglob("*.py"):
        for node in tree(path).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] == "flash_attn" for name in names):
                importers.add(str(path.relative_to(OPENRLHF)))
    assert importers == {"models/ring_attn_utils.py"}


def test_setup_leaves_no_placeholder_of_flash_attn_behind():
    """In a process of its own, as setup() works around an import that happens once."""
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash-attn is installed")
    code = (
        "import sys\n"
        "from openrlhf_negdata import cpu\n"
        "cpu.setup()\n"
        "import openrlhf.trainer.dpo_trainer, openrlhf.trainer.sft_trainer, openrlhf.utils.deepspeed\n"
        "from transformers.utils import is_flash_attn_2_available\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'flash_attn'], is_flash_attn_2_available())\n"
        "print(openrlhf.utils.deepspeed.DeepspeedStrategy.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[] False", "CPUDeepspeedStrategy"]


# What rollouts/engines.py and rollouts/executor.py build on.


def test_rollout_actor_constructor():
    assert parameters("trainer/ray/vllm_engine.py", "RolloutRayActor.__init__") == [
        "*args",
        "bundle_indices",
        "agent_func_path",
        "remote_rm_url",
        "mm_pad_token_ids",
        "**kwargs",
    ]
    code = source("trainer/ray/vllm_engine.py", "RolloutRayActor.__init__")
    assert "num_gpus=kwargs.pop('num_gpus')" in code
    assert "vllm.AsyncEngineArgs(*args, **self.kwargs)" in code
    assert "self.llm = vllm.AsyncLLMEngine" in code


def test_rollout_actor_hands_a_request_to_the_executor_as_it_is():
    path, name = "trainer/ray/vllm_engine.py", "RolloutRayActor.generate_responses"
    assert parameters(path, name) == [
        "prompt",
        "label",
        "sampling_params",
        "max_length",
        "hf_tokenizer",
        "num_samples",
        "images",
    ]
    (call,) = [node for node in ast.walk(definition(path, name)) if "execute" in _called(node)]
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords} == {
        "prompt": "prompt",
        "label": "label",
        "sampling_params": "sampling_params",
        "max_length": "max_length",
        "hf_tokenizer": "hf_tokenizer",
        "llm_engine": "self",
        "images": "images",
    }


def _called(node):
    return node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""


def test_rollout_actor_generates_from_token_ids_and_keeps_the_last_output():
    path, name = "trainer/ray/vllm_engine.py", "RolloutRayActor.generate"
    assert parameters(path, name)[:2] == ["prompt_token_ids", "sampling_params"]
    assert "TokensPrompt(prompt_token_ids=prompt_token_ids)" in source(path, name)
    assert "final_output = request_output" in source(path, name)  # hence FINAL_ONLY, or n > 1 yields one


def test_rollout_actor_counts_unfinished_requests():
    assert parameters("trainer/ray/vllm_engine.py", "RolloutRayActor.get_num_unfinished_requests") == []


def test_executor_is_loaded_from_a_file_by_its_name():
    code = source("trainer/ray/vllm_engine.py", "_load_agent_executor")
    assert "spec_from_file_location('agent_module', agent_func_path)" in code
    assert "issubclass(agent_executor_cls, AgentExecutorBase)" in code
    assert "return agent_executor_cls()" in code


def test_executor_execute():
    assert parameters("utils/agent.py", "AgentExecutorBase.execute") == [
        "prompt",
        "label",
        "sampling_params",
        "max_length",
        "hf_tokenizer",
        "llm_engine",
        "images",
    ]


def test_rollout_actor_keeps_the_arguments_of_its_engine():
    assert "self.kwargs = kwargs" in source("trainer/ray/vllm_engine.py", "RolloutRayActor.__init__")


VLLM = Path(importlib.util.find_spec("vllm").submodule_search_locations[0])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        # The i-th of n draws has the seed of the request plus i, so draws can be asked for in parts.
        ("v1/engine/parallel_sampling.py", "child_sampling_params.seed = seed + index"),
        ("v1/engine/exceptions.py", "class EngineDeadError("),
        ("outputs.py", "self.num_cached_tokens = num_cached_tokens"),
    ],
)
def test_vllm_hook(path, code):
    assert code in (VLLM / path).read_text(encoding="utf-8")


def test_bundle_indices():
    assert parameters("trainer/ray/utils.py", "get_bundle_indices") == ["placement_group", "index", "length"]


# Pitfalls that we work around. A failure here is good news: upstream has mended one, and our detour can go.


def test_pitfall_dpo_horizon_is_floored_epoch_by_epoch():
    code = source("cli/train_dpo.py", "train")
    assert "num_update_steps_per_epoch = len(train_dataset) // args.train.batch_size" in code
    assert "max_steps = math.ceil(args.train.max_epochs * num_update_steps_per_epoch)" in code


def test_pitfall_dpo_resume_counts_an_epoch_in_whole_updates():
    code = source("trainer/dpo_trainer.py", "DPOTrainer.fit")
    assert "start_epoch = consumed_samples // args.train.batch_size // num_update_steps_per_epoch" in code


def test_pitfall_reward_dataset_strips_newlines_and_appends_eos():
    code = source("datasets/reward_dataset.py", "RewardDataset.__getitem__")
    assert code.count(".rstrip('\\n')") == 2
    assert code.count("+= ' ' + self.tokenizer.eos_token") == 2
    assert code.count("['input_ids'][0][-1] = self.tokenizer.eos_token_id") == 2


def test_pitfall_sft_dataset_strips_newlines_and_appends_eos():
    code = source("datasets/sft_dataset.py", "SFTDataset.__getitem__")
    assert ".rstrip('\\n')" in code
    assert "input_ids[0][-1] = self.tokenizer.eos_token_id" in code


def test_pitfall_torch_hands_the_linker_its_own_path_unquoted():
    source = Path(importlib.util.find_spec("torch").submodule_search_locations[0], "utils", "cpp_extension.py")
    assert "extra_ldflags.append(f'-L{TORCH_LIB_PATH}')" in source.read_text(encoding="utf-8")


def test_pitfall_at_stage_0_deepspeed_makes_an_update_before_the_first():
    from deepspeed.runtime.fp16.fused_optimizer import FP16_Optimizer
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    for optimizer, groups in ((FP16_Optimizer, "fp32_groups_flat"), (FP16_UnfusedOptimizer, "fp32_groups")):
        code = inspect.getsource(optimizer.initialize_optimizer_states)
        assert "self.optimizer.step()" in code
        assert f"self.{groups}" in code


def test_pitfall_parameters_are_of_bf16_or_fp16_and_deepspeed_takes_what_is_neither_for_fp32():
    code = source("utils/utils.py", "convert_to_torch_dtype")
    assert "raise ValueError(f'Invalid param_dtype: {param_dtype}')" in code
    assert "fp32" not in code
    # The function is looked up when an Actor is made.
    assert "from openrlhf.utils.utils import convert_to_torch_dtype" in source("models/actor.py", "Actor.__init__")
    for name in ("get_train_ds_config", "get_eval_ds_config"):
        code = source("utils/deepspeed/deepspeed_utils.py", name)
        for kind in ("bf16", "fp16"):
            assert f"'{kind}': {{'enabled': param_dtype == '{kind}'}}" in code


def test_pitfall_at_stage_0_deepspeed_forgets_the_norm_of_fp32_gradients():
    from deepspeed.runtime.engine import DeepSpeedEngine

    code = inspect.getsource(DeepSpeedEngine.clip_fp32_gradients)
    assert "max_norm=self.gradient_clipping()" in code
    assert "_global_grad_norm" not in code
    code = inspect.getsource(DeepSpeedEngine._take_model_step)
    assert "if self.gradient_clipping() > 0.0" in code
    assert "self._global_grad_norm = self.optimizer._global_grad_norm" in code


def test_pitfall_models_and_tokenizers_run_their_own_code():
    assert "trust_remote_code=True" in source("models/actor.py", "Actor.__init__")
    assert "trust_remote_code=True" in source("utils/utils.py", "get_tokenizer")
    assert "'trust_remote_code': True" in source("trainer/ray/vllm_engine.py", "create_vllm_engines")
