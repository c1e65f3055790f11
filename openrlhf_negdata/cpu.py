"""All that OpenRLHF 0.11.2 needs on a host without CUDA, and nothing else.

``setup()`` makes SFT, DPO, our trainers and the vLLM rollout actors run on CPU with gloo and DeepSpeed's CPU
accelerator. Where CUDA is present it only says where DeepSpeed keeps its kernels. Every item names the upstream line
it works around, and is skipped once that line is gone. ``python -m openrlhf_negdata.cpu MODULE ARGS`` runs a stock
OpenRLHF module under it. ``start_ray()`` and ``setup_ray_worker()`` add what PPO needs, whose trainers, engines and
models are actors of Ray.
"""

from __future__ import annotations

import fcntl
import importlib
import importlib.util
import os
import runpy
import shlex
import shutil
import signal
import socket
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from openrlhf_negdata import host
from openrlhf_negdata.errors import UserError, end, leave


def without_cuda() -> bool:
    """Whether this host has no CUDA device."""
    import torch

    return not torch.cuda.is_available()


def precision() -> str:
    """What models are trained and served in unless a flag says so: ``bf16`` with CUDA; ``fp32`` without, where few
    processors multiply bf16 fast, and those of AVX2 alone some 40 times as slowly."""
    return "fp32" if without_cuda() else "bf16"


def setup() -> None:
    """Prepare this process, once, before it builds an OpenRLHF strategy. Where CUDA is present, only the place of
    DeepSpeed's kernels is set."""
    os.environ["TORCH_EXTENSIONS_DIR"] = str(kernel_folder())
    if not without_cuda():
        return
    check_compiler()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _single_process_rendezvous()
    _load_kernels()
    _import_without_flash_attn()
    _allow_fp32()
    _use_cpu_strategy()


def kernel_folder() -> Path:
    """Where DeepSpeed keeps the kernels that it compiles: TORCH_EXTENSIONS_DIR, or a folder of this environment.

    torch's default is one folder for all environments of a user, and two releases of torch or DeepSpeed compile over
    each other there.
    """
    if given := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(given)
    if os.access(sys.prefix, os.W_OK):
        return Path(sys.prefix) / "share" / "torch_extensions"
    return Path.home() / ".cache" / "torch_extensions"


def check_compiler() -> None:
    """DeepSpeed compiles its optimizer and shared-memory kernels the first time they are used on CPU."""
    missing = [tool for tool in ("g++", "ninja") if not on_path(tool)]
    if missing:
        raise UserError(
            f"no {' and no '.join(missing)} on PATH: DeepSpeed builds its CPU kernels with them; "
            "install a C++ compiler (Debian: apt-get install g++) and `pip install ninja`"
        )


def on_path(tool: str) -> bool:
    """Whether ``tool`` can be run by its name, now that the interpreter's own folder is on PATH."""
    # pip puts ninja beside the interpreter, which is on PATH only where the virtual environment is activated.
    scripts = os.path.dirname(sys.executable)
    if shutil.which(tool, path=scripts) and scripts not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    return shutil.which(tool) is not None


