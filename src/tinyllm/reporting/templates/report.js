
"use strict";

// Sorting: descending, ascending, then the order that the report gave. Missing cells stay at the end.
function sortable(table) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort;
  const number = (text) => (text.trim() === "" ? NaN : Number(text));
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const texts = given.some((row) => key(row, column) !== "" && Number.isNaN(number(key(row, column))));
      const turns = texts ? ["ascending", "descending", null] : ["descending", "ascending", null];
      const turn = turns[(turns.indexOf(header.getAttribute("aria-sort") ?? null) + 1) % turns.length];
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      let rows = given;
      if (turn !== null) {
        header.setAttribute("aria-sort", turn);
        const sign = turn === "ascending" ? 1 : -1;
        const compare = texts
          ? (a, b) => a.localeCompare(b, "en", { numeric: true })
          : (a, b) => number(a) - number(b);
        const present = given.filter((row) => key(row, column) !== "");
        const absent = given.filter((row) => key(row, column) === "");
        present.sort((a, b) => sign * compare(key(a, column), key(b, column)));
        rows = [...present, ...absent];
      }
      body.append(...rows);
    });
  });
}
document.querySelectorAll("table.numbers").forEach(sortable);

// Cases. Whatever a model wrote reaches the page through textContent alone.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function browse(data) {
  const by = (name) => document.getElementById("by-" + name);
  const fields = ["dataset", "student", "kind", "subset", "who", "outcome", "text"];
  const letter = (index) => "(" + String.fromCharCode(97 + index) + ")";

  function fill(name, pairs, all) {
    const select = by(name);
    [["", all], ...pairs].forEach(([value, text]) => {
      const option = element("option", "", text);
      option.value = value;
      select.append(option);
    });
    select.parentElement.hidden = pairs.length < 2; // nothing to choose
  }
  const distinct = (values) => [...new Set(values)].filter((value) => value !== "").map((value) => [value, value]);
  fill("dataset", distinct(data.cases.map((one) => one.dataset)), "all");
  fill("student", distinct(data.cases.map((one) => one.student)), "all");
  fill("kind", Object.entries(data.kinds), "all");
  fill("subset", distinct(data.cases.map((one) => one.subset)), "all");
  fill("who", distinct(data.cases.flatMap((one) => one.answers.map((answer) => answer.who))), "anyone");

  const texts = data.cases.map((one) =>
    [one.id, one.question, ...one.choices, ...one.answers.map((answer) => answer.generated), ...one.rationales.map((rationale) => rationale.text)]
      .join("\n")
      .toLowerCase(),
  );
  function chosen() {
    const want = Object.fromEntries(fields.map((name) => [name, by(name).value]));
    const needle = want.text.trim().toLowerCase();
    return data.cases.filter((one, index) => {
      if (want.dataset && one.dataset !== want.dataset) return false;
      if (want.student && one.student !== want.student) return false;
      if (want.kind && !one.kinds.includes(want.kind)) return false;
      if (want.subset && one.subset !== want.subset) return false;
      if (want.who || want.outcome) {
        const fits = (answer) =>
          (!want.who || answer.who === want.who) && (!want.outcome || answer.right === (want.outcome === "right"));
        if (!one.answers.some(fits)) return false;
      }
      return !needle || texts[index].includes(needle);
    });
  }

  let found = [];
  let at = 0;

  function show() {
    const panel = document.getElementById("case");
    panel.replaceChildren();
    document.getElementById("count").textContent = found.length ? at + 1 + " of " + found.length : "no matching case";
    document.getElementById("previous").disabled = at <= 0;
    document.getElementById("next").disabled = at >= found.length - 1;
    if (!found.length) return;
    const one = found[at];
    const where = [one.dataset, one.subset, one.student, "seed " + one.seed, one.id].filter((part) => part !== "");
    panel.append(element("p", "where", where.join(" · ")));
    one.kinds.forEach((kind) => panel.append(element("span", "kind", data.kinds[kind])));
    panel.append(element("h3", "", one.question));

    const options = element("ul", "options");
    one.choices.forEach((choice, index) => {
      const item = element("li", choice === one.answer ? "truth" : "");
      item.append(element("span", "letter", letter(index)));
      const text = element("span", "", choice);
      const who = one.answers.filter((answer) => answer.chosen === choice).map((answer) => answer.who);
      const names = [...(choice === one.answer ? ["ground truth"] : []), ...who];
      if (names.length) text.append(element("span", "by", names.join(", ")));
      item.append(text);
      options.append(item);
    });
    panel.append(options);

    panel.append(element("h4", "", "Answers"));
    const table = element("table", "answers");
    const head = table.createTHead().insertRow();
    ["", "who", "option", "generated"].forEach((text) => head.append(element("th", "", text)));
    const body = table.createTBody();
    one.answers.forEach((answer) => {
      const row = body.insertRow();
      row.className = answer.right ? "right" : "wrong";
      const mark = element("td", "mark", answer.right ? "✓" : "✗");
      mark.title = answer.right ? "right" : "wrong";
      const index = one.choices.indexOf(answer.chosen);
      const option = answer.chosen === null ? "none of them" : (index < 0 ? "" : letter(index) + " ") + answer.chosen;
      const generated = answer.teacher ? "" : answer.generated; // a teacher's text stands among the rationales
      row.append(mark, element("td", "", answer.who), element("td", "", option), element("td", "generated", generated));
    });
    panel.append(table);

    if (one.rationales.length) panel.append(element("h4", "", "Rationales"));
    one.rationales.forEach((rationale) => {
      const quote = element("blockquote");
      quote.append(element("cite", "", rationale.voice ? rationale.who + ", in the voice of " + rationale.voice : rationale.who));
      quote.append(element("span", "", rationale.text.trim() || "(empty)"));
      panel.append(quote);
    });
  }

  function filter() {
    found = chosen();
    at = 0;
    show();
  }
  function turn(by) {
    const to = at + by;
    if (to < 0 || to >= found.length) return;
    at = to;
    show();
  }
  document.getElementById("filters").addEventListener("input", filter);
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => turn(-1));
  document.getElementById("next").addEventListener("click", () => turn(1));
  document.getElementById("reset").addEventListener("click", () => {
    document.getElementById("filters").reset();
    filter();
  });
  // The arrow keys turn cases while the browser of cases is in view, unless they move something else.
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, textarea, .wide")) return;
    const box = document.getElementById("browser").getBoundingClientRect();
    if (box.bottom < 0 || box.top > window.innerHeight) return;
    event.preventDefault();
    turn(step);
  });
  document.getElementById("browser").hidden = false;
  filter();
}
const data = document.getElementById("case-data");
if (data) browse(JSON.parse(data.textContent));
