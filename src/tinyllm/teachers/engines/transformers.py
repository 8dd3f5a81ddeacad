"""Teachers in this process: encoder-decoder and decoder models, from the hub, a folder or a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tinyllm.errors import UserError
from tinyllm.pretrained import folder_of, loading, why
from tinyllm.prompts import on_a_fixed_day, without_special_tokens
from tinyllm.teachers.engines.protocol import STOP, Completion, Request, ScoreRequest, in_batches, seed_of

if TYPE_CHECKING:
    import torch

STOP_WINDOW = 12
"""Tokens at a text's end in which `STOP` is looked for; it is 2 to 5 tokens long."""


class TransformersEngine:
    """One model, asked in batches.

    Batches follow the order of the requests, so sort them by length: padding is what a batch costs. Decoder models are
    padded on the left. Greedy decoding gives the same text in any batch, up to rounding; sampling takes its
    settings and seed from the batch's first request.

    Args:
        model: hub id, folder, or `package:<name>` for the folder of an installed Python package.
        gguf_file: file inside `model`, for weights in GGUF; they are de-quantized on loading.
        temperature: 0 is greedy.
        device_map: as in `from_pretrained`; None takes the first GPU, or the CPU.
    """

    def __init__(
        self,
        *,
        model: str,
        revision: str | None = None,
        gguf_file: str | None = None,
        chat: bool = False,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        batch_size: int = 8,
        dtype: str = "bfloat16",
        device_map: str | None = None,
    ) -> None:
        self.name = model
        self.revision = revision
        self.gguf_file = gguf_file
        self.chat = chat
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.batch_size = batch_size
        self.dtype = dtype
        self.device_map = device_map
        self._config: Any = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._ends: list[int] = []

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        """Completions, a batch at a time, in the order of `requests`.

        Raises:
            UserError: the model can't be loaded, or has no chat template where `chat` is asked for.
        """
        for batch in in_batches(requests, self.batch_size):
            self._load()
            yield self._answer(batch)

    def prompt_tokens(self, requests: Sequence[Request]) -> int:
        """Tokens of all their prompts; no weights are loaded.

        Raises:
            UserError: the tokenizer can't be loaded.
        """
        self._load_tokenizer()
        texts = [self._text(request) for request in requests]
        return sum(map(len, self._tokenizer(texts, add_special_tokens=not self.chat)["input_ids"]))

    def tokenizer(self) -> Any:
        """The model's tokenizer; no weights are loaded.

        Raises:
            UserError: it can't be loaded.
        """
        self._load_tokenizer()
        return self._tokenizer

    def score(self, requests: Iterable[ScoreRequest], *, continues: bool = False) -> Iterator[list[Completion]]:
        """Mean token log-likelihood (nats) of every option after its source.

        An encoder-decoder's includes the end token. A decoder reads the option after the source and a space, plain
        text without chat template; it seldom ends after a short answer, so its end token doesn't count.

        A completion's text is the JSON list of the scores, in the order of the options.

        Args:
            requests: what to score.
            continues: an option continues the text of its source, which a decoder can score too.

        Raises:
            UserError: the model can't be loaded, or is a decoder and the options don't continue their source.
        """
        for batch in in_batches(requests, self.batch_size):
            self._load()
            if not (self._model.config.is_encoder_decoder or continues):
                raise UserError(f"{self.name}: expected an encoder-decoder to score options, found a decoder alone")
            yield self._score(batch)

    def _score(self, batch: Sequence[ScoreRequest]) -> list[Completion]:
        import torch

        try:
            decoder = not self._model.config.is_encoder_decoder
            scores = self._scores_of_decoder(batch) if decoder else self._option_scores(batch)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) > 1:
                middle = len(batch) // 2
                return self._score(batch[:middle]) + self._score(batch[middle:])
            return [Completion(batch[0].id, "", "error", error="the GPU's memory is too small for this question")]
        lengths = [len(ids) for ids in self._tokenizer(self._plain([r.source for r in batch]))["input_ids"]]
        rows = zip(batch, scores, lengths, strict=True)
        return [Completion(r.id, json.dumps(row), "stop", prompt_tokens=length) for r, row, length in rows]

    def _scores_of_decoder(self, batch: Sequence[ScoreRequest]) -> list[list[float]]:
        import torch

        sources = self._tokenizer(self._plain([r.source for r in batch]))["input_ids"]
        texts = [self._plain([f" {option}" for option in r.options]) for r in batch]
        options = [self._tokenizer(own, add_special_tokens=False)["input_ids"] for own in texts]
        pairs = [(source, option) for source, own in zip(sources, options, strict=True) for option in own]
        length = max(len(source) + len(option) for source, option in pairs)
        ids = torch.full((len(pairs), length), self._tokenizer.pad_token_id)
        mask, inside = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for row, (source, option) in enumerate(pairs):
            end = len(source) + len(option)
            ids[row, :end], mask[row, :end] = torch.tensor([*source, *option]), 1
            inside[row, len(source) : end] = True
        ids, inside = ids.to(self._model.device), inside.to(self._model.device)[:, 1:]
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask.to(ids.device)).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        means = iter((-(losses * inside).sum(dim=1) / inside.sum(dim=1)).tolist())
        return [[next(means) for _ in own] for own in options]

    def _option_scores(self, batch: Sequence[ScoreRequest]) -> list[list[float]]:
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        device = self._model.device
        sources = self._tokenizer(self._plain([r.source for r in batch]), return_tensors="pt", padding=True).to(device)
        counts = torch.tensor([len(r.options) for r in batch], device=device)
        options = self._plain([option for r in batch for option in r.options])
        targets = self._tokenizer(options, return_tensors="pt", padding=True).to(device)
        inside = targets["attention_mask"].bool()
        labels = targets["input_ids"].masked_fill(~inside, -100)
        with torch.inference_mode():
            states = self._model.get_encoder()(
                input_ids=sources["input_ids"], attention_mask=sources["attention_mask"]
            ).last_hidden_state
            logits = self._model(
                encoder_outputs=BaseModelOutput(states.repeat_interleave(counts, dim=0)),
                attention_mask=sources["attention_mask"].repeat_interleave(counts, dim=0),
                labels=labels,
            ).logits.float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        means = iter((-losses.sum(dim=1) / inside.sum(dim=1)).tolist())
        return [[next(means) for _ in r.options] for r in batch]

    def _load(self) -> None:
        if self._model is not None:
            return
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

        self._load_tokenizer()
        kind = AutoModelForSeq2SeqLM if self._config.is_encoder_decoder else AutoModelForCausalLM
        with self._loading():
            _, weights = loading(self.revision, self.gguf_file)
            model: Any = kind.from_pretrained(
                folder_of(self.name), dtype=self.dtype, device_map=self.device_map, **weights
            )
        if self.device_map is None and torch.cuda.is_available():
            model = model.to("cuda")
        self._model = model.eval()
        ends = model.generation_config.eos_token_id
        self._ends = sorted({self._tokenizer.eos_token_id, *([ends] if isinstance(ends, int) else ends or [])})

    def _load_tokenizer(self) -> None:
        if self._tokenizer is not None:
            return
        from transformers import AutoConfig, AutoTokenizer

        with self._loading():
            source, _ = loading(self.revision, self.gguf_file)
            config = AutoConfig.from_pretrained(folder_of(self.name), **source)
            tokenizer = AutoTokenizer.from_pretrained(folder_of(self.name), **source)
        if self.chat and not tokenizer.chat_template:
            raise UserError(f"{self.name} has no chat template: set teachers.<name>.chat=false, or take a chat model")
        if not config.is_encoder_decoder:
            tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._config, self._tokenizer = config, tokenizer

    @contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # at a broken file safetensors and tokenizers raise exceptions of their own
            raise UserError(
                f"can't load the teacher {self.name}: {why(error)}; check teachers.<name>.model and .revision, "
                "and that the model is in the cache or the hub can be reached"
            ) from error

    def _answer(self, batch: Sequence[Request]) -> list[Completion]:
        import torch

        texts = [self._text(request) for request in batch]
        encoded = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not self.chat)
        lengths = encoded["attention_mask"].sum(dim=1).tolist()
        limit = self._room()
        if limit is not None and max(lengths) > limit:
            return self._without_the_too_long(batch, lengths, limit)
        try:
            generated = self._generate(encoded, batch[0])
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) > 1:
                middle = len(batch) // 2
                return self._answer(batch[:middle]) + self._answer(batch[middle:])
            return [_failed(batch[0], lengths[0], "the GPU's memory is too small for this prompt")]
        return [
            self._completion(request, row, length)
            for request, row, length in zip(batch, generated, lengths, strict=True)
        ]

    def _plain(self, texts: Sequence[str]) -> list[str]:
        return without_special_tokens(texts, self._tokenizer)

    def _text(self, request: Request) -> str:
        if isinstance(request.prompt, str):
            return self._plain([request.prompt])[0]
        words = self._plain([turn["content"] for turn in request.prompt])
        turns = [{**turn, "content": said} for turn, said in zip(request.prompt, words, strict=True)]
        day = on_a_fixed_day(self._tokenizer)
        text: str = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **day)
        return text

    def _room(self) -> int | None:
        """Prompt tokens that fit; None where the model has no limit (T5's positions are relative)."""
        if self._model.config.is_encoder_decoder:
            return None
        positions = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and positions <= self.max_new_tokens:
            raise UserError(
                f"{self.name} has {positions} positions, and max_new_tokens={self.max_new_tokens} leaves none for a "
                "prompt: set a lower teachers.<name>.max_new_tokens"
            )
        return None if positions is None else int(positions) - self.max_new_tokens

    def _without_the_too_long(self, batch: Sequence[Request], lengths: Sequence[int], limit: int) -> list[Completion]:
        fitting = [request for request, length in zip(batch, lengths, strict=True) if length <= limit]
        failed = [
            _failed(request, length, f"its prompt has {length} tokens, and only {limit} fit the teacher", final=True)
            for request, length in zip(batch, lengths, strict=True)
            if length > limit
        ]
        return failed + (self._answer(fitting) if fitting else [])

    def _generate(self, encoded: Any, first: Request) -> torch.Tensor:
        """New tokens, [B, T], right-padded."""
        import torch
        from transformers import GenerationConfig

        own = self._model.generation_config
        temperature, top_p = first.sampling or (self.temperature, self.top_p)
        sampled = temperature > 0
        make_config: Any = GenerationConfig  # untyped in transformers
        config = make_config(
            max_new_tokens=self.max_new_tokens,
            do_sample=sampled,
            # top_k is transformers' own default of 50; servers have none.
            **({"temperature": temperature, "top_p": top_p, "top_k": 0} if sampled else {}),
            bos_token_id=own.bos_token_id,
            eos_token_id=self._ends,
            pad_token_id=self._tokenizer.pad_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )
        decoder = not self._model.config.is_encoder_decoder
        inputs = {name: encoded[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        width = inputs["input_ids"].shape[1]

        def met_stop(ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            # transformers' own stop strings can't be made for every tokenizer.
            tails = self._tokenizer.batch_decode(ids[:, max(width, ids.shape[1] - STOP_WINDOW) :])
            return torch.tensor([STOP in tail for tail in tails], device=ids.device)

        stop = {"stopping_criteria": [met_stop]} if decoder and not self.chat else {}
        if sampled:
            torch.manual_seed(seed_of("batch", first.seed))
        with torch.inference_mode():
            output: torch.Tensor = self._model.generate(**inputs, generation_config=config, **stop)
        return output[:, width:] if decoder else output[:, 1:]

    def _completion(self, request: Request, row: torch.Tensor, prompt_tokens: int) -> Completion:
        tokens = row.tolist()
        stop = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        ended = stop is not None
        # A row that met the stop string is filled up with padding, which may be no end token.
        pad = self._tokenizer.pad_token_id
        count = stop + 1 if stop is not None else len(tokens)
        while not ended and count and tokens[count - 1] == pad:
            count -= 1
        text: str = self._tokenizer.decode(tokens[:count], skip_special_tokens=True)
        if not self.chat and STOP in text:
            text, ended = text[: text.index(STOP)], True
        return Completion(request.id, text, "stop" if ended else "length", prompt_tokens, count)


def _failed(request: Request, prompt_tokens: int, reason: str, *, final: bool = False) -> Completion:
    return Completion(request.id, "", "error", prompt_tokens, 0, reason, final=final)
