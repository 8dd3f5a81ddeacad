"""The stages against a hub on localhost: models and datasets are fetched, and what the hub refuses is one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fake_hub import Hub, running
from tests.hub_layout import flan_t5
from tests.integration.documents import blocks, commands, read

from tinyllm.data import splits
from tinyllm.records import SPLITS

pytestmark = pytest.mark.slow
CALLS = """
import json, sys
from hydra.core.global_hydra import GlobalHydra
from tinyllm.cli.main import main
ends = []
for arguments in json.loads(sys.argv.pop()):
    GlobalHydra.instance().clear()
    sys.argv = ["tinyllm", *arguments]
    try:
        main()
        ends.append(0)
    except SystemExit as end:
        ends.append(end.code)
    print("end of call", file=sys.stderr, flush=True)
print(json.dumps(ends))
"""
"""Several calls in one process, which reads the hub's address when it starts."""
CONVERTED = "refs/convert/parquet"
OPTIONS = ["saw", "spoon", "rope", "cup", "lid"]


def environment_of(hub: Hub, folder: Path) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # the calls run in other folders
    }


def call(folder: Path, hub: Hub, calls: Sequence[Sequence[str]], **environment: str) -> list[tuple[int, str]]:
    """Exit code and standard error of each call."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(calls)],
        cwd=folder,
        env=environment_of(hub, folder) | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(zip(json.loads(done.stdout.splitlines()[-1]), done.stderr.split("end of call\n")[:-1], strict=True))


def put(folder: Path, **rows: list[dict[str, Any]]) -> None:
    """Parquet files by path below the folder, `__` standing for a slash."""
    for name, table in rows.items():
        file = folder / f"{name.replace('__', '/')}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table), file)


def lettered(number: int, count: int, **fields: Any) -> dict[str, Any]:
    options = [f"{option} {number}" for option in OPTIONS[:count]]
    return {
        "choices": {"text": options, "label": list("ABCDE"[:count])},
        "answerKey": "ABCDE"[number % count],
        **fields,
    }


def configured(folder: Path, config: str, splits_of: Sequence[str]) -> None:
    """The head of a dataset's card says which files are a configuration's."""
    files = "".join(f"  - split: {name}\n    path: {config}/{name}-*\n" for name in splits_of)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\n")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Invented rows of the paper's ids, in the columns and layouts of the hub's datasets."""
    with running(tmp_path_factory.mktemp("hub")) as hub:
        flan_t5(hub.folder("models", "google/flan-t5-small"))
        for name in ("gated", "cut"):
            shutil.copytree(hub.folder("models", "google/flan-t5-small"), hub.folder("models", f"lab/{name}"))
        obqa, arc = (splits.load(name) for name in ("obqa", "arc"))
        usual = dict(zip(("train", "validation", "test"), SPLITS, strict=True))
        folder = hub.folder("datasets", "allenai/openbookqa")
        rows = {
            name: [
                lettered(number, 4, id=entry.id, question_stem=f"What cuts plank {number}?")
                for number, entry in enumerate(obqa[split])
            ]
            for name, split in usual.items()
        }
        put(folder, **{f"main__{name}-00000-of-00001": table for name, table in rows.items()})
        configured(folder, "main", list(usual))
        folder = hub.folder("datasets", "allenai/ai2_arc")
        for name, split in usual.items():
            table = [lettered(n, 4, id=entry.id, question=f"What ties {n}?") for n, entry in enumerate(arc[split])]
            put(folder, **{f"ARC-Challenge__{name}-00000-of-00001": [lettered(0, 5, id="x", question="Q?"), *table]})
        configured(folder, "ARC-Challenge", list(usual))
        folder = hub.folder("datasets", "qiaojin/PubMedQA")
        ids = [entry.id for entries in splits.load("pubmedqa").values() for entry in entries]
        sections = {"contexts": ["We sawed.", "It fell."], "labels": ["A", "B"], "meshes": ["Wood"]}
        table = [
            {"pubid": int(id), "question": f"Do saws cut {id}?", "context": sections, "long_answer": "They do."}
            | {"final_decision": ["yes", "no", "maybe"][number % 3]}
            for number, id in enumerate(ids)
        ]
        put(folder, **{"pqa_labeled__train-00000-of-00001": table})
        configured(folder, "pqa_labeled", ["train"])
        goals = [{"goal": f"Cut {n}", "sol1": f"saw {n}", "sol2": f"cup {n}", "label": n % 2} for n in range(20)]
        put(
            hub.folder("datasets", "ybisk/piqa", CONVERTED),
            plain_text__train__0000=goals[:10],
            plain_text__validation__0000=goals[10:],
            plain_text__test__0000=[row | {"label": -1} for row in goals[:3]],
        )
        riddles = [lettered(n, 5, question=f"I cut {n}. Who am I?") for n in range(20)]
        put(
            hub.folder("datasets", "INK-USC/riddle_sense", CONVERTED),
            default__train__0000=riddles[:10],
            default__validation__0000=riddles[10:],
        )
        science = [{"stem": f"What cuts {n}?", "options": OPTIONS[:3], "key": n % 3, "passage": ""} for n in range(60)]
        put(hub.folder("datasets", "my-lab/science"), **{"data__train-00000-of-00001": science})
        hub.gated.add("lab/gated")
        yield hub


