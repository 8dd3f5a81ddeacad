"""Every option of every group composes into dataclasses; every mistake gives its one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.integration.conftest import Stage

from tinyllm.cli import main as cli
from tinyllm.config import ExperimentConfig
from tinyllm.errors import UserError
from tinyllm.paper import deviations

CONF = cli.config_folder()
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "teacher"
}
OPTIONS = [(group, option) for group, options in GROUPS.items() for option in options]
CONTRACT = {
    "data": {"minilab", "obqa", "arc", "piqa", "riddle", "pubmedqa", "bioasq", "jsonl"},
    "student": {"tiny", "flan_t5_small", "flan_t5_base", "flan_t5_large"},
    "teachers": {"minilab", "paper", "flan_t5_xl", "llama2_7b_chat", "smollm2"},
    "method": {"inference", "full_ft", "lora", "pinto", "standard_kd", "step_by_step", "tinyllm"},
    "ablation": {"none", "no_in_context", "no_llama", "no_t5", "no_diverse_teachers", "no_teacher_forcing"},
    "alpha": {"uniform", "grid"},
    "trainer": {"cpu", "gpu", "ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp"},
    "logger": {"csv", "wandb"},
    "experiment": {"paper", "minilab", "table1", "table2_ablation", "fig2_train_size", "fig3_alpha", "fig4_cases"},
}


def composed(*overrides: str) -> ExperimentConfig:
    cli.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("train", overrides=list(overrides))
    cli._check_known(config)
    loaded = OmegaConf.to_object(config)
    assert isinstance(loaded, ExperimentConfig)
    return loaded


@pytest.mark.parametrize(("group", "names"), CONTRACT.items())
def test_the_contract_names_are_there(group: str, names: set[str]) -> None:
    assert names <= set(GROUPS[group])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    extra = ["data.root=questions.jsonl"] if option == "jsonl" else []
    config = composed(f"{group}={option}", *extra)
    if group in ("data", "student", "method", "ablation", "logger"):
        assert getattr(config, group).name == ("questions" if option == "jsonl" else option)


def test_the_issue_commands_compose() -> None:
    config = composed(
        "data=obqa", "data.source=release", "data.root=somewhere", "teachers=paper", "student=flan_t5_small",
        "alpha.flan_t5_xl=0.5", "alpha.llama2_7b_chat=1",
    )  # fmt: skip
    assert config.alpha == {"flan_t5_xl": 0.5, "llama2_7b_chat": 1.0}
    assert list(config.teachers) == ["flan_t5_xl", "llama2_7b_chat"]
    assert [config.teachers[name].prefix for name in config.teachers] == ["explain: ", "rationale: "]
    assert (config.optimizer.lr, config.trainer.batch_size, config.trainer.max_epochs) == (5e-5, 8, 1)
    assert config.student.max_source_length == 1024


def test_alpha_grid_fills_the_sweep() -> None:
    cli.register()
    given = ["-m", "alpha=grid", "teachers=paper", "alpha.llama2_7b_chat=1"]
    assert cli.with_alpha_grid("train", given) == [*given, "alpha.flan_t5_xl=0.01,0.1,0.5,1,2,3"]
    assert cli.with_alpha_grid("train", ["alpha=uniform"]) == ["alpha=uniform"]
    single = ["-m", "alpha=grid", "method=step_by_step", "method.teacher=wordy"]
    assert cli.with_alpha_grid("train", single) == [*single, "alpha.wordy=0.01,0.1,0.5,1,2,3"]
    dropped = ["-m", "alpha=grid", "ablation=no_llama"]
    assert cli.with_alpha_grid("train", dropped) == [*dropped, "alpha.terse=0.01,0.1,0.5,1,2,3"]
    both = ["-m", "alpha=grid", "method=step_by_step,tinyllm"]
    assert len(cli.with_alpha_grid("train", both)) == len(both) + 2
    with pytest.raises(UserError, match="add -m"):
        cli.with_alpha_grid("train", ["alpha=grid"])


@pytest.mark.parametrize("student", ["tiny", "flan_t5_large"])
def test_the_paper_preset_sets_the_settings_of_section_4_1(student: str) -> None:
    arguments = cli.with_paper_settings([f"student={student}", "paper=true"])
    config = composed(*arguments)
    assert (config.optimizer.lr, config.trainer.batch_size, config.trainer.max_epochs) == (5e-5, 8, 1)
    assert config.student.max_source_length == 1024
    assert deviations(config) == {}
    assert deviations(composed(*arguments, "optimizer.lr=1e-4", "data.limit_test=9")) == {
        "optimizer.lr": ["5e-05", "0.0001"],
        "data.limit_test": ["null", "9"],
    }


def test_what_stands_beside_the_paper_preset() -> None:
    assert cli.with_paper_settings(["seed=1"]) == ["seed=1"]
    assert cli.with_paper_settings(["paper=false", "seed=1"]) == ["seed=1"]
    with pytest.raises(UserError, match="beside it stands experiment=table1"):
        cli.with_paper_settings(["experiment=table1", "paper=true"])
    with pytest.raises(UserError, match="paper=maybe: expected paper=true or paper=false"):
        cli.with_paper_settings(["paper=maybe"])


@pytest.mark.parametrize("name", sorted(CONTRACT["experiment"] - {"minilab"}))
def test_every_experiment_is_the_papers(name: str) -> None:
    """And the call's own choice stands."""
    assert deviations(composed(f"experiment={name}")) == {}
    assert composed(f"experiment={name}", "trainer.max_epochs=3", "student=flan_t5_base").trainer.max_epochs == 3