def _single_process_rendezvous() -> None:
    """openrlhf/utils/deepspeed/deepspeed.py:100: init_distributed imports mpi4py unless all of these are set."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="-1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _load_kernels() -> None:
    """torch/utils/file_baton.py: a kernel build that is killed leaves a lock file, and the next one waits for ever.

    So the kernels are loaded here, by one process at a time, under a lock that the system takes back from a dead
    process: whoever holds it may remove the other kind. DeepSpeed then takes them from its cache of loaded kernels
    (deepspeed/ops/op_builder/builder.py:548).
    """
    from deepspeed.accelerator import get_accelerator
    from torch.utils import cpp_extension

    # torch/utils/cpp_extension.py, _prepare_ldflags: the path goes to the linker unquoted, and may hold a space.
    cpp_extension.TORCH_LIB_PATH = shlex.quote(cpp_extension.TORCH_LIB_PATH.strip("'"))
    root = kernel_folder()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".negdata.lock").open("w") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)
        for kernel in ("deepspeed_shm_comm", "fused_adam"):
            for left_behind in root.glob(f"**/{kernel}/lock"):
                left_behind.unlink()
            if not any(root.glob(f"**/{kernel}/{kernel}.so")):
                print(f"building DeepSpeed's kernel {kernel}: a minute, the first time only", flush=True)
        for builder in ("ShareMemCommBuilder", "FusedAdamBuilder"):
            get_accelerator().create_op_builder(builder).load()


def _import_without_flash_attn() -> None:
    """openrlhf/models/ring_attn_utils.py:3-4 imports flash_attn, whose functions only packing and ring attention call.

    Placeholders stand in for that one import and are removed again, so that transformers does not see a flash_attn.
    """
    if "openrlhf.models.ring_attn_utils" in sys.modules or importlib.util.find_spec("flash_attn") is not None:
        return

    def needs_flash_attn(*_: Any, **__: Any) -> None:
        raise UserError("packed samples and ring attention need flash-attn, which needs CUDA: leave them off on CPU")

    names = ("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        for function in ("index_first_axis", "pad_input", "rearrange", "unpad_input", "all_gather"):
            setattr(module, function, needs_flash_attn)
        sys.modules[name] = module
    try:
        importlib.import_module("openrlhf.models.ring_attn_utils")
    finally:
        for name in names:
            del sys.modules[name]


def _allow_fp32() -> None:
    """openrlhf/utils/utils.py:8: parameters are of bf16 or fp16. Actor looks the function up when it is made
    (models/actor.py:110), and DeepSpeed's config takes what is neither for fp32 (deepspeed_utils.py:50)."""
    import openrlhf.utils.utils as host
    import torch

    other = host.convert_to_torch_dtype
    try:
        other("fp32")
    except ValueError:
        host.convert_to_torch_dtype = lambda name: torch.float32 if name == "fp32" else other(name)


def _use_cpu_strategy() -> None:
    """Give ``openrlhf.utils.get_strategy`` a strategy that asks for no CUDA device.

    It imports ``openrlhf.utils.deepspeed.DeepspeedStrategy`` when called (openrlhf/utils/utils.py:26), so rebinding
    that name is enough.
    """
    import openrlhf.utils.deepspeed
    import openrlhf.utils.deepspeed.deepspeed as host
    import torch
    import torch.distributed

    if hasattr(host, "torch_dist_barrier_and_cuda_sync"):
        # openrlhf/utils/distributed_util.py:10 synchronizes CUDA after saving (deepspeed.py:597, 757).
        host.torch_dist_barrier_and_cuda_sync = torch.distributed.barrier

    class CPUDeepspeedStrategy(host.DeepspeedStrategy):
        def setup_distributed(self, *args: Any, **kwargs: Any) -> None:
            # deepspeed.py:94-97: any other local rank calls torch.cuda.set_device; launchers set 0 and up.
            self.args.local_rank = -1
            os.environ["LOCAL_RANK"] = "-1"
            super().setup_distributed(*args, **kwargs)

        def all_reduce(self, data: Any, op: str = "mean") -> Any:
            # deepspeed.py:614 moves CPU tensors to the current CUDA device.
            if isinstance(data, dict):
                return {key: self.all_reduce(value, op) for key, value in data.items()}
            tensor = data if isinstance(data, torch.Tensor) else torch.tensor([data], dtype=torch.float32)
            reduce = {"mean": "SUM", "sum": "SUM", "max": "MAX"}[op]
            tensor = tensor / self.world_size if op == "mean" else tensor.clone()
            torch.distributed.all_reduce(tensor, op=getattr(torch.distributed.ReduceOp, reduce))
            return tensor if isinstance(data, torch.Tensor) else tensor.item()

        def all_gather(self, data: Any) -> Any:
            # deepspeed.py:633-634 does the same.
            if isinstance(data, dict):
                return {key: self.all_gather(value) for key, value in data.items()}
            tensor = data if isinstance(data, torch.Tensor) else torch.tensor([data], dtype=torch.float32)
            gathered = [torch.zeros_like(tensor) for _ in range(self.world_size)]
            torch.distributed.all_gather(gathered, tensor)
            return torch.cat(gathered)

    openrlhf.utils.deepspeed.DeepspeedStrategy = CPUDeepspeedStrategy


#: What Ray runs first in every worker.
WORKER_SETUP = f"{__name__}.setup_ray_worker"


