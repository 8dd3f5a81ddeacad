"""Teachers whose texts the user has: a file of JSON lines.

    {"id": "q1", "text": "...", "kind": "forced", "option": 0, "answer": "..."}

`kind` (`forced` by default), `option` and `answer` are optional: what the teacher was asked for (`PromptKind`), for
`per_option` the position of the option from 0, and for `solve` the option that it chose, where its text doesn't say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tinyllm.data.rows import is_text, raise_problems, read_rows, shortened
from tinyllm.errors import UserError
from tinyllm.parsing import match_choice
from tinyllm.records import PromptKind, text_key
from tinyllm.teachers.engines.protocol import FREE_BATCH, Completion, Request, in_batches

_FIELDS = ("id", "text", "kind", "option", "answer")
_Key = tuple[str, PromptKind]


class FileEngine:
    """Looks up the text on the question of a request; its prompt is not read.

    Args:
        file: of the texts.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Completions in the order of `requests`; a question without a line gets an empty text, which is never taught.

        Raises:
            UserError: a file that is missing or broken, or one that has no text on any of the questions.
        """
        texts = _texts(self.file)
        drawn = list(requests)
        if drawn and not any((request.id, request.kind) in texts for request in drawn):
            known = ", ".join(f"{key} ({kind})" for key, kind in list(texts)[:2]) or "none"
            raise UserError(
                f"{self.file}: expected texts on questions such as {drawn[0].id} ({drawn[0].kind}), found {known}"
            )
        for batch in in_batches(drawn, FREE_BATCH):
            yield [self._completion(request, texts) for request in batch]

    def _completion(self, request: Request, texts: dict[_Key, tuple[str, str | None]]) -> Completion:
        found = texts.get((request.id, request.kind))
        if found is None:
            return Completion(request.id, "", "error", error=f"{self.file.name} has no text on it", final=True)
        text, answer = found
        if answer is not None and request.question is not None:
            chosen = match_choice(answer, request.question.choices)
            if chosen is None:
                raise UserError(
                    f"{self.file}: field 'answer' of {request.id}: expected one of its options, found {answer}"
                )
            answer = chosen
        return Completion(request.id, text, "stop", answer=answer)


def _texts(file: Path) -> dict[_Key, tuple[str, str | None]]:
    """By a request's id and kind: text and chosen option."""
    problems: list[str] = []
    found: dict[_Key, tuple[str, str | None]] = {}
    for place, row in read_rows(file, problems):
        if not isinstance(row, dict):
            problems.append(f"{place}: expected a JSON object with id and text, found {shortened(row)}")
            continue
        if own := _problem(row):
            problems.append(f"{place}: {own}")
            continue
        kind, option = PromptKind(row.get("kind", PromptKind.forced)), row.get("option")
        key = str(row["id"]) if option is None else text_key(str(row["id"]), option)
        if (key, kind) in found:
            problems.append(f"{place}: field 'id': expected one text of a kind on a question, found another on {key}")
        found[key, kind] = row["text"], row.get("answer")
    raise_problems(problems, str(file))
    return found


def _problem(row: dict[str, object]) -> str | None:
    """The first thing that is wrong with a line."""
    unknown = [name for name in row if name not in _FIELDS]
    kinds = [str(kind) for kind in PromptKind]
    kind, option = row.get("kind", str(PromptKind.forced)), row.get("option")
    if unknown:
        return f"field {unknown[0]!r}: expected {', '.join(_FIELDS)} alone"
    if not isinstance(row.get("id"), str | int) or isinstance(row.get("id"), bool) or not str(row.get("id")).strip():
        return f"field 'id': expected the id of a question, found {shortened(row.get('id'))}"
    if not is_text(row.get("text")):
        return f"field 'text': expected a text, found {shortened(row.get('text'))}"
    if kind not in kinds:
        return f"field 'kind': expected one of {', '.join(kinds)}, found {shortened(kind)}"
    if (kind == str(PromptKind.per_option)) != (isinstance(option, int) and not isinstance(option, bool)):
        return (
            f"field 'option': expected a position from 0 with kind per_option and none else, found {shortened(option)}"
        )
    if row.get("answer") is not None and (kind != str(PromptKind.solve) or not is_text(row["answer"])):
        return f"field 'answer': expected an option, with kind solve alone, found {shortened(row['answer'])}"
    return None
