"""A budget holds whatever is under way, and nothing that was paid is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.teachers.asking.conftest import Fake, Inventor, config, questions, quiet, records, run, stage

from tinyllm.config import BudgetConfig, Engine, ExampleSource, PromptConfig, TeacherConfig
from tinyllm.errors import UserError
from tinyllm.records import Split
from tinyllm.teachers import examples
from tinyllm.teachers import store as store_module
from tinyllm.teachers.asking import turns as module
from tinyllm.teachers.asking.budget import TEMPLATE, Budget
from tinyllm.teachers.asking.plan import Summary, plan_turns, speed_of
from tinyllm.teachers.asking.turns import take_turns
from tinyllm.teachers.engines.protocol import Completion, Request
from tinyllm.teachers.ledger import Ledger, read_ledger
from tinyllm.teachers.store import RationaleStore

PRICED = TeacherConfig(
    name="fake",
    engine=Engine.openai,
    model="m",
    prefix="f: ",
    max_new_tokens=40,
    price_prompt=2e6,
    price_completion=8e6,
)


class Server:
    """Answers several requests at a time, in any order, with texts of any length up to the limit; counts for itself."""

    def __init__(self, seed: int, at_once: int, template: int = 0) -> None:
        self.dice = random.Random(seed)
        self.at_once = at_once
        self.template = template
        self.paid: list[tuple[int, int]] = []
        """Prompt and completion tokens of every request that it was given, answered or not."""

    def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
        waiting, under_way, more = iter(requests), list[Completion](), True
        while more or under_way:
            while more and len(under_way) < self.at_once:
                request = next(waiting, None)
                if request is None:
                    more = False
                else:
                    cost = (self.template + len(str(request.prompt)) // 4, self.dice.randint(1, 40))
                    self.paid.append(cost)
                    under_way.append(Completion(request.id, "why", "stop", *cost))
            self.dice.shuffle(under_way)
            if under_way:
                yield [under_way.pop() for _ in range(self.dice.randint(1, len(under_way)))]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("unit", ["tokens", "money"])
def test_no_more_is_spent_and_no_less_than_one_more_request_could_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, unit: str
) -> None:
    server = Server(seed, at_once=1 + 3 * seed)
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: server)
    limit = {"tokens": 4000, "money": 9000.0}[unit]
    price = {"tokens": (1, 1), "money": (2, 8)}[unit]
    budget = Budget(BudgetConfig(**{unit: limit}))  # type: ignore[arg-type]
    here, asked = config(tmp_path, teachers={"fake": PRICED}), {Split.train: questions("t", 120)}
    turns, store = plan_turns(here, asked), RationaleStore(Path(here.store))
    (summary,) = take_turns(turns, store, asked, quiet(), budget=budget)
    spent = sum(price[0] * prompt + price[1] * completion for prompt, completion in server.paid)
    most = price[0] * (250 + TEMPLATE) + price[1] * 40
    assert limit - most < spent <= limit
    assert summary.written == len(server.paid) == sum(records(tmp_path).values()), "all that was paid is in the store"
    assert summary.left == 120 - summary.written > 0
    (line,) = read_ledger(store.folder)
    assert (line.prompt_tokens, line.completion_tokens) == tuple(map(sum, zip(*server.paid, strict=True)))


@pytest.mark.parametrize("character", ["x", "\u20ac"])
def test_a_server_that_counts_no_tokens_is_held_to_the_most_that_it_may_take(character: str) -> None:
    """A token for each byte of UTF-8: a euro sign has three."""

    def send(requests: Iterable[Request]) -> Iterator[list[Completion]]:
        yield from ([Completion(request.id, "why", "stop")] for request in requests)

    asked = [Request(str(i), character * 500) for i in range(20)]
    each = (1500 if character == "\u20ac" else 500) + TEMPLATE + 40
    answered = list(Budget(BudgetConfig(tokens=3 * each + 1)).let_through(send, asked, PRICED))
    assert len(answered) == 3


def test_what_a_server_does_not_count_has_no_known_cost(tmp_path: Path) -> None:
    """Until it counts: a line is brought up to date in its place."""
    ledger = Ledger(tmp_path, "mine", "train", "key", PRICED)
    ledger.add([Completion("a", "why", "stop")])
    assert (ledger.total.money, read_ledger(tmp_path)[0].money) == (None, None)
    ledger.add([Completion("b", "why", "stop", 100, 10)])
    (line,) = read_ledger(tmp_path)
    assert (line.prompts, line.money) == (2, (100 * 2 + 10 * 8))
    (header, row) = (tmp_path / "ledger.csv").read_text().splitlines()
    assert row.count(",") == header.count(",")


def test_failures_count_in_budget_and_ledger_with_all_their_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question is paid three times, at 110 tokens of 250 + 256 + 40 that one try may take."""

    class Failing:
        def complete(self, requests: Iterable[Request]) -> Iterator[list[Completion]]:
            for request in requests:
                yield [Completion(request.id, "", "error", 100, 10, "held back", lost=(200, 20))]

    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: Failing())
    here, asked = config(tmp_path, teachers={"fake": PRICED}), {Split.train: questions("t", 60)}
    budget, store = Budget(BudgetConfig(tokens=4000)), RationaleStore(Path(here.store))
    (summary,) = take_turns(plan_turns(here, asked), store, asked, quiet(), budget=budget)
    tried = len(summary.failed)
    assert 4000 - 550 < budget.tokens == 330 * tried <= 4000
    assert budget.money == tried * (300 * 2 + 30 * 8)
    (line,) = read_ledger(store.folder)
    assert (line.failed, line.prompt_tokens, line.completion_tokens) == (tried, 300 * tried, 30 * tried)
    assert (line.money, summary.left) == (budget.money, 60 - tried)


