"""What shards need of families and of the file system; `integration/test_shards.py` trains in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.conftest import small_decoder, small_t5

from tinyllm.config import LoraConfig
from tinyllm.data.steps import Pair, TargetText
from tinyllm.student.adapters import add_adapters
from tinyllm.student.family import family_of
from tinyllm.student.sharding import PROGRESS, beside, gather, read, restore


@pytest.mark.parametrize("lora", [False, True], ids=["all", "adapters"])
@pytest.mark.parametrize("kind", ["t5", "llama", "gemma3"])
def test_a_layers_parts_are_called_once_in_turn(kind: str, lora: bool) -> None:
    """FSDP2 gathers a layer's weights at its first part and lets them go behind its last."""
    model = small_t5() if kind == "t5" else small_decoder(kind)
    if lora:
        add_adapters(model, LoraConfig(r=2, alpha=4, dropout=0.0, target_modules=["all-linear"]))
    family = family_of(model.config)
    layers = family.parts(model)
    assert len(layers) == (4 if kind == "t5" else 3)
    owners = Counter(id(weight) for parts in layers for part in parts for weight in part.parameters())
    assert set(owners.values()) == {1}, "no weight in two parts"
    calls: list[int] = []
    for number, parts in enumerate(layers):
        for part in parts:
            part.register_forward_hook(lambda *_, n=number: calls.append(n))
    pairs = [Pair((5, 6, 7), (TargetText((8, 1), normaliser=1.0, lead=() if kind == "t5" else (9,)),))]
    family.token_losses(model, family.lay_out(pairs, model.config))
    assert calls == [number for number, parts in enumerate(layers) for _ in parts]


def test_gathering_copies_every_weight() -> None:
    trained, whole = small_t5(seed=1, tied=True), small_t5(seed=2, tied=True)
    gather(trained, whole)
    for name, value in trained.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value), name
    assert whole.lm_head.weight is whole.shared.weight


def test_a_folder_of_shards_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames: the former one is whole, whatever has been written beside it."""
    path = tmp_path / "last.ckpt"
    draft, old = beside(path)
    restore(path)
    assert read(path) == {} and not path.exists()
    for folder, step in ((draft, 2), (old, 1)):
        folder.mkdir()
        torch.save({"global_step": step}, folder / PROGRESS)
    restore(path)
    assert read(path) == {"global_step": 1} and not old.exists()
    old.mkdir()  # killed behind the second: the new one counts
    restore(path)
    assert read(path) == {"global_step": 1} and not old.exists()
