// Of several tables of a kind one is shown: a reader picks batch size and machine. What is picked holds for every such
// stack of the page, and is what is printed; a link to a table (#table-latency-8) picks that table.
"use strict";
{
  const stacks = [];
  const picked = new Map();
  const show = () => {
    for (const { folds, bar } of stacks) {
      const fits = ([, values]) => [...values].filter(([name, value]) => picked.get(name) === value).length;
      const best = folds.reduce((one, other) => (fits(other) > fits(one) ? other : one));
      for (const [fold] of folds) fold.hidden = fold !== best[0];
      best[0].open = true;
      for (const input of bar.querySelectorAll("input")) input.checked = best[1].get(input.dataset.pick) === input.value;
    }
  };
  document.querySelectorAll(".stack").forEach((stack, number) => {
    const folds = [...stack.children].map((fold) => [fold, new Map((fold.dataset.picks || "").split("|").map((one) => one.split("=")))]);
    if (new Set(folds.map(([fold]) => fold.dataset.picks)).size < folds.length) return; // nothing tells them apart
    const bar = document.createElement("div");
    bar.className = "picks";
    for (const name of folds[0][1].keys()) {
      const values = [...new Set(folds.map(([, of]) => of.get(name)))];
      if (values.length < 2) continue;
      const set = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = name;
      set.append(legend, ...values.map((value) => {
        const input = Object.assign(document.createElement("input"), { type: "radio", name: `${name}-${number}`, value });
        input.dataset.pick = name;
        const label = document.createElement("label");
        label.append(input, ` ${value}`);
        return label;
      }));
      bar.append(set);
    }
    bar.addEventListener("input", ({ target }) => {
      picked.set(target.dataset.pick, target.value);
      show();
    });
    stack.classList.add("picked");
    stack.prepend(bar);
    stacks.push({ folds, bar });
  });
  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const wanted = target && target.closest(".stack > details");
    for (const { folds } of stacks) {
      for (const [fold, values] of folds) if (fold === wanted) values.forEach((value, name) => picked.set(name, value));
    }
    if (wanted) wanted.open = true;
    show();
  };
  addEventListener("hashchange", follow);
  follow();
}
