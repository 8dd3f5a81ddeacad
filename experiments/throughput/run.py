"""Training and evaluation speed against the plain way, on the same questions and weights: `make bench`.

The plain way is that of the authors' code: one forward per stream, every source padded to a fixed length, PyTorch's
own modules. Each measurement has a process of its own (on a GPU, all share one); the two ways take turns, and medians
are printed.

    python experiments/throughput/run.py --root <folder of the published data> --threads 2
    python experiments/throughput/run.py --root <folder of the published data> --accelerator gpu
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from tinyllm.config import Accelerator, DataConfig, Reduction, Source
from tinyllm.data import minilab, release
from tinyllm.data.question_batches import question_batches
from tinyllm.data.questions import load_questions
from tinyllm.data.steps import MicroBatch, StreamDataset
from tinyllm.data.tokens import SourceTokens, tokenize
from tinyllm.methods import Stream, single_target
from tinyllm.prompts import student_source
from tinyllm.student import models
from tinyllm.student.encoder_decoder import generate, rank, read
from tinyllm.student.student import Student

HERE = Path(__file__).parent
BATCH = 8
DEVICE = {"cpu": "cpu", "gpu": "cuda"}
SMALL = {  # FLAN-T5-small
    "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_decoder_layers": 8,
    "num_heads": 6, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "dropout_rate": 0.1,
}  # fmt: skip


class Case:
    """The questions, streams and student that both ways share."""

    def __init__(self, root: str | None, student: str | None, cache: Path) -> None:
        torch.manual_seed(0)
        if root is not None:
            data = DataConfig(name="obqa", source=Source.release, root=root)
            self.questions = load_questions(data)["train"][:400]
            texts = release.load_rationales(Path(root), "obqa", "train", load_questions(data)["train"])
            streams = [("flan_t5_xl", "explain: "), ("llama2_7b_chat", "rationale: ")]
        else:
            self.questions = minilab.generate(0)["train"][:400]
            texts = {voice: {q.id: minilab.explain(q, voice) for q in self.questions} for voice in ("terse", "wordy")}
            streams = [("terse", "terse: "), ("wordy", "wordy: ")]
        self.questions = [q for q in self.questions if all(q.id in texts[name] for name, _ in streams)]
        self.streams = [Stream("answer", "predict: ", 1.0, single_target({q.id: q.answer for q in self.questions}))]
        self.streams += [
            Stream(name, prefix, 1.0, single_target({q.id: texts[name][q.id] for q in self.questions}))
            for name, prefix in streams
        ]
        corpus = ["".join(student_source(q, "")) for q in self.questions]
        taught = [[text for ((text, _),) in stream.targets.values()] for stream in self.streams]
        corpus += [text for stream, own in zip(self.streams, taught, strict=True) for text in (*own, stream.prefix)]
        loaded = models.from_scratch(SMALL, corpus) if student is None else models.load_pretrained(student)
        self.student = Student(*loaded, "predict: ", cache=cache)
        self.model, self.tokenizer = loaded
        end = self.tokenizer.eos_token_id
        self.sources = SourceTokens(self.questions, self.tokenizer, 1024, cache)
        self.targets: list[dict[str, tuple[int, ...]]] = []
        for stream, own in zip(self.streams, taught, strict=True):
            ids = tokenize(own, self.tokenizer, cache)
            self.targets.append({i: (*text, end) for i, text in zip(stream.targets, ids, strict=True)})
        self.cache = cache

    def step_ids(self, number: int) -> list[str]:
        """Question ids of one optimizer step."""
        return [q.id for q in self.questions[number * BATCH : (number + 1) * BATCH]]


@cache
def _first(root: str | None, student: str | None) -> Case:
    return Case(root, student, Path(tempfile.mkdtemp()))


def copied(task: dict[str, Any]) -> Case:
    """A case for measurements in one process: its model is as it was at first."""
    return copy.deepcopy(_first(task["root"], task["student"]))


def plain_step(case: Case, ids: list[str], length: int) -> float:
    """Forward and backward of every stream in turn; the loss."""
    total = 0.0
    for stream, targets in zip(case.streams, case.targets, strict=True):
        sources = [case.sources.source(i, stream.prefix)[:length] for i in ids]
        labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(targets[i]) for i in ids], True, -100)
        input_ids = torch.zeros(len(ids), length, dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, source in enumerate(sources):
            input_ids[row, : len(source)] = torch.tensor(source)
            mask[row, : len(source)] = 1
        input_ids, mask, labels = (part.to(case.model.device) for part in (input_ids, mask, labels))
        logits = case.model(input_ids=input_ids, attention_mask=mask, labels=labels).logits.float()
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss = (losses.sum(1) / (labels != -100).sum(1)).mean() * stream.weight
        loss.backward()  # stream by stream: the graphs of three streams at 1024 tokens would not fit into memory
        total += loss.item()
    return total


def our_step(case: Case, dataset: StreamDataset, number: int) -> float:
    """The product's step, from question indices to gradients."""
    everything = tuple(range(number * BATCH, (number + 1) * BATCH))
    batch = dataset[MicroBatch(everything, everything, 1)].to(case.model.device)
    loss, _ = case.student.losses(batch)  # the streams weigh 1
    loss.backward()
    return float(loss.item())


