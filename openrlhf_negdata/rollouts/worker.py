"""What runs inside vLLM's workers (``worker_extension_cls``): weights are exchanged, and none may be missing."""

from __future__ import annotations

from typing import Any


class WeightsWorker:
    """vLLM makes this a base of its worker; ``model_runner`` is the worker's."""

    model_runner: Any

    def load_folder(self, path: str) -> str | None:
        """Load the weights of the model folder ``path``, of the architecture that is loaded. Returns what went wrong,
        in one line, or None.

        vLLM only warns where ``reload_weights`` leaves a parameter as it was, and does not notice at all where part of
        a packed one (q, k and v) is left, nor at its first load. So the first model is loaded once more, unless it is
        quantized: not every quantization can be, and its parameters are not the checkpoint's.
        """
        config = self.model_runner.model_config
        if config.quantization is not None and path == config.model:
            return None
        return self.reload(weights_path=path)

    def reload(self, **source: Any) -> str | None:
        """Load the weights that ``source`` names to vLLM's ``reload_weights``. Returns as :meth:`load_folder` does."""
        runner = self.model_runner
        model, missing, tied = runner.get_model(), set[str](), set[str]()
        shared = _shared(model)
        load_weights = model.load_weights

        def load_and_look(weights: Any) -> Any:
            loaded = load_weights(weights)
            left = _not_loaded(model, loaded)
            tied.update(name for name in left if not left.issuperset(shared.get(name, {name})))
            missing.update(left - tied)
            return loaded

        model.load_weights = load_and_look
        try:
            runner.reload_weights(**source)
        except Exception as error:  # an unknown tensor is a KeyError or ValueError, one of another shape an assertion
            return f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            del model.load_weights
        if runner.model_config.quantization is not None:
            return None
        if missing:
            return f"there are no or not all weights of {', '.join(sorted(missing)[:3])}"
        for name in tied:
            _process(model, name, shared[name])
        return None


def _shared(model: Any) -> dict[str, set[str]]:
    """By name, the names of the parameters that are one with it: the output layer's and the embedding's, where a model
    ties them. A checkpoint need hold but one of them. To be called before a reload, which sees each by itself."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return {name: group for group in names.values() if len(group) > 1 for name in group}


def _process(model: Any, name: str, group: set[str]) -> None:
    """Make a layer ready again whose parameter was loaded under another name: vLLM's reload puts the parameter back
    and leaves out the rest, which on CPU is to pack it anew (layers/utils.py, dispatch_cpu_unquantized_gemm)."""
    layer = model.get_submodule(name.rpartition(".")[0])
    assert len({id(model.get_parameter(one)) for one in group}) == 1
    layer.quant_method.process_weights_after_loading(layer)


def _not_loaded(model: Any, loaded: set[str] | None) -> set[str]:
    """Names of the parameters that were not loaded, and of the linear layers that were loaded in part.

    To be called between vLLM's load and its ``finalize_layerwise_reload``: until then a layer that waits for more
    elements can be told (vllm/model_executor/model_loader/reload/layerwise.py). Other layers may be padded, and
    wait for elements that no checkpoint has.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    names = {name for name, _ in model.named_parameters()} - loaded if loaded is not None else set()
    for name, layer in model.named_modules():
        if isinstance(layer, LinearBase):
            info = get_layerwise_info(layer)
            if info.can_load() and info.load_numel < (info.load_numel_total or 0):
                names.add(name)
    return names
