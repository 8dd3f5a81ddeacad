"""A student that is asked: what it predicts against its parts, one question at a time; saving, loading, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.conftest import SHAPE, byte_level, small_decoder, small_t5
from tests.conftest import generated as generate
from tests.conftest import ranked as rank
from transformers import BertConfig, BertLMHeadModel, GenerationConfig

from tinyllm import runs
from tinyllm.config import Accelerator, DataConfig, ExperimentConfig, MethodConfig, StreamConfig, StudentConfig
from tinyllm.data.steps import Pair, TargetText
from tinyllm.errors import UserError
from tinyllm.methods import answer_stream
from tinyllm.records import Question
from tinyllm.student.cpu_speed import RmsNorm
from tinyllm.student.models import load_pretrained
from tinyllm.student.student import Student
from tinyllm.student.tokenizer import train_tokenizer

QUESTIONS = [
    Question("q1", "What keeps soup warm?", ("a flask", "a wide sieve", "ice"), "a flask"),
    Question("q2", "What lifts a piano?", ("a spoon", "a tall crane"), "a tall crane", subset="heavy", group="lift"),
    Question("q3", "What marks the hour?", ("a bell", "a brick", "fog", "a pile of sand"), "a bell"),
]
TOKENIZER = train_tokenizer(
    [f"{q.question} {' '.join(q.choices)} predict: owl: (abcd)" for q in QUESTIONS], max_size=97
)


def student(tmp_path: Path) -> Student:
    model = small_t5(seed=4)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(2)  # answers then differ between questions
    return Student(model.eval(), TOKENIZER, "predict: ", {"owl": "owl: "}, cache=tmp_path)


def test_predictions_are_what_ranking_and_generation_say_of_each_question_alone(tmp_path: Path) -> None:
    asked = student(tmp_path)
    sources = asked.sources(QUESTIONS)
    found = {p.id: p for part in asked.predict(QUESTIONS, sources, batch_size=2) for p in part}
    assert set(found) == {"q1", "q2", "q3"} and (found["q2"].subset, found["q2"].group) == ("heavy", "lift")
    for question in QUESTIONS:
        source = sources.source(question.id, "predict: ")
        options = [TOKENIZER(text, add_special_tokens=False)["input_ids"] + [1] for text in question.choices]
        (scores,) = rank(asked.model, [source], [options])
        assert found[question.id].scores == pytest.approx(scores, rel=1e-5)
        assert found[question.id].ranked == question.choices[scores.index(max(scores))]
        (ids,) = generate(asked.model, [source], max_new_tokens=max(map(len, options)) + 8)
        # The batch may give a text more room, since its longest option counts.
        assert found[question.id].generated.startswith(TOKENIZER.decode(ids, skip_special_tokens=True).strip())
        assert found[question.id].rationales == {}
    assert any(prediction.generated for prediction in found.values()), "an empty text would start any other"


RATIONALES = {
    "q1": ("A flask holds heat.", "A sieve has holes.", ""),
    "q2": ("A spoon lifts soup.", "A crane lifts a piano."),
    "q3": ("A bell marks hours.", "", "Fog hides a bell.", ""),
}


def test_an_option_with_a_source_of_its_own_is_ranked_from_it_and_nothing_is_generated(tmp_path: Path) -> None:
    asked = student(tmp_path)
    asked.voices = {}
    sources = asked.sources(QUESTIONS, RATIONALES)
    found = {p.id: p for part in asked.predict(QUESTIONS, sources, batch_size=2, max_rationale_tokens=5) for p in part}
    for question in QUESTIONS:
        expected = []
        for option, text in enumerate(question.choices):
            ids = TOKENIZER(text, add_special_tokens=False)["input_ids"] + [1]
            ((score,),) = rank(asked.model, [sources.source(question.id, "predict: ", option)], [[ids]])
            expected.append(score)
        own = found[question.id]
        assert own.scores == pytest.approx(expected, rel=1e-5)
        assert own.generated == own.predicted == own.ranked == question.choices[expected.index(max(expected))]
    (plain,) = (p for part in asked.predict(QUESTIONS[1:2], asked.sources(QUESTIONS), batch_size=2) for p in part)
    assert plain.scores != pytest.approx(found["q2"].scores, rel=1e-3)


def test_a_rationale_comes_in_every_voice_from_that_voices_source(tmp_path: Path) -> None:
    asked = student(tmp_path)
    sources = asked.sources(QUESTIONS)
    parts = asked.predict(QUESTIONS, sources, batch_size=3, max_rationale_tokens=5)
    for prediction in (p for part in parts for p in part):
        (ids,) = generate(asked.model, [sources.source(prediction.id, "owl: ")], max_new_tokens=5)
        assert prediction.rationales == {"owl": TOKENIZER.decode(ids, skip_special_tokens=True).strip()}
        assert ids != generate(asked.model, [sources.source(prediction.id, "predict: ")], max_new_tokens=5)[0]


@pytest.mark.parametrize("training", [True, False])
def test_asking_puts_the_models_mode_back(tmp_path: Path, training: bool) -> None:
    asked = student(tmp_path)
    asked.model.train(training)
    for _ in asked.predict(QUESTIONS, asked.sources(QUESTIONS), batch_size=1):
        assert not asked.model.training
    assert asked.model.training is training


def test_losses_take_the_weights_that_are_given_or_the_normalisers(tmp_path: Path) -> None:
    asked = student(tmp_path)
    batch = asked.lay_out([Pair((5, 6, 1), (TargetText((7, 8, 1), 0, 0.5), TargetText((9, 1), 1, 0.25)))])
    total, losses_M = asked.losses(batch)
    assert total.item() == pytest.approx(float((losses_M * batch.normaliser_M).sum()), rel=1e-6)
    doubled, _ = asked.losses(batch, 2 * batch.normaliser_M)
    assert doubled.item() == pytest.approx(2 * total.item(), rel=1e-6)


def test_a_saved_student_is_a_plain_model_folder(tmp_path: Path) -> None:
    saved = student(tmp_path)
    saved.to(Accelerator.cpu)  # the fast parts leave no trace in the files
    saved.save(tmp_path / "model")
    model, tokenizer = load_pretrained(str(tmp_path / "model"))
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved.model.state_dict()[name]), name
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_a_student_on_a_processor_has_the_fast_parts(tmp_path: Path) -> None:
    asked = student(tmp_path).to(Accelerator.cpu).to(Accelerator.cpu)
    assert type(asked.model.encoder.final_layer_norm) is RmsNorm


def test_an_unfinished_run_has_no_student(tmp_path: Path) -> None:
    config = ExperimentConfig(data=DataConfig(name="d"), student=StudentConfig(name="s"), method=MethodConfig(name="m"))
    runs.write_config(config, tmp_path / "run")
    with pytest.raises(UserError, match=r"result\.json.*tinyllm train"):
        Student.load(tmp_path / "run")


def test_a_student_from_scratch_knows_what_it_will_read(tmp_path: Path) -> None:
    config = ExperimentConfig(
        cache=str(tmp_path),
        student=StudentConfig(
            name="s",
            architecture={k: v for k, v in {**SHAPE, "vocab_size": 200}.items() if not k.endswith("_id")},
            max_source_length=50,
        ),
        method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}),
    )
    answers = [answer_stream(config.method, QUESTIONS)]
    made = Student.create(config, QUESTIONS, answers, RATIONALES, precision="32-true")
    assert (made.answer_prefix, made.max_source_length, dict(made.voices)) == ("predict: ", 50, {})
    for question in QUESTIONS:
        ids = made.tokenizer(f"predict: {question.question}", add_special_tokens=False)["input_ids"]
        assert made.tokenizer.unk_token_id not in ids
        for source in made.sources(QUESTIONS, RATIONALES).sources(question.id, "predict: "):
            assert made.tokenizer.unk_token_id not in source


def test_an_architecture_that_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    shape = {"vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
    BertLMHeadModel(BertConfig(**shape, num_hidden_layers=2)).save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="bert"):
        load_pretrained(str(tmp_path / "model"))


def test_random_weights_of_a_decoder_are_refused() -> None:
    config = ExperimentConfig(
        student=StudentConfig(name="s", architecture={"model_type": "llama", "vocab_size": 200}),
        method=MethodConfig(name="full_ft", streams={"answer": StreamConfig()}),
    )
    with pytest.raises(UserError, match=r"student.architecture.model_type=llama: random weights .* student.pretrained"):
        Student.create(config, QUESTIONS, [])
    config.student.architecture = {}
    with pytest.raises(UserError, match=r"student.pretrained=null: .* give student.pretrained a hub id or a folder"):
        Student.create(config, QUESTIONS, [])


def test_an_option_that_the_tokenizer_changes_can_still_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer normalises as T5's does (NFKC): what comes back of the first option is not its text."""
    question = Question("q", "How much?", ("\u00bd cup", "1 cup", "25 m\u00b2"), "\u00bd cup")
    tokenizer = train_tokenizer([f"predict: How much? {' '.join(question.choices)} (abc)"], max_size=97)
    asked = Student(small_t5().eval(), tokenizer, "predict: ", cache=tmp_path)
    for choice in question.choices:
        text = tokenizer.decode(tokenizer(choice, add_special_tokens=False)["input_ids"]).strip()
        assert (text == choice) == (choice == "1 cup")
        monkeypatch.setattr(asked, "_generate", lambda *_, text=text: [text])
        ((prediction,),) = asked.predict([question], asked.sources([question]), batch_size=1)
        assert prediction.predicted == choice and prediction.generated == text
    alike = Question("a", "How much?", ("25 m\u00b2", "25 m\u2082", "1 cup"), "1 cup")
    for asks, text in ((question, "2 cups"), (alike, "25 m2")):
        monkeypatch.setattr(asked, "_generate", lambda *_, text=text: [text])
        ((prediction,),) = asked.predict([asks], asked.sources([asks]), batch_size=1)
        assert prediction.predicted is None, "no option, or two that are written alike"


def test_a_saved_student_generates_as_it_was_evaluated(tmp_path: Path) -> None:
    """Greedily and to both of its ends, whatever the model's own `generation_config.json` said."""
    model, tokenizer = small_decoder(vocab_size=400), byte_level([q.question for q in QUESTIONS])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(temperature=0.6, top_p=0.9, repetition_penalty=1.3, eos_token_id=end)
    asked = Student(model, tokenizer, "predict: ", cache=tmp_path)
    asked.save(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert set(saved.eos_token_id) == {end, tokenizer.eos_token_id} == set(asked.ends)
    assert not saved.do_sample and not {"temperature", "top_p", "repetition_penalty"} & set(saved.to_diff_dict())
    model.generation_config = GenerationConfig()
    asked.save(tmp_path / "one")
    assert GenerationConfig.from_pretrained(tmp_path / "one").eos_token_id == tokenizer.eos_token_id