def useful_flops(case: Case, ids: list[str]) -> float:
    """Of forward and backward on real tokens: 6 a parameter and token for products, and attention's own."""
    m = case.model.config
    inner = m.num_heads * m.d_kv
    attention, feed = 4 * m.d_model * inner, 3 * m.d_model * m.d_ff
    total = 0.0
    for stream, targets in zip(case.streams, case.targets, strict=True):
        for i in ids:
            s, t = len(case.sources.source(i, stream.prefix)), len(targets[i])
            total += 6 * s * m.num_layers * (attention + feed)
            total += 6 * t * m.num_decoder_layers * (attention + attention / 2 + feed)
            total += 6 * s * m.num_decoder_layers * attention / 2  # keys and values of cross-attention
            total += 6 * t * m.vocab_size * m.d_model
            total += 3 * 4 * inner * (m.num_layers * s * s + m.num_decoder_layers * (t * t + t * s))
    return total


def positions(case: Case, ids: list[str], length: int | None) -> tuple[int, int]:
    """Real tokens of a step, and positions that are computed."""
    if length is None:
        dataset = our_dataset(case)
        index = {q.id: n for n, q in enumerate(case.questions)}
        step = tuple(index[i] for i in ids)
        batch = dataset[MicroBatch(step, step, 1)]
        return batch.tokens, batch.tokens
    real = computed = 0
    for stream, targets in zip(case.streams, case.targets, strict=True):
        real += sum(len(case.sources.source(i, stream.prefix)) + len(targets[i]) for i in ids)
        computed += len(ids) * (length + max(len(targets[i]) for i in ids))
    return real, computed


def our_dataset(case: Case) -> StreamDataset:
    """The product's dataset over the case's streams."""
    return StreamDataset(
        [q.id for q in case.questions], case.sources, case.streams,
        [{i: [(ids, 1.0)] for i, ids in targets.items()} for targets in case.targets],
        reduction=Reduction.example, lay_out=case.student.lay_out,
    )  # fmt: skip


def peak(precision: str, device: str) -> float:
    """FLOP/s of a square product of 2048, on a GPU of 8192."""
    dtype, size = torch.bfloat16 if precision == "bf16" else torch.float32, 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b) for _ in range(8))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    finish()
    started = time.perf_counter()
    call()
    finish()
    return time.perf_counter() - started


def finish() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in this process."""
    torch.set_num_threads(task["threads"])
    device, accelerator = DEVICE[task["accelerator"]], Accelerator(task["accelerator"])
    with tempfile.TemporaryDirectory() as folder:
        case = Case(task["root"], task["student"], Path(folder)) if device == "cpu" else copied(task)
        if task["kind"] == "evaluate":
            return measure_evaluation(case, task["way"], task["precision"], accelerator)
        case.model.train().to(device)
        ours = task["way"] == "ours"
        if ours:
            case.student.prepare(accelerator)
        dataset = our_dataset(case)
        optimizer = torch.optim.AdamW(case.model.parameters(), lr=5e-5, fused=ours)
        losses, seconds = [], []
        first = task["first"]
        for number in range(first, first + task["warmup"] + task["steps"]):
            started = time.perf_counter()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=task["precision"] == "bf16"):
                ids = case.step_ids(number)
                loss = our_step(case, dataset, number) if ours else plain_step(case, ids, task["length"])
            optimizer.step()
            optimizer.zero_grad()
            finish()
            losses.append(loss)
            seconds.append(time.perf_counter() - started)
        steps = range(first + task["warmup"], first + task["warmup"] + task["steps"])
        counts = [positions(case, case.step_ids(n), None if ours else task["length"]) for n in steps]
        flops = statistics.mean(useful_flops(case, case.step_ids(n)) for n in steps)
        return {
            "seconds": seconds[task["warmup"] :],
            "first_loss": losses[0],
            "padding": 1 - sum(r for r, _ in counts) / sum(c for _, c in counts),
            "flops": flops,
            "peak": peak(task["precision"], device),
        }


def measure_evaluation(case: Case, way: str, precision: str, accelerator: Accelerator) -> dict[str, Any]:
    """Seconds of 128 questions by ranking, by generating, or by both, which read the questions once."""
    case.model.eval()
    case.student.to(accelerator)
    batches = question_batches(
        case.questions[:128], case.sources, case.tokenizer, prefix="predict: ", batch_size=32, cache=case.cache
    )
    tokens = 0
    started = time.perf_counter()
    with torch.autocast(DEVICE[accelerator], dtype=torch.bfloat16, enabled=precision == "bf16"), torch.no_grad():
        for batch in batches:
            sources = [source for (source,) in batch.sources]
            memory = read(case.model, sources)
            if way in ("rank", "both"):
                rank(case.model, memory, batch.options)
            if way in ("generate", "both"):
                longest = max(len(ids) for options in batch.options for ids in options)
                made = generate(case.model, memory, ends=case.student.ends, max_new_tokens=longest + 8)
                tokens += sum(map(len, made))
    finish()
    return {"seconds": [time.perf_counter() - started], "tokens": tokens}


def hardware(arguments: argparse.Namespace) -> str:
    """What the figures were measured on."""
    on = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else f"{arguments.threads} threads"
    return f"torch {torch.__version__}, {on}"


def write_section(path: Path, family: str, text: str) -> None:
    """Put one family's tables into the page; those of the others stay."""
    parts = path.read_text().split("## ")[1:] if path.is_file() else []
    sections = {part.partition("\n")[0]: part.partition("\n")[2].strip() for part in parts} | {family: text.strip()}
    path.write_text("\n\n".join(f"## {name}\n\n{own}" for name, own in sorted(sections.items())) + "\n")