def test_tries_without_an_answer_in_time_count_as_much_as_they_may_have_cost(tmp_path: Path) -> None:
    def send(requests: Iterable[Request]) -> Iterator[list[Completion]]:
        yield from ([Completion(request.id, "why", "stop", 30, 4, late=2)] for request in requests)

    most = 50 + TEMPLATE + 40
    budget = Budget(BudgetConfig(tokens=10_000))
    answered = list(budget.let_through(send, [Request(str(i), "x" * 50) for i in range(20)], PRICED))
    assert budget.tokens == len(answered) * (34 + 2 * most)
    assert 10_000 - most < budget.tokens <= 10_000 + 2 * most


def test_a_long_chat_template_is_seen_and_counted(tmp_path: Path) -> None:
    """The first answer shows that the template adds 500 tokens: 10 bytes of prompt count 510 from then on.

    An error shows nothing: the next request still counts the 256 that a template may add.
    """

    def send(requests: Iterable[Request]) -> Iterator[list[Completion]]:
        for request in requests:
            if request.id == "0":
                yield [Completion(request.id, "", "error", error="HTTP 500, 7 times")]
            else:
                yield [Completion(request.id, "why", "stop", 510, 1)]

    asked = [Request(str(i), "x" * 10) for i in range(20)]
    answered = list(Budget(BudgetConfig(tokens=1000)).let_through(send, asked, PRICED))
    assert len(answered) == 2, "a third one could take 510 + 40 more than the 511 that are spent"
    assert len(list(Budget(BudgetConfig(tokens=305)).let_through(send, asked, PRICED))) == 0
    assert len(list(Budget(BudgetConfig(tokens=306)).let_through(send, asked[:2], PRICED))) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_long_prompt_says_nothing_of_the_template_of_short_ones(seed: int) -> None:
    """A template of 200 tokens: a prompt of 8,000 bytes takes 2,200 tokens, and one of 100 bytes takes 225.

    There is room for the long one alone at first, and then for many short ones before one of them is answered.
    """
    server = Server(seed, at_once=64, template=200)
    asked = [Request("long", "x" * 8000), *(Request(str(i), "x" * 100) for i in range(100))]
    budget = Budget(BudgetConfig(tokens=8500))
    answered = [done for batch in budget.let_through(server.complete, asked, PRICED) for done in batch]
    assert len(answered) == len(server.paid) < len(asked)
    assert 8500 - (100 + TEMPLATE + 40) < sum(map(sum, server.paid)) == budget.tokens <= 8500


