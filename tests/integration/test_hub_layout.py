"""Model folders as the hub lays them out go through every stage, and plain transformers reads what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tests.hub_layout import FLAN_T5_FILES, PADDED, PIECES, SENTINELS, flan_t5, sharded_decoder
from tests.integration.conftest import SMALL, Stage
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from tinyllm.errors import UserError
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.student.models import load_pretrained
from tinyllm.student.student import Student

TEXTS = [
    "predict: Which tool cuts wood?\nAnswer Choices:\n(a) a saw (b) a spoon",
    "ﬁne café, ½ and Ａ; two  spaces ",
    "explain: ß 日本 <tag> \\ {x}",
]
QUESTION = Question("1", "Which tool cuts wood?", ("a saw", "a spoon", "a rope"), "a saw")


@pytest.fixture(scope="module")
def flan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flan_t5(tmp_path_factory.mktemp("hub") / "flan-t5-small")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded_decoder(tmp_path_factory.mktemp("hub") / "decoder")


def untied(model: torch.nn.Module) -> bool:
    state = model.state_dict()
    return not torch.equal(state["lm_head.weight"], state["shared.weight"])


def test_the_folder_is_the_hubs(flan: Path, decoder: Path) -> None:
    assert {file.name for file in flan.iterdir()} == FLAN_T5_FILES
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(flan / "spiece.model"))
    assert pieces.get_piece_size() == PIECES == 32_000
    assert {file.name for file in decoder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors.index.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json", *(f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)),
    }  # fmt: skip


@pytest.mark.parametrize("both_embeddings", [False, True])
def test_weights_are_the_files(flan: Path, tmp_path: Path, both_embeddings: bool) -> None:
    folder = flan_t5(tmp_path / "model", both_embeddings=True) if both_embeddings else flan
    model, tokenizer = load_pretrained(str(folder))
    state = model.state_dict()
    file = load_file(folder / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in file.items())
    assert torch.equal(state["encoder.embed_tokens.weight"], file["shared.weight"])
    assert torch.equal(state["decoder.embed_tokens.weight"], file["shared.weight"])
    assert untied(model) and state["lm_head.weight"].shape[0] == PADDED == 32_128 and len(tokenizer) == 32_100


def as_sentencepiece(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    for text in TEXTS:
        assert tokenizer(text).input_ids == [*pieces.encode(text), 1]
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.convert_tokens_to_ids(SENTINELS) == list(range(32_099, 31_999, -1))
    assert tokenizer.decode(tokenizer("<extra_id_0> a saw <extra_id_1>").input_ids, skip_special_tokens=True) == "a saw"


def test_tokens_are_sentencepieces_also_after_saving(flan: Path, tmp_path: Path) -> None:
    student = Student(*load_pretrained(str(flan)), "predict: ")
    as_sentencepiece(flan, student.tokenizer)
    student.save(tmp_path / "saved")
    as_sentencepiece(flan, AutoTokenizer.from_pretrained(tmp_path / "saved"))


def check_answers(folder: Path, student: Student) -> None:
    """What a student ranks and writes, against one padded forward pass per option and transformers' own generation."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = "".join(student_source(QUESTION, student.answer_prefix))
    plain = T5ForConditionalGeneration.from_pretrained(folder).eval()
    (prediction,) = next(student.predict([QUESTION], student.sources([QUESTION]), batch_size=1))
    inputs = tokenizer(source, return_tensors="pt")
    scores = []
    for choice in QUESTION.choices:
        labels = tokenizer(choice, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = plain(**inputs, labels=labels).logits
        scores.append(logits.log_softmax(-1).gather(2, labels[..., None]).mean().item())
    assert prediction.scores == pytest.approx(scores, rel=1e-5)
    written = plain.generate(**inputs, max_new_tokens=9, do_sample=False)
    text = tokenizer.decode(written[0], skip_special_tokens=True).strip()
    assert text and prediction.generated.startswith(text)


def test_answers_are_plain_transformers_also_after_saving(flan: Path, tmp_path: Path) -> None:
    student = Student(*load_pretrained(str(flan)), "predict: ", cache=tmp_path / "cache")
    check_answers(flan, student)
    student.save(tmp_path / "saved")
    check_answers(tmp_path / "saved", student)


RUN = [
    *(override for override in SMALL if not override.startswith("student.")),
    "trainer.max_epochs=1",
    "trainer.valid_every=1",
    "data.limit_valid=8",
    "data.limit_test=8",
    "optimizer.lr=1e-2",
]


@pytest.mark.parametrize("method", ["full_ft", pytest.param("lora", marks=pytest.mark.slow)])
def test_flan_t5_is_trained_saved_and_exported_with_its_own_head(
    stage: Stage, flan: Path, tmp_path: Path, method: str
) -> None:
    own = [f"student.pretrained={flan}", f"method={method}", "hydra.run.dir=run"]
    code, _, err = stage("train", *RUN, "student=flan_t5_small", *own)
    assert code == 0 and "tie" not in err, err
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    exported = tmp_path / "exported"
    before, after = load_file(flan / "model.safetensors"), load_file(exported / "model.safetensors")
    assert set(before) == set(after) and untied(AutoModelForSeq2SeqLM.from_pretrained(exported))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if method == "full_ft":
        assert {"lm_head.weight", "shared.weight"} <= changed
    else:
        assert changed == {name for name in before if name.endswith((".q.weight", ".v.weight"))}
    written, given = (json.loads((folder / "config.json").read_text()) for folder in (exported, flan))
    assert {key: written.get(key) for key in ("tie_word_embeddings", "vocab_size", "feed_forward_proj")} == {
        key: given[key] for key in ("tie_word_embeddings", "vocab_size", "feed_forward_proj")
    }
    as_sentencepiece(flan, AutoTokenizer.from_pretrained(exported))
    check_answers(exported, Student(*load_pretrained(str(exported)), "predict: ", cache=tmp_path / "cache"))
    code, _, err = stage("evaluate", "run=run", "evaluation.split=valid", "trainer.precision=32-true")
    assert code == 0, err
    (run, again) = (json.loads(file.read_text()) for file in sorted(Path("run").rglob("result.json"))[::-1])
    assert again["accuracy"] == run["valid_accuracy"]


def test_a_decoder_in_shards_is_trained_and_exported(stage: Stage, decoder: Path, tmp_path: Path) -> None:
    index = json.loads((decoder / "model.safetensors.index.json").read_text())["weight_map"]
    model, tokenizer = load_pretrained(str(decoder))
    plain = AutoModelForCausalLM.from_pretrained(decoder)
    ids = tokenizer("Which tool cuts wood?", return_tensors="pt").input_ids
    assert torch.equal(model(ids).logits, plain(ids).logits)
    state = model.state_dict()
    for name, file in index.items():
        assert torch.equal(state[name], load_file(decoder / file)[name])
    code, _, err = stage(
        "train", *RUN, "student=smollm2", f"student.pretrained={decoder}", "student.gguf_file=null", "method=full_ft",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").state_dict()
    assert set(after) == set(state) and not torch.equal(after["lm_head.weight"], state["lm_head.weight"])
    assert not torch.equal(after["lm_head.weight"], after["model.embed_tokens.weight"])


@pytest.mark.parametrize("broken", ["missing weights", "missing shard", "cut shard", "foreign shapes"])
def test_a_broken_folder_is_one_line(tmp_path: Path, broken: str) -> None:
    """Weights that a file lacks would be drawn at random, and the run would look like one of a pretrained student."""
    if broken == "missing weights":
        folder = flan_t5(tmp_path / "model")
        weights = load_file(folder / "model.safetensors")
        del weights["decoder.block.1.layer.2.DenseReluDense.wo.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif broken == "foreign shapes":
        folder = flan_t5(tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"d_ff": 25}))
    else:
        folder = sharded_decoder(tmp_path / "model")
        shard = folder / "model-00002-of-00003.safetensors"
        if broken == "missing shard":
            shard.unlink()
        else:
            shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"^student.pretrained=.*model") as caught:
        load_pretrained(str(folder))
    assert "\n" not in str(caught.value)
