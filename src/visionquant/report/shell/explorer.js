// The explorer: what is chosen in the form, or named in the address, as a figure and a table.
"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const choices = JSON.parse(find("explorer-choices").textContent);
  const form = find("explorer"), place = find("explorer-figure"), state = find("explorer-state");
  const table = document.querySelector("#table-explorer table");
  const [ONE, MANY] = [["machine", "quantity", "batch_size"], ["precisions", "models"]];
  const boxes = (name) => [...form.querySelectorAll(`input[name="${name}"]`)];
  const ticked = (name) => boxes(name).filter((box) => box.checked).map((box) => box.value);
  let written = "", turn = 0;

  // Choices to the address and back. What is not in it is as at first; a name that is not here is said.
  const write = () => {
    const address = new URLSearchParams(ONE.map((name) => [name, form.elements[name].value]));
    for (const name of MANY) {
      if (boxes(name).some((box) => box.checked !== box.defaultChecked)) address.set(name, ticked(name).join(" "));
    }
    written = `#${address}`;
    location.replace(written);
  };
  const read = () => {
    const address = new URLSearchParams(location.hash.slice(1)), unknown = [];
    form.reset();
    for (const name of ONE) {
      const value = address.get(name);
      if (value === null) continue;
      if ([...form.elements[name].options].some((option) => option.value === value)) form.elements[name].value = value;
      else unknown.push(value);
    }
    for (const name of MANY) {
      if (!address.has(name)) continue;
      const wanted = new Set(address.get(name).split(" ").filter(Boolean));
      for (const box of boxes(name)) box.checked = wanted.delete(box.value);
      unknown.push(...wanted);
    }
    return unknown;
  };

  const loaded = {};
  const objects = ({ columns, rows }) =>
    rows.map((row) => Object.fromEntries(columns.map((name, column) => [name, row[column]])));
  const indexed = (source) => {
    const found = new Map();
    const put = (row, size, quantity) => found.set([row.model, row.precision, size, quantity].join(" "), row);
    for (const row of objects(source.figures)) put(row, row.batch_size, row.quantity);
    for (const row of objects(source.missing)) {
      for (const size of row.batch_sizes) for (const quantity of row.quantities) put(row, size, quantity);
    }
    return { about: source.about, found };
  };
  const load = (name) => (loaded[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `explorer/${name}.js`;
    script.onload = () => resolve(indexed(window.explored[name]));
    script.onerror = () => {
      delete loaded[name];
      reject(new Error(`reports/explorer/${name}.js can't be read; run \`visionquant report\``));
    };
    document.head.append(script);
  }));

  const draw = (figures, quantity, hollow, summary) => {
    const [width, models] = [place.clientWidth, [...new Set(figures.map((row) => row.model))]];
    const precisions = choices.precisions.filter((one) => figures.some((row) => row.precision === one.name));
    const labels = precisions.map((one) => one.label);
    const ends = figures.flatMap((row) => [row.value, row.low, row.high]).filter((value) => value !== null);
    const log = Math.min(...ends) > 0 && Math.max(...ends) > 30 * Math.min(...ends);
    const none = quantity.unit === "x" ? [1] : quantity.name.endsWith("_change") ? [0] : [];
    const at = { fy: "model", y: "label" };
    const chart = Plot.plot({
      width,
      height: 60 + models.length * (16 + 13 * labels.length),
      marginLeft: Math.min(160, 0.45 * width),
      marginRight: 24,
      marginBottom: 36,
      style: { background: "none" },
      ariaLabel: summary,
      x: {
        type: log ? "log" : "linear", grid: true, inset: 6, ticks: width < 600 ? 4 : undefined, tickFormat: "~g",
        label: `${quantity.label} (${quantity.unit})${log ? ", log scale" : ""}`, labelArrow: "none",
      },
      y: { axis: null, domain: labels, inset: 6 },
      fy: { axis: "left", label: null, domain: models },
      color: { domain: labels, range: precisions.map((one) => one.colour) },
      symbol: { domain: labels, range: precisions.map((one) => one.symbol), legend: true },
      marks: [
        Plot.frame({ strokeOpacity: 0.15 }),
        Plot.ruleX(none, { strokeOpacity: 0.6 }),
        Plot.ruleY(figures.filter((row) => row.low !== null), { ...at, x1: "low", x2: "high", stroke: "label", strokeWidth: 1.5 }),
        Plot.dot(figures, {
          ...at, x: "value", symbol: "label", stroke: "label", fill: hollow ? "none" : "label", r: 4,
          title: (row) => [row.model, row.label, row.text, quantity.unit, row.interval, row.verdict].filter(Boolean).join(" "),
        }),
        Plot.text(figures.filter((row) => row.verdict in choices.marks), {
          ...at, x: (row) => row.high ?? row.value, dx: 10, text: (row) => choices.marks[row.verdict],
        }),
      ],
    });
    chart.querySelector(":scope > svg").setAttribute("role", "img");
    for (const group of chart.querySelectorAll("g[aria-label]")) {
      group.dataset.mark = group.getAttribute("aria-label");
      group.removeAttribute("aria-label"); // a group without a role takes none
    }
    place.replaceChildren(chart);
  };

  const box = (tag, css, text, sort, title) => {
    const made = document.createElement(tag);
    Object.assign(made, { className: css, textContent: text });
    if (tag === "th") made.scope = "row";
    if (sort != null && sort !== "") made.dataset.sort = sort;
    if (title) made.title = title;
    return made;
  };
  const line = (row, hollow) => {
    const made = document.createElement("tr"), number = `number ${hollow ? "published" : "measured"}`;
    const mark = choices.marks[row.verdict] ?? "";
    made.append(
      box("th", "text", row.model, row.model),
      box("td", "text", row.label, row.label),
      row.status === "ok"
        ? box("td", number, row.text, row.value)
        : box("td", "missing", `— ${choices.codes[row.status] ?? row.status}`, null, row.reason),
      box("td", number, row.interval, row.low),
      box("td", "number", row.n ?? "", row.n),
      box("td", "text", `${mark} ${(row.verdict ?? "").toLowerCase()}`.trim(), row.verdict ?? ""),
      box("td", "text", row.weights ?? "", row.weights ?? ""),
      box("td", "text wide", row.reason, row.reason),
    );
    return made;
  };

  const show = async (unknown = []) => {
    const own = ++turn;
    place.setAttribute("aria-busy", "true");
    await update(own, unknown);
    if (own === turn) place.setAttribute("aria-busy", "false");
  };
  const update = async (own, unknown) => {
    const machine = form.elements.machine.value, size = form.elements.batch_size.value, hollow = machine === "published";
    const quantity = choices.quantities.find((one) => one.name === form.elements.quantity.value);
    let source;
    try {
      source = await load(machine);
    } catch (error) {
      if (own !== turn) return;
      state.textContent = error.message;
      place.replaceChildren();
      table.tBodies[0].replaceChildren();
      find("explorer-missing").replaceChildren();
      return;
    }
    if (own !== turn) return;  // something else has been chosen since
    const digits = (value) => value.toFixed(quantity.decimals);
    const chosen = new Set(ticked("precisions"));
    const rows = ticked("models").flatMap((model) =>
      choices.precisions.filter((one) => chosen.has(one.name)).map(({ name, label }) => {
        const [sized, sizeless] = [size, 0].map((one) => source.found.get([model, name, one, quantity.name].join(" ")));
        const row = { status: "not_measured", reason: "not part of this set", low: null, high: null, ...(sized ?? sizeless) };
        const text = row.status === "ok" ? digits(row.value) : "";
        const interval = row.low === null || row.high === null ? "" : `${digits(row.low)}–${digits(row.high)}`;
        return { ...row, model, precision: name, label, text, interval };
      }));
    const figures = rows.filter((row) => row.status === "ok");
    const of_model = figures.length > 0 && figures.every((row) => row.batch_size === 0);
    const about = `${quantity.label} (${quantity.unit}) ${of_model ? "at any batch size" : `at batch size ${size}`}`;
    const summary = `${about}: ${figures.length} of ${rows.length} figures`;
    state.textContent = summary + (unknown.length ? `; not here, and left out: ${unknown.join(", ")}` : "");
    find("explorer-about").textContent = source.about;
    if (figures.length) draw(figures, quantity, hollow, summary);
    else place.replaceChildren(rows.length ? "No figure: the lines below say why." : "Choose a model and a precision.");
    for (const heading of table.tHead.rows[0].cells) heading.removeAttribute("aria-sort");
    const some = new Set(figures.map((row) => row.model)), empty = {};
    for (const row of rows) if (!some.has(row.model)) (empty[row.reason] ??= new Set()).add(row.model);
    table.tBodies[0].replaceChildren(...rows.filter((row) => some.has(row.model)).map((row) => line(row, hollow)));
    find("explorer-missing").replaceChildren(
      ...Object.entries(empty).map(([reason, models]) => box("li", "", `No figure, ${reason}: ${[...models].join(", ")}`)),
    );
  };

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    write();
    show();
  });
  for (const button of form.querySelectorAll("button")) {
    button.addEventListener("click", () => {
      for (const model of boxes("models")) model.checked = Boolean(button.value);
      write();
      show();
    });
  }
  addEventListener("hashchange", () => {
    if (location.hash !== written) show(read());
  });
  let width = place.clientWidth;
  addEventListener("resize", () => {
    if (place.clientWidth !== width) show();
    width = place.clientWidth;
  });
  show(read());
})();