SIX = """
import json, sys
from pathlib import Path
from tinyllm.data import hub, splits
from tinyllm.data.splits import SplitEntry, question_hash
packaged = splits.load
def small(dataset):
    if dataset == "piqa":
        rows = {i: SplitEntry(str(i), question_hash(f"Cut {10 + i}")) for i in range(10)}
        return {"train": [SplitEntry(f"train-{i}") for i in range(10)], "valid": [rows[3]], "test": [rows[7]]}
    if dataset == "riddle":
        rows = [SplitEntry(f"r{i}", question_hash(f"I cut {i}. Who am I?")) for i in range(20)]
        return {"train": rows[:10], "valid": rows[10:12], "test": rows[12:]}
    return packaged(dataset)
splits.load = small
read = {}
for name, hub_id, config, revision, root in json.loads(sys.argv[1]):
    found = hub.load(name, hub_id=hub_id, hub_config=config, revision=revision, root=root and Path(root))
    read[name] = {split: [[q.id, q.question, q.answer, q.context] for q in part] for split, part in found.items()}
print(json.dumps(read))
"""


def test_the_six_datasets_are_read_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    """PIQA's and RiddleSense's splits go by hashes of the real texts: here by those of the invented ones."""
    entries = splits.load("bioasq")
    questions = [
        {"id": entry.id, "type": "yesno", "body": f"Do saws cut {entry.id}?", "exact_answer": "yes", "snippets": []}
        for split in SPLITS
        for entry in entries[split]
    ]
    (tmp_path / "training.json").write_text(json.dumps({"questions": questions}))
    places = [
        ["obqa", "allenai/openbookqa", "main", None, None],
        ["arc", "allenai/ai2_arc", "ARC-Challenge", None, None],
        ["piqa", "ybisk/piqa", None, CONVERTED, None],
        ["riddle", "INK-USC/riddle_sense", None, CONVERTED, None],
        ["pubmedqa", "qiaojin/PubMedQA", "pqa_labeled", None, None],
        ["bioasq", None, None, None, str(tmp_path / "training.json")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SIX, json.dumps(places)],
        env=environment_of(hub, tmp_path),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    for name in ("obqa", "arc", "pubmedqa", "bioasq"):
        published = splits.load(name)
        assert {split: [row[0] for row in rows] for split, rows in read[name].items()} == {
            split: [entry.id for entry in published[split]] for split in SPLITS
        }
    assert [row[1:] for row in read["obqa"]["valid"][:2]] == [
        ["What cuts plank 0?", "saw 0", ""], ["What cuts plank 1?", "spoon 1", ""],
    ]  # fmt: skip
    assert read["pubmedqa"]["train"][0][2:] == ["yes", "We sawed. \n It fell."]
    assert read["piqa"]["valid"] == [["3", "Cut 13", "cup 13", ""]] and len(read["piqa"]["train"]) == 10
    assert [row[0] for row in read["riddle"]["valid"]] == ["r10", "r11"]
    assert read["riddle"]["test"][0][1:3] == ["I cut 12. Who am I?", "rope 12"]


def released(folder: Path) -> None:
    """A small `obqa` in the layout that the paper's authors published."""
    (folder / "llm").mkdir(parents=True)
    for split, count in (("train", 16), ("valid", 8), ("test", 8)):
        rows, strings = [], []
        for number in range(count):
            options = OPTIONS[:4]
            question, answer = f"What cuts plank {number}?", options[number % 4]
            rows.append({"id": f"{split}{number}", "question": question, "choices": options, "answer": answer})
            listed = "\n".join(f"({letter}) {option}" for letter, option in zip("abcd", options, strict=True))
            asked = f"Q: {question}\nAnswer Choices:\n{listed}"
            strings.append(f"It has teeth. Thus, the answer is {answer}\n{asked} llama rationale: Steel cuts wood.")
        (folder / f"obqa_{split}.json").write_text(json.dumps(rows))
        (folder / "llm" / f"{split}_CoT_0.json").write_text(json.dumps(strings))


def test_the_readmes_hub_commands_word_for_word(hub: Hub, tmp_path: Path) -> None:
    """The published rows are a small invented set; only the environment says where the hub is."""
    shown = [block for block in blocks(read("README.md")) if block.section == "A first real experiment"]
    words = [line[1:] for block in shown for line in commands(block) if "authors/datasets" in " ".join(line)]
    assert [line[0] for line in words] == ["rationales", "train"] and "student=flan_t5_small" in words[1]
    released(tmp_path / "authors" / "datasets" / "obqa")
    for code, err in call(tmp_path, hub, words):
        assert code == 0 and "HTTP Request" not in err, err
    (file,) = (tmp_path / "runs" / "obqa" / "flan_t5_small").glob("*/result.json")
    result = json.loads(file.read_text())
    assert (result["student"], result["n"], result["teachers"]) == (
        "flan_t5_small", 8, ["flan_t5_xl", "llama2_7b_chat"],
    )  # fmt: skip
    assert any("flan-t5-small/resolve" in line and line.endswith("model.safetensors") for line in hub.asked)


SMALL = [
    "method=full_ft", "student=flan_t5_small", "data.limit_train=16", "data.limit_valid=8", "data.limit_test=8",
    "trainer.max_steps=2",
]  # fmt: skip


def test_a_dataset_and_a_model_of_the_hub_are_read_again_offline(hub: Hub, tmp_path: Path) -> None:
    """Also the dataset of CONTRIBUTING.md's recipe."""
    (recipe,) = (block for block in blocks(read("CONTRIBUTING.md")) if "science.yaml" in block.mark)
    folder = tmp_path / "work" / "my_conf" / "data"
    folder.mkdir(parents=True)
    (folder / "science.yaml").write_text(recipe.text)
    runs = [["train", *SMALL, "data=obqa"], ["train", "--config-dir=my_conf", "data=science", *SMALL]]
    for code, err in call(tmp_path / "work", hub, runs):
        assert code == 0, err
    before = len(hub.asked)
    offline = [[*run, "seed=1"] for run in runs] + [
        ["train", *SMALL, "data=arc"],
        ["train", *SMALL, "student=flan_t5_base"],
    ]
    results = call(tmp_path / "work", hub, offline, HF_HUB_OFFLINE="1")
    assert [code for code, _ in results] == [0, 0, 2, 2] and len(hub.asked) == before
    for (_, err), named in zip(results[2:], ("allenai/ai2_arc", "google/flan-t5-base"), strict=True):
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and named in lines[0] and "HF_HUB_OFFLINE" in lines[0] and "Traceback" not in err, err


REFUSED = [
    (["student.pretrained=lab/gated"], ["student.pretrained=lab/gated", "hf auth login"]),
    (["student.revision=v9"], ["student.revision=v9", "no such revision"]),
    (["student.pretrained=lab/nothing"], ["student.pretrained=lab/nothing"]),
    (["student.pretrained=lab/cut"], ["student.pretrained=lab/cut", "again"]),
    (["data=obqa", "data.hub_revision=v9"], ["obqa", "no such revision"]),
    (["data=obqa", "data.hub_id=lab/nothing"], ["obqa", "lab/nothing"]),
    (["data=obqa", "data.hub_id=lab/gated"], ["obqa", "lab/gated", "hf auth login"]),
    (["data=obqa", "data.hub_id=lab/cut"], ["obqa", "lab/cut", "again"]),
]
TEACHER = ["teachers=smollm2", "teachers.smollm2.gguf_file=null"]
REFUSED_TEACHERS = [
    (["teachers.smollm2.model=lab/gated"], ["lab/gated", "hf auth login"]),
    (["teachers.smollm2.model=google/flan-t5-small", "teachers.smollm2.revision=v9"], ["no such revision"]),
    (["teachers.smollm2.model=lab/cut", "teachers.smollm2.chat=false"], ["lab/cut", "again"]),
]


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(hub.folder("datasets", "allenai/openbookqa"), hub.folder("datasets", "lab/gated"))
    shutil.copytree(hub.folder("datasets", "allenai/openbookqa"), hub.folder("datasets", "lab/cut"))
    hub.cut |= {"model.safetensors", "train-00000-of-00001.parquet"}
    calls = [["train", *SMALL, *arguments] for arguments, _ in REFUSED]
    calls += [["rationales", "data.limit_train=4", *TEACHER, *arguments] for arguments, _ in REFUSED_TEACHERS]
    try:
        results = call(tmp_path, hub, calls)
    finally:
        hub.cut.clear()
    for (arguments, named), (code, err) in zip([*REFUSED, *REFUSED_TEACHERS], results, strict=True):
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert code == 2 and len(lines) == 1 and all(name in lines[0] for name in named), (arguments, err)
        assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()
