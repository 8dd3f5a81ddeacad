"""Teachers whose texts were published: each is looked up in the folder of the published data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from tinyllm.data.release import load_rationales
from tinyllm.records import Question, Split
from tinyllm.teachers.engines.protocol import FREE_BATCH, Completion, Published, Request, in_batches


class RecordedEngine:
    """Looks up the text on the question of a request; its prompt is not read.

    Args:
        published: where the texts are.
        teacher: one of `paper.TEACHERS`.
    """

    def __init__(self, published: Published, *, teacher: str) -> None:
        self.published = published
        self.teacher = teacher

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Completions in the order of `requests`, all of which are drawn at once: a file is read once for all of them.

        An empty text stands where the teacher wrote nothing: nothing more will ever be published, so the question is
        not asked again, and no empty text is trained on.

        Raises:
            UserError: missing or broken files, or a question that they lack.
        """
        drawn = list(requests)
        by_split: defaultdict[Split, list[Question]] = defaultdict(list)
        for request in drawn:
            if request.question is None or request.split is None:
                raise ValueError("expected a request with a question and its split: no other text was published")
            by_split[request.split].append(request.question)
        texts: dict[str, str] = {}
        for split, questions in by_split.items():
            found = load_rationales(self.published.root, self.published.dataset, split, questions)
            texts |= found.get(self.teacher, {})
        for batch in in_batches(drawn, FREE_BATCH):
            yield [Completion(request.id, texts.get(request.id, ""), "recorded") for request in batch]
