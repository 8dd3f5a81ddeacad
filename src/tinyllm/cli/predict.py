"""`tinyllm predict`: ask a trained student one question: its answer, and one rationale per teacher prefix."""

from __future__ import annotations

from pathlib import Path

from tinyllm import runs
from tinyllm.config import Accelerator, PredictConfig
from tinyllm.errors import UserError
from tinyllm.prompts import letter
from tinyllm.records import Question
from tinyllm.shown import visible
from tinyllm.student.student import Student


def main(config: PredictConfig, _: Path) -> None:
    """Print the answer, the ranked options with their scores, and a rationale per voice."""
    folder = Path(config.run).expanduser()
    method = runs.read_config(folder).method
    expected = len(config.choices) if method.source_rationale else 0
    if len(config.rationales) != expected:
        what = f"{expected} texts, one for each option" if expected else "none"
        raise UserError(
            f"predict: rationales=[...]: expected {what} (method={method.name}), found {len(config.rationales)}"
        )
    student = Student.load(folder).to(Accelerator.cpu)
    # The answer is unknown; a question record wants one of the options, and nothing below reads it.
    question = Question("asked", config.question, tuple(config.choices), config.choices[0], config.context)
    sources = student.sources([question], {question.id: config.rationales} if method.source_rationale else None)
    ((prediction,),) = student.predict(
        [question], sources, batch_size=1, max_rationale_tokens=config.max_rationale_tokens
    )
    print(f"answer: {visible(prediction.generated) or '(nothing)'}")
    best = max(prediction.scores)
    for i, (choice, score) in enumerate(zip(prediction.choices, prediction.scores, strict=True)):
        print(f"{'*' if score == best else ' '} {letter(i)} {visible(choice)}  ({score:.3f} nats a token)")
    print("* the most likely option")
    for teacher, text in prediction.rationales.items():
        print(f"{teacher}: {visible(text)}")
