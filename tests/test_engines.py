"""What is said of an engine that cannot start, or dies. On a Ray cluster of two nodes; the actors hold no vLLM."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from openrlhf_negdata import cpu
from openrlhf_negdata.errors import UserError
from openrlhf_negdata.rollouts import engines

#: As vLLM writes them: what its engine process raised, and what the actor raises then.
LOGGED = """(Worker pid=8) ERROR 11-24 19:06:43 [multiproc_executor.py:944] ValueError: the cache is
too small for one answer
(EngineCore pid=7) ERROR 11-24 19:06:44 [core.py:1374] Exception: WorkerProc initialization failed due to an \
exception in a background process. See stack trace for root cause."""
FOLLOWS = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray's module and its folder of logs. The nodes run in the folders ``first``, which holds ``model``, and
    ``second``, which does not."""
    import ray
    from ray.cluster_utils import Cluster

    root, here = tmp_path_factory.mktemp("cluster"), Path.cwd()
    (root / "first" / "model").mkdir(parents=True)
    (root / "second").mkdir()
    try:
        os.chdir(root / "first")
        nodes = Cluster(
            initialize_head=True, head_node_args={"include_dashboard": False, "num_cpus": 2, "num_gpus": 1}
        )
        os.chdir(root / "second")
        nodes.add_node(num_cpus=2, num_gpus=1)
    finally:
        os.chdir(here)
    joined = ray.init(address=nodes.address, log_to_driver=False)
    yield ray, Path(joined.address_info["session_dir"]) / "logs"
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def running(cluster, tmp_path):
    """Engines whose one actor is of the given class."""
    ray, logs = cluster

    def make(actor):
        made = engines.Engines(tmp_path, 8, {})
        made.actors, made.logs = [ray.remote(num_cpus=0)(actor).remote()], logs
        return made

    return make


def line_of(made):
    """The one line that a user sees of the first job."""
    with pytest.raises(UserError) as told:
        list(made.run([1], 1))
    assert "\n" not in str(told.value)
    return str(told.value)


def log_of(line):
    return Path(re.fullmatch(r".* \(its log: (\S+)\)", line)[1]).read_text()


def test_a_model_that_one_node_lacks_is_refused_with_the_name_of_that_node(cluster):
    """Every node is asked, and a node sees its own files: here the same path is another folder on each."""
    ray, _ = cluster
    both = ray.util.placement_group([{"GPU": 1}] * 2, strategy="STRICT_SPREAD")
    ray.get(both.ready())
    engines._check_nodes(both, Path("/proc/self/cwd"))
    address = re.escape(ray.util.get_node_ip_address())
    with pytest.raises(UserError, match=f"no model /proc/self/cwd/model on node {address}: every node"):
        engines._check_nodes(both, Path("/proc/self/cwd/model"))
    with pytest.raises(UserError, match=f"no model /no/such on node {address}, {address}: every node"):
        engines._check_nodes(both, Path("/no/such"))
    ray.util.remove_placement_group(both)


def test_an_actor_that_dies_in_the_middle_is_one_line_with_its_own_log(running):
    class Dies:
        def generate_responses(self, **_):
            print("my last words", flush=True)
            os._exit(1)

    line = line_of(running(Dies))
    assert line.startswith("a rollout actor died 4 times; run the same command again to go on: ")
    log = Path(re.fullmatch(r".* \(its log: (\S+)\)", line)[1])
    assert "my last words" in log.with_suffix(".out").read_text()


def test_an_engine_process_that_died_of_an_error_is_told_by_that_error(running):
    class Follows:
        def generate_responses(self, **_):
            print(LOGGED, flush=True)
            raise RuntimeError(FOLLOWS)

    line = line_of(running(Follows))
    assert line.startswith("a rollout actor failed: ValueError: the cache is too small for one answer (its log: ")
    assert "too small for one answer" in log_of(line)


def test_an_engine_process_that_was_killed_is_told_so(running):
    class Silent:
        def generate_responses(self, **_):
            raise RuntimeError(FOLLOWS)

    assert "vLLM's engine process died and left no error: the system kills it" in line_of(running(Silent))