MISTAKES = [
    (["trian"], "trian: no such stage; expected one of rationales, train"),
    (["train", "trainer.bath_size=3"], "trainer.bath_size: no such key; expected one of accelerator"),
    (["train", "dta=obqa"], "dta: no such key; expected one of ablation, alpha"),
    (["train", "data=obqb"], "data=obqb: no such option; expected one of arc, bioasq"),
    (["train", "student=flan_t5_xxl"], "student=flan_t5_xxl: no such option; expected one of flan_t5_base"),
    (["train", "method=tinylm"], "(did you mean tinyllm?)"),
    (["train", "trainer.batch_size=many"], "trainer.batch_size: Value 'many' of type 'str' could not be converted"),
    (["train", "data.source=hubb"], "data.source: Invalid value 'hubb', expected one of [hub, release, builtin"),
    (["train", "loss.reduction=mean"], "loss.reduction: Invalid value 'mean', expected one of [example, token]"),
    (["train", "alpha.gpt=1"], "alpha.gpt: no such key; expected one of terse, wordy"),
    (["train", "alpha.terse=-1"], "alpha.terse: expected a weight of 0 or more, found -1.0"),
    (["train", "+extra=1"], "extra: no such key; remove +extra=..."),
    (["train", "+trainer.extra=1"], "trainer.extra: no such key; remove +trainer.extra=..."),
    (["train", "method.teacher=nobody"], "method.teacher=nobody: expected one of terse, wordy"),
    (["train", "trainer.precision=16-mixed"], "fp16 overflows in T5"),
    (["train", "evaluation.split=dev"], "evaluation.split=dev: expected one of train, valid, test"),
    (["train", "data.train_fraction=1.5"], "data.train_fraction: expected a share above 0 and up to 1, found 1.5"),
    (["train", "data.limit_test=0"], "data.limit_test: expected 1 or more, or null for all, found 0"),
    (["train", "data=obqa", "data.source=builtin"], "data.source=builtin: expected data=minilab, found data=obqa"),
    (["train", "data.source=jsonl"], "data=minilab: expected data.source=builtin, found jsonl"),
    (["train", "data=jsonl"], "data.root"),
    (["train", "data=obqa", "data.source=release", "data.root=nowhere"], "nowhere"),
    (["train"], "1456 of 1456 minilab/train questions lack a terse rationale in store: run 'tinyllm rationales'"),
    (["train", "method=full_ft", "trainer.accumulate_grad_batches=3"], "expected a multiple of"),
    (["train", "method=full_ft", "trainer.strategy=horovod"], "expected one of auto, ddp, deepspeed, fsdp"),
    (["train", "method=full_ft", "student.pretrained=no_such_folder"], "student.pretrained=no_such_folder: no such"),
    (["train", "method=full_ft", "+student.architecture.d_modell=3"], "student.architecture: expected vocab_size and"),
    (["train", "method=full_ft", "logger.name=mlflow"], "logger.name=mlflow: expected csv or wandb"),
    (["train", "method.lora={r: 8}"], "method.lora: it is null here and can't be filled by an override"),
    (["train", "-m", "alpha=grid,uniform"], "alpha=grid: expected it alone"),
    (["train", "paper=perhaps"], "paper=perhaps: expected paper=true or paper=false"),
    (["train", "method=pinto", "prompt.teacher_forcing=true"], "prompt.teacher_forcing"),
    (["evaluate", "run=."], ".: expected a run folder with config.yaml, found none"),
    (["predict"], "run: a value is needed; give run=..."),
    (["export", "run=."], "output: a value is needed; give output=..."),
    (["report", "runs=nowhere"], "runs: expected a folder, found none at nowhere"),
    (["report", "runs=."], "no result.json below ."),
    (["rationales", "shard.index=3", "shard.count=2"], "shard"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_gives_one_line_and_exit_code_2(stage: Stage, arguments: list[str], line: str) -> None:
    code, _, err = stage(*arguments)
    lines = [text for text in err.splitlines() if text.startswith("error:")]
    assert code == 2, err
    assert len(lines) == 1 and line in lines[0], err
    assert "Traceback" not in err


BAD_ROWS = [
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"]}', "answer"),
    ('{"id": "a", "question": "Q?", "choices": ["x"], "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "z"}', "answer"),
    ('{"id": "a", "question": "", "choices": ["x", "y"], "answer": "x"}', "question"),
    ('{"id": "a", "question": "Q?", "choices": "xy", "answer": "x"}', "choices"),
    ('{"id": "a", "question": "Q?", "choices": ["x", "y"], "answer": "x", "split": "dev"}', "split"),
    ('{"id": "a", "question"', "JSON"),
    ("[1, 2]", "object"),
]


@pytest.mark.parametrize(("row", "field"), BAD_ROWS)
def test_a_bad_row_is_told_with_file_line_and_field(stage: Stage, tmp_path: Path, row: str, field: str) -> None:
    good = json.dumps({"id": "g", "question": "Q?", "choices": ["x", "y"], "answer": "x"})
    (tmp_path / "mine.jsonl").write_text(f"{good}\n{row}\n")
    code, _, err = stage("train", "data=jsonl", "data.root=mine.jsonl", "method=full_ft")
    assert code == 2 and "Traceback" not in err
    assert next(text for text in err.splitlines() if text.startswith("error:"))
    assert any("mine.jsonl" in text and "line 2" in text and field in text for text in err.splitlines()), err


@pytest.mark.parametrize("name", list(cli.STAGES))
def test_every_stage_has_help_and_shows_its_config(stage: Stage, name: str) -> None:
    code, out, err = stage(name, "--help")
    assert code == 0, err
    assert f"tinyllm {name}" in out
    given = {"predict": ["run=r", "question=q", "choices=[a,b]"], "export": ["run=r", "output=o"]}.get(name, [])
    code, out, err = stage(name, *given, "--cfg", "job")
    assert code == 0 and ":" in out, err


def test_no_arguments_shows_the_stages(stage: Stage) -> None:
    code, out, _ = stage()
    assert code == 0 and all(name in out for name in cli.STAGES)
