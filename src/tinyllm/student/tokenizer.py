"""A tokenizer for students from scratch: whole words by frequency, characters as the fallback.

On a corpus of some thousand short texts a trained unigram or byte-pair vocabulary shatters words into several tokens;
a frequency list keeps a word one token, so that a student of a few million parameters sees words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
_CONTINUED = "\u2040"
"""Marks a character inside a word that the vocabulary lacks; a sign that no text is expected to hold."""


def _empty(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=_CONTINUED, max_input_chars_per_word=1000
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    # An option's letter, "(b)" with the space before it, is one token; other signs stand alone.
    signs = pre_tokenizers.Split(Regex(r"\u2581?\([a-z]\)|[^\w\u2581]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), signs])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_CONTINUED, ""), decoders.Fuse(), decoders.Replace("\u2581", " "), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def train_tokenizer(texts: Iterable[str], max_size: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer from texts: ids 0, 1, 2 are padding, end and unknown, as in T5.

    Args:
        texts: the run's training questions, options and rationales.
        max_size: entries of the vocabulary at most, specials and characters included.

    Raises:
        ValueError: when `max_size` can't even hold the characters of the texts.
    """
    draft = _empty({UNKNOWN: 0})
    words: Counter[str] = Counter()
    for text in texts:
        normal = draft.normalizer.normalize_str(text)
        words.update(word for word, _ in draft.pre_tokenizer.pre_tokenize_str(normal))
    characters = sorted({character for word in words for character in word})
    entries = [PAD, END, UNKNOWN, *characters, *(_CONTINUED + character for character in characters)]
    if len(entries) > max_size:
        raise ValueError(f"expected at least {len(entries)} entries, which these texts need, found {max_size}")
    known = set(entries)
    frequent = (word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])) if word not in known)
    for word in frequent:
        if len(entries) == max_size:
            break
        entries.append(word)
    tokenizer = _empty({entry: index for index, entry in enumerate(entries)})
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, entries.index(END))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)