def test_an_engine_that_lacks_memory_is_told_with_the_settings_that_decide_it(cluster, tmp_path):
    """vLLM names its own settings, which are not those of our commands."""
    ray, logs = cluster

    class Lacks:
        def __init__(self):
            raise ValueError("1.22 GiB KV cache is needed, larger than the available KV cache memory (1.0 GiB).")

        def ready(self):
            """Never reached."""

    made = engines.Engines(tmp_path, 8, {})
    made.logs = logs
    with pytest.raises(ray.exceptions.RayActorError) as failed:
        ray.get(ray.remote(num_cpus=0)(Lacks).remote().ready.remote())
    line = made._cannot_start(failed.value)
    assert line.startswith(
        f"an engine for {tmp_path} cannot start: ValueError: 1.22 GiB KV cache is needed, larger than"
    )
    cache = "VLLM_CPU_KVCACHE_SPACE (GiB)" if cpu.without_cuda() else "--vllm.gpu_memory_utilization"
    assert line.endswith(f"; an engine's memory is set by {cache}, a sequence's by --rollout.max_new_tokens")


def test_an_error_of_several_lines_is_told_whole(running):
    """As pydantic writes them: the first line says how many there are, and not which."""

    class Several:
        def generate_responses(self, **_):
            raise ValueError("1 validation error for SchedulerConfig\nmax_num_seqs\n  should be at least 1")

    line = line_of(running(Several))
    assert "ValueError: 1 validation error for SchedulerConfig max_num_seqs should be at least 1 (its log: " in line


def test_the_line_of_an_executor_is_passed_on_as_it_is(running):
    class Refuses:
        def generate_responses(self, **_):
            raise UserError("my_model: its weights cannot be loaded")

    assert line_of(running(Refuses)) == "my_model: its weights cannot be loaded"


def test_a_cluster_that_cannot_be_joined_is_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = engines.Engines(Path("m"), 8, {"ray.address": "no such", "vllm.num_engines": 1})
    with pytest.raises(UserError, match="^--ray.address no such: .+"):
        made._join_ray(1, 1)


#: Log-probabilities that an engine gives a prompt after it has loaded each of the folders, the first one anew.
LOADS_IN_TURN = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    engine = LLM(
        sys.argv[1], dtype="float32", max_model_len=64, enforce_eager=True, max_num_seqs=8, skip_tokenizer_init=True,
        worker_extension_cls="openrlhf_negdata.rollouts.worker.WeightsWorker",
    )
    for folder in sys.argv[1:]:
        told = engine.collective_rpc("load_folder", args=(folder,))
        engine.reset_prefix_cache()
        asked = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)
        (out,) = engine.generate({"prompt_token_ids": [3, 4, 5, 6, 7]}, asked, use_tqdm=False)
        found = [next(iter(one.values())).logprob for one in out.prompt_logprobs[1:]]
        print("told", json.dumps([told, found]), flush=True)
"""


def test_a_model_whose_output_layer_is_its_embedding_is_loaded_whole(tmp_path):
    """Its file has the one tensor for both, as transformers writes it. What is computed with is the new one, in both
    places."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    script, expected, folders = tmp_path / "loads.py", [], []
    script.write_text(LOADS_IN_TURN, encoding="utf-8")
    size = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    for seed in range(2):
        torch.manual_seed(seed)
        heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
        model = LlamaForCausalLM(LlamaConfig(**size, **heads, tie_word_embeddings=True, initializer_range=0.3))
        folders.append(tmp_path / f"model{seed}")
        model.save_pretrained(folders[-1])
        ids = torch.tensor([[3, 4, 5, 6, 7]])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].log_softmax(-1)
        expected.append(logits.gather(1, ids[0, 1:, None])[:, 0].tolist())
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment["OMP_NUM_THREADS"] = "1"
    words = [sys.executable, script, *folders, folders[0]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=540)
    said = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("told ")]
    assert len(said) == 3, done.stderr[-3000:]
    for (told, found), wanted in zip(said, [*expected, expected[0]], strict=True):
        assert told == [None]
        assert found == pytest.approx(wanted, abs=1e-3)
