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
        model, missing = runner.get_model(), set[str]()
        load_weights = model.load_weights

        def load_and_look(weights: Any) -> Any:
            loaded = load_weights(weights)
            missing.update(_not_loaded(model, loaded))
            return loaded

        model.load_weights = load_and_look
        try:
            runner.reload_weights(**source)
        except Exception as error:  # an unknown tensor is a KeyError or ValueError, one of another shape an assertion
            return f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            del model.load_weights
        if missing and runner.model_config.quantization is None:
            return f"there are no or not all weights of {', '.join(sorted(missing)[:3])}"
        return None


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