def in_process(task: dict[str, Any]) -> dict[str, Any]:
    """Run `measure`, on a processor in a process of its own."""
    if task["accelerator"] == "gpu":
        return measure(task)
    out = subprocess.run([sys.executable, __file__, "--task", json.dumps(task)], capture_output=True, text=True)
    if out.returncode:
        raise SystemExit(out.stderr)
    result: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of the published data (OBQA); without it, minilab")
    parser.add_argument("--student", help="model folder; without it, random weights in the shape of FLAN-T5-small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--accelerator", choices=DEVICE, default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="turns of the two ways at length 100")
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task:
        print(json.dumps(measure(json.loads(arguments.task))))
        return
    base = {"root": arguments.root, "student": arguments.student, "threads": arguments.threads}
    base["accelerator"] = arguments.accelerator
    runs: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for turn in range(arguments.rounds):
        for length, steps in ((100, 3), (1024, 1)):
            if length == 1024 and turn:
                continue
            for precision in ("fp32", "bf16"):
                task = {**base, "kind": "train", "precision": precision, "steps": steps, "first": 4 * turn}
                warm = 0 if length == 1024 and arguments.accelerator == "cpu" else 1  # there a step takes minutes
                runs.setdefault(("plain", precision, length), []).append(
                    in_process({**task, "way": "plain", "length": length, "warmup": warm})
                )
                print(f"plain {precision} {length}: {runs['plain', precision, length][-1]['seconds']}", file=sys.stderr)
                if length == 100:
                    runs.setdefault(("ours", precision, None), []).append(
                        in_process({**task, "way": "ours", "length": None, "warmup": 2, "first": 4 * turn})
                    )
                    print(f"ours {precision}: {runs['ours', precision, None][-1]['seconds']}", file=sys.stderr)
    lines = [
        f"{hardware(arguments)}, {'OBQA' if arguments.root else 'minilab'}, two teachers, "
        f"batch {BATCH}; medians of single steps, optimizer included.",
        "",
        "| way | precision | source length | s/step | examples/s | x plain fp32, 100 | x plain (same precision) "
        "| padding | share of matmul peak |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    median = {key: statistics.median(s for run in found for s in run["seconds"]) for key, found in runs.items()}
    for (way, precision, length), found in runs.items():
        seconds = median[way, precision, length]
        if way == "plain":
            same = "1.0"
        else:
            same = ", ".join(f"{median['plain', precision, n] / seconds:.1f} ({n})" for n in (100, 1024))
        share = statistics.median(run["flops"] / run["peak"] for run in found) / seconds
        lines.append(
            f"| {way} | {precision} | {length or 'no padding'} | {seconds:.3g} | {BATCH / seconds:.3g} | "
            f"{median['plain', 'fp32', 100] / seconds:.1f} | {same} | {found[0]['padding']:.0%} | {share:.0%} |"
        )
    ratio = median["plain", "fp32", 1024] / median["ours", "bf16", None]
    lines += ["", f"At the paper's length of 1024, ours in bf16 is {ratio:.1f} times plain fp32."]
    lines += ["", "| evaluation of 128 questions | precision | s | questions/s |", "| --- | --- | --- | --- |"]
    for precision in ("fp32", "bf16"):
        spent = {}
        for way in ("generate", "rank", "both"):
            task = {**base, "kind": "evaluate", "way": way, "precision": precision}
            found = [in_process(task) for _ in range(2)]
            spent[way] = min(run["seconds"][0] for run in found)
            note = f" ({found[0]['tokens'] / 128:.1f} tokens each)" if way != "rank" else ""
            lines.append(f"| {way}{note} | {precision} | {spent[way]:.3g} | {128 / spent[way]:.3g} |")
        lines.append(f"| ratio | {precision} | {spent['generate'] / spent['rank']:.1f} | |")
    text = "\n".join(lines) + "\n"
    print(text)
    on = ", GPU" if arguments.accelerator == "gpu" else ""
    write_section(arguments.output / "results.md", f"T5{on}", text)
    raw = {" ".join(str(part) for part in key): found for key, found in runs.items()}
    (arguments.output / f"results{'_gpu' if on else ''}.json").write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
