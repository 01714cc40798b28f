// Narrow a table down: a word to look for, and a choice for each heading that the table names in data-filters.
// A link to a row (#claim-...) shows that row, unfolded.
"use strict";
for (const table of document.querySelectorAll("table[data-filters]")) {
  const head = [...table.tHead.rows[table.tHead.rows.length - 1].cells].map((cell) => cell.textContent.trim());
  const rows = [...table.tBodies[0].rows].filter((row) => row.cells.length === head.length);
  const bar = document.createElement("form");
  bar.className = "filters";
  bar.setAttribute("aria-label", `Narrow down: ${table.closest("[role=group]")?.getAttribute("aria-label") ?? "the table"}`);
  bar.addEventListener("submit", (event) => event.preventDefault());
  const state = document.createElement("output");
  state.setAttribute("aria-live", "polite");
  const choices = [];
  const labelled = (text, control) => {
    const label = document.createElement("label");
    label.append(text + " ", control);
    bar.append(label);
    return control;
  };
  const search = labelled("Look for", document.createElement("input"));
  search.type = "search";
  for (const heading of table.dataset.filters.split("|")) {
    const column = head.indexOf(heading);
    if (column < 0) continue;
    const select = labelled(heading, document.createElement("select"));
    const values = [...new Set(rows.map((row) => row.cells[column].dataset.sort))].filter(Boolean);
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    choices.push([column, select]);
  }
  const apply = () => {
    const word = search.value.trim().toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = choices.every(([column, select]) => !select.value || row.cells[column].dataset.sort === select.value)
        && (!word || row.textContent.toLowerCase().includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    state.textContent = `${shown} of ${rows.length}`;
  };
  const reset = document.createElement("button");
  reset.type = "reset";
  reset.textContent = "Show all";
  bar.append(reset, state);
  bar.addEventListener("input", apply);
  bar.addEventListener("reset", () => setTimeout(apply));
  table.closest(".scroll").before(bar);
  const wanted = new URLSearchParams(location.search);
  for (const [column, select] of choices) {
    const value = wanted.get(head[column].toLowerCase());
    if (value) select.value = value;
  }
  apply();
}
const reveal = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (const fold of target.querySelectorAll("details")) fold.open = true;
  const row = target.closest("tr");
  const bar = row && row.hidden && row.closest("figure").querySelector("form.filters");
  if (bar) {
    bar.reset();
    setTimeout(() => target.scrollIntoView());
  } else {
    target.scrollIntoView();
  }
};
addEventListener("hashchange", reveal);
reveal();
