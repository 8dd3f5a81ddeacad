"""How much a teacher's text on a question says what the other teachers' texts say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from tinyllm.errors import UserError


def agreement(texts: Mapping[str, Mapping[str, str]], embeddings: str | None) -> dict[str, dict[str, float]]:
    """Mean cosine similarity of each teacher's text on a question to the others'; 0 where there are no others.

    Args:
        texts: teacher -> question id -> text.
        embeddings: a sentence-transformers model; None compares TF-IDF vectors, with document frequencies over all
            texts.

    Raises:
        UserError: where the model can't be loaded.
    """
    every = [text for by_id in texts.values() for text in by_id.values()]
    vectors = _tf_idf(every) if embeddings is None else _embedded(every, embeddings)
    row: dict[str, dict[str, int]] = {}
    start = 0
    for m, by_id in texts.items():
        row[m] = {i: start + place for place, i in enumerate(by_id)}
        start += len(by_id)
    total = {m: dict.fromkeys(by_id, 0.0) for m, by_id in texts.items()}
    others = {m: dict.fromkeys(by_id, 0) for m, by_id in texts.items()}
    for a, b in combinations(texts, 2):
        common = [i for i in texts[a] if i in texts[b]]
        first, second = (vectors[[row[m][i] for i in common]] for m in (a, b))
        product = first.multiply(second) if hasattr(first, "multiply") else first * second
        for i, similarity in zip(common, np.asarray(product.sum(axis=1)).ravel().tolist(), strict=True):
            for m in (a, b):
                total[m][i] += similarity
                others[m][i] += 1
    return {m: {i: value / max(1, others[m][i]) for i, value in by_id.items()} for m, by_id in total.items()}


def _tf_idf(texts: Sequence[str]) -> Any:
    """One row a text, of length 1 (0 for a text without words); sparse."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
    words = vectors.build_analyzer()
    if not any(words(text) for text in texts):
        return np.zeros((len(texts), 1))
    return vectors.fit_transform(texts).tocsr()


def _embedded(texts: Sequence[str], model: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            f"weighting.embeddings={model}: sentence-transformers is not installed: pip install sentence-transformers, "
            "or weighting.embeddings=null"
        ) from error
    try:
        loaded = SentenceTransformer(model, trust_remote_code=False, model_kwargs={"use_safetensors": True})
        return np.asarray(loaded.encode(list(texts), normalize_embeddings=True))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["unknown"])[0]
        raise UserError(
            f"weighting.embeddings={model}: can't be loaded ({reason}): give a folder or a hub id"
        ) from error