def engine_environment(engines: int) -> dict[str, str]:
    """The environment variables of ``engines`` vLLM engines on one host without CUDA."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // (2 * engines))),
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
    }


def start_ray(engines: int, actors: int) -> None:
    """A private Ray for ``engines`` vLLM engines and ``actors`` processes of models. Its GPUs are a count that it
    keeps. openrlhf/cli/train_ppo_ray.py starts none where there is one."""
    if " " in sys.executable:
        # Ray starts a worker that has a runtime_env by a line of shell that quotes nothing (context.py, exec_worker).
        raise UserError(f"{sys.executable}: without CUDA this needs a Python whose path holds no space")
    os.environ.update(engine_environment(engines))
    host.init_ray(
        "local",
        num_cpus=engines + actors + 1,  # and the trainer's
        num_gpus=engines + actors,
        include_dashboard=False,
        runtime_env={"worker_process_setup_hook": WORKER_SETUP},
    )
    _use_cpu_engines()


def setup_ray_worker() -> None:
    """``setup()``, and what the trainers and models of train_ppo_ray need beside it, in their own processes."""
    # Workers of a Ray that ends what the dead leave behind ignore it, and then wait for ever for children of theirs:
    # cpuinfo does, which DeepSpeed asks for the processor when it loads its kernels.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    setup()
    _no_cuda_calls()
    _send_weights_over_a_store()


def _no_cuda_calls() -> None:
    """Calls of torch.cuda that fail without CUDA, in openrlhf/trainer: ``synchronize`` (ray/launcher.py:65,
    ray/ppo_actor.py:605), ``current_stream`` (ray/ppo_actor.py:436) and ``current_device`` (ray/ppo_actor.py:148,
    ray/launcher.py:136, ppo_utils/replay_buffer.py:40, which writes ``f"cuda:{...}"``)."""
    import torch

    class Host(str):
        def __format__(self, _: str) -> str:
            return "0"

    cuda: Any = torch.cuda
    cuda.synchronize = cuda.current_stream = lambda *_, **__: None
    cuda.current_device = lambda: Host("cpu")


def _send_weights_over_a_store() -> None:
    """openrlhf/utils/distributed_util.py:13: weights go to the engines over NCCL. Here they go over the store through
    which the two sides meet; ``openrlhf_negdata.ppo.worker`` is the other side."""
    import openrlhf.utils.distributed_util as host

    class StoreGroup:
        def __init__(self, address: str, port: int, rank: int, world_size: int, _: Any) -> None:
            from vllm.distributed.utils import StatelessProcessGroup

            self.group = StatelessProcessGroup.create(host=address, port=port, rank=rank, world_size=world_size)

        def broadcast(self, tensor: Any, src: int, stream: Any = None) -> None:
            self.group.broadcast(tensor, src)

    # ppo_actor.py:28 imports the name, and is itself imported later.
    host.stateless_init_process_group = StoreGroup


def _use_cpu_engines() -> None:
    """openrlhf/trainer/ray/vllm_engine.py:267 fixes the engines' worker_extension_cls, which receives into CUDA
    memory, and their type, bfloat16. ``create_vllm_engines`` looks the actor's class up when it is called."""
    import openrlhf.trainer.ray.vllm_engine as host
    import ray

    base: Any = host.RolloutRayActor.__ray_actor_class__

    class CPURolloutRayActor(base):
        async def __init__(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[misc]
            kwargs |= {"worker_extension_cls": "openrlhf_negdata.ppo.worker.StoreWeightsWorker", "enforce_eager": True}
            kwargs["dtype"] = "float32"
            await super().__init__(*args, **kwargs)

    host.RolloutRayActor = ray.remote(CPURolloutRayActor)


def main() -> None:
    """``python -m openrlhf_negdata.cpu MODULE ARGS``: run a module as ``python -m MODULE ARGS`` would, set up for
    CPU. Our own trainers set themselves up, once they know that there is something to train."""
    del sys.argv[0]
    module = sys.argv[0]
    try:
        if not module.startswith("openrlhf_negdata."):
            setup()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except (UserError, ImportError, KeyboardInterrupt) as error:
        leave(end(module, error))


if __name__ == "__main__":
    main()