def test_the_stage_says_what_is_left_and_the_same_command_goes_on(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt has some 210 bytes: a request may take 210 + 256 + 256."""
    with pytest.raises(
        UserError, match=r"of budget\.tokens=800.* \d+ train texts of fake are still missing.* same command"
    ):
        stage(tmp_path, 60, budget=BudgetConfig(tokens=800))
    done = sum(records(tmp_path).values())
    assert 0 < done < 60 and f"{60 - done} left to ask" in capsys.readouterr().out
    stage(tmp_path, 60)
    assert Counter(request.id for request in fake.asked) == Counter({f"t{i}": 1 for i in range(60)})
    with pytest.raises(UserError, match=r"budget\.money=1: .*teachers\.fake\.price_prompt"):
        stage(tmp_path, 60, budget=BudgetConfig(money=1.0))


def test_a_budget_of_nothing_prints_the_plan(tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    stage(tmp_path, 3, budget=BudgetConfig(tokens=0))
    out = " ".join(capsys.readouterr().out.split())
    assert "at most 768 completion tokens" in out and "nothing was asked, as the budget is 0" in out
    assert not fake.asked


def test_a_budget_of_nothing_prints_the_plan_before_examples_are_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Inventor()
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    two, asked = config(tmp_path, prompt=PromptConfig()), {Split.train: questions("t", 4)}
    budget = Budget(BudgetConfig(tokens=0))
    (summary,) = take_turns(plan_turns(two, asked), RationaleStore(Path(two.store)), asked, Console(), budget=budget)
    out = " ".join(capsys.readouterr().out.split())
    assert summary.left == 4 and not engine.asked
    assert "prompt tokens and at most" in out and "2 in-context examples, which are not made yet" in out


def test_what_was_invented_within_a_budget_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has room for a few of the pool's requests; in the end each was made once, and all are in the ledger."""
    engine = Inventor()
    engine.cost = (100, 100)
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    two, asked = config(tmp_path, prompt=PromptConfig()), {Split.train: questions("t", 4)}
    store, calls, left = RationaleStore(Path(two.store)), 0, 4
    while left:
        calls += 1
        budget = Budget(BudgetConfig(tokens=2500))
        (summary,) = take_turns(plan_turns(two, asked), store, asked, quiet(), budget=budget)
        left = summary.left
        assert calls < 20 and budget.tokens <= 2500
    assert calls > 1
    assert len({(r.seed, str(r.prompt)) for r in engine.asked}) == len(engine.asked), (
        "no draw of a prompt is made twice"
    )
    assert sum(line.prompts for line in read_ledger(store.folder)) == len(engine.asked)
    assert not list(store.folder.rglob("*.asked"))


def test_who_waited_for_a_pool_knows_what_was_paid_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another call holds the pool's lock, and ends without room for all of it, while the second one waits."""
    engine = Inventor()
    engine.cost = (100, 100)
    monkeypatch.setattr(module, "open_engine", lambda teacher, published=None: engine)
    two, asked = config(tmp_path, prompt=PromptConfig()), {Split.train: questions("t", 4)}
    store = RationaleStore(Path(two.store))

    def call(budget: Budget) -> Summary:
        (summary,) = take_turns(plan_turns(two, asked), store, asked, quiet(), budget=budget)
        return summary

    def lock(descriptor: int) -> None:
        monkeypatch.setattr(examples, "lock", store_module.lock)
        assert call(Budget(BudgetConfig(tokens=2500))).left == 4
        assert engine.asked
        store_module.lock(descriptor)

    monkeypatch.setattr(examples, "lock", lock)
    assert call(Budget()).left == 0
    assert len({(r.seed, str(r.prompt)) for r in engine.asked}) == len(engine.asked), "nothing is paid twice"


def test_zero_shot_texts_for_examples_count_too(tmp_path: Path, fake: Fake) -> None:
    fake.text, fake.cost = "Warmth makes the things of this world do so.", (100, 200)
    random_examples = config(tmp_path, prompt=PromptConfig(examples=2, example_source=ExampleSource.random))
    asked = {Split.train: questions("t", 12)}
    store = RationaleStore(Path(random_examples.store))
    turns = plan_turns(random_examples, asked)
    (summary,) = take_turns(turns, store, asked, quiet(), budget=Budget(BudgetConfig(tokens=1500)))
    assert (summary.written, summary.left) == (0, 12) and 0 < len(fake.asked) < 12
    (summary,) = take_turns(turns, store, asked, quiet())
    assert (summary.written, summary.left) == (12, 0)
    assert len({(r.id, str(r.prompt)) for r in fake.asked}) == len(fake.asked) == 24


def test_the_plan_tells_of_the_texts_for_examples_before_they_are_paid(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    few = PromptConfig(examples=2, example_source=ExampleSource.random)
    stage(tmp_path, 12, prompt=few, budget=BudgetConfig(tokens=0))
    out = capsys.readouterr().out
    assert not fake.asked
    assert "at most 3,072 completion tokens for the rationales of 12 in-context examples" in out
    assert "at most 3,072 completion tokens to come, beside its 2 in-context examples" in out


def prompt_tokens(line: str) -> int:
    return int(line.split("about ")[1].split()[0].replace(",", ""))


def test_the_plan_learns_from_the_store_and_from_the_first_texts(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts take 5 tokens and prompts 10, not the 256 that are allowed or a quarter of 200 characters."""
    stage(tmp_path, 70)
    out = capsys.readouterr().out
    assert "at most 17,920 completion tokens to come (how long its texts are is not known yet)" in out
    (first,) = [line for line in out.splitlines() if "in all (as the first 32 texts)" in line]
    assert "about 350 completion tokens" in first and prompt_tokens(first) == pytest.approx(700, rel=0.03)
    stage(tmp_path, 90)
    (second,) = [line for line in capsys.readouterr().out.splitlines() if "to come" in line]
    assert "about 100 completion tokens to come (as its 70 texts in the store)" in second
    assert prompt_tokens(second) == pytest.approx(200, rel=0.03)


def test_what_an_outage_left_unanswered_lowers_no_estimate(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prompt takes 10 tokens where it is answered, and none where the server is down."""
    fake.fail = {f"t{i}" for i in range(30)}
    with pytest.raises(UserError, match="30 train questions of fake"):
        stage(tmp_path, 40)
    capsys.readouterr()
    fake.fail = set()
    stage(tmp_path, 40)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "to come" in line]
    assert prompt_tokens(line) == pytest.approx(300, rel=0.03)


def test_the_speed_is_that_of_writing_texts(tmp_path: Path) -> None:
    """A line without completion tokens (scores, an outage) took time and says nothing of it."""
    lines = [("a", 0, 500.0), ("b", 100, 4.0), ("c", 300, 6.0), ("d", 0, 60.0)]
    head = "created,dataset,split,teacher,prompt_key,prompts,failed,prompt_tokens,completion_tokens,seconds,money\n"
    rows = [f"2026,mine,train,fake,{key},9,0,90,{tokens},{seconds},\n" for key, tokens, seconds in lines]
    (tmp_path / "ledger.csv").write_text(head + "".join(rows))
    store = RationaleStore(tmp_path)
    assert speed_of(store, "fake") == pytest.approx(400 / 10)
    (tmp_path / "ledger.csv").write_text(head + rows[0])
    assert speed_of(store, "fake") is None


def test_a_killed_process_leaves_its_line_in_the_ledger_and_a_full_disk_no_half_one(tmp_path: Path, fake: Fake) -> None:
    run(config(tmp_path), {Split.train: questions("t", 3)}, quiet())
    file = tmp_path / "store" / "ledger.csv"
    with file.open("a") as stream:
        stream.write("2026-01-01T00:00:00+00:00,mine,tr")  # what an earlier version's full disk left
    run(config(tmp_path), {Split.train: questions("t", 5)}, quiet())
    assert [line.prompts for line in read_ledger(file.parent)] == [3, 2]
    assert {line.split for line in read_ledger(file.parent)} == {"train"}


def test_money_is_summed_over_teachers(tmp_path: Path, fake: Fake) -> None:
    """A text costs 440, and one that is under way up to 2 * (210 + 256) + 8 * 40: a fourth one has no room."""
    other = replace(PRICED, name="other", prefix="o: ", price_prompt=0.0, price_completion=0.0)
    here = config(tmp_path, teachers={"fake": PRICED, "other": other})
    asked = {Split.train: questions("t", 5)}
    fake.cost = (100, 30)
    budget = Budget(BudgetConfig(money=2300.0))
    first, second = take_turns(plan_turns(here, asked), RationaleStore(Path(here.store)), asked, quiet(), budget=budget)
    assert (first.written, first.left) == (3, 2)
    assert second.written == 5, "what costs nothing is asked"
    assert budget.money == first.money == 3 * (2 * 100 + 8 * 30)
