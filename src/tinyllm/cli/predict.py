"""`tinyllm predict`: ask a trained student one question: its answer, and one rationale per teacher voice."""

from __future__ import annotations

from pathlib import Path

from tinyllm import runs
from tinyllm.config import PredictConfig
from tinyllm.data.question_batches import question_batches
from tinyllm.data.tokens import SourceTokens
from tinyllm.errors import UserError
from tinyllm.methods import answer_prefix
from tinyllm.prompts import letter
from tinyllm.records import Question
from tinyllm.student import models
from tinyllm.student.predict import predict, student_rationales


def main(config: PredictConfig, _: Path) -> None:
    """Print the generated answer, the ranked options with their scores, and a rationale per voice."""
    run = Path(config.run).expanduser()
    stored = runs.read_config(run)
    if len(config.choices) < 2 or not config.question.strip():
        raise UserError("predict: expected question='...' and choices=[first, second, ...] with two options or more")
    reads = stored.method.source_rationale
    if reads != bool(config.rationale.strip()):
        expected = "a teacher's text, since this student reads one beside the question" if reads else "none"
        raise UserError(
            f"predict: expected rationale='...' to be {expected} (method={stored.method.name}), "
            f"found {'none' if reads else 'one'}: {'give' if reads else 'leave out'} rationale='...'"
        )
    if not (run / runs.STUDENT).is_dir():
        raise UserError(f"{run}: expected a finished run with {runs.STUDENT}, found none: run 'tinyllm train'")
    model, tokenizer = models.load_pretrained(str(run / runs.STUDENT))
    models.prepare(model, accelerator="cpu")
    # The answer is unknown; a question record wants one of the options, and nothing below reads it.
    question = Question("asked", config.question, tuple(config.choices), config.choices[0], config.context)
    cache = Path(stored.cache).expanduser()
    sources = SourceTokens(
        [question],
        tokenizer,
        stored.student.max_source_length,
        cache,
        {question.id: config.rationale} if reads else None,
    )
    batches = question_batches(
        [question], sources, tokenizer, prefix=answer_prefix(stored.method), batch_size=1, cache=cache
    )
    ((prediction,),) = predict(model, tokenizer, batches)
    print(f"answer: {prediction.generated}")
    best = max(prediction.scores)
    for i, (choice, score) in enumerate(zip(prediction.choices, prediction.scores, strict=True)):
        print(f"{'*' if score == best else ' '} {letter(i)} {choice}  ({score:.3f} nats a token)")
    rows = {name: [sources.source(question.id, prefix)] for name, prefix in runs.taught_teachers(run).items()}
    texts = student_rationales(model, tokenizer, rows, max_new_tokens=config.max_rationale_tokens)
    for name, (text,) in texts.items():
        print(f"{name}: {text}")
