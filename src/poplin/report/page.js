"use strict";
// The page's own script: nothing is loaded, and text is only ever set as text. Without it the page still reads.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const make = (tag, text, kind) => {
    const one = document.createElement(tag);
    if (text !== undefined) one.textContent = text;
    if (kind) one.className = kind;
    return one;
  };
  const shown = (value, digits) => value === null ? "" : Math.abs(value) > 1e300 ? (value < 0 ? "\u2212\u221e" : "\u221e") : value.toFixed(digits).replace("-", "\u2212");
  const small = (value) => value === null ? "" : value === 0 ? "0" : value < 0.001 ? value.toExponential(1) : value.toFixed(3);

  // Coefficients: sorted by a click on a head, searched by name, a page of lines at a time.
  const table = document.getElementById("effects");
  if (table) {
    const effects = data.effects, tested = effects.tested, step = 200;
    const names = ["covariate", "column", "estimate", ...(tested ? ["from", "to", "p", "adjusted p", "method"] : []), table.tHead.rows[0].lastElementChild.textContent];
    const value = (row, k) =>
      k === 0 ? effects.covariates[row[0]] : k === 1 ? effects.columns[row[1]] : k === names.length - 1 ? row[2] : row[k];
    const find = document.getElementById("find"), which = document.getElementById("which"), sure = document.getElementById("sure");
    const told = document.getElementById("told"), more = document.getElementById("more"), body = table.tBodies[0];
    let by = tested ? 5 : 2, up = tested, limit = step;
    const heads = names.map((name, k) => {
      const head = make("th", undefined, k > 1 && name !== "method" ? "n" : ""), button = make("button", name);
      button.addEventListener("click", () => { up = by === k ? !up : true; by = k; limit = step; draw(); });
      head.append(button);
      return head;
    });
    table.tHead.rows[0].replaceChildren(...heads);
    effects.covariates.forEach((name, k) => { const one = make("option", name); one.value = k; which.append(one); });
    const compare = (a, b) => {
      const left = value(a, by), right = value(b, by);
      if (left === null || right === null) return (left === null) - (right === null);
      const order = typeof left === "string" ? left.localeCompare(right) : left - right;
      return up ? order : -order;
    };
    const draw = () => {
      const words = find.value.toLowerCase();
      const rows = effects.rows.filter((row) =>
        (which.value === "" || row[0] === Number(which.value)) &&
        (words === "" || value(row, 0).toLowerCase().includes(words) || value(row, 1).toLowerCase().includes(words)) &&
        (!tested || !sure.checked || (row[6] !== null && row[6] < 0.05))).sort(compare);
      body.replaceChildren(...rows.slice(0, limit).map((row) => {
        const line = make("tr");
        line.append(make("td", value(row, 0)), make("td", value(row, 1)), make("td", shown(row[2], 3), "n"));
        if (tested) line.append(make("td", shown(row[3], 3), "n"), make("td", shown(row[4], 3), "n"), make("td", small(row[5]), "n"), make("td", small(row[6]), "n"), make("td", row[7]));
        line.append(make("td", Math.exp(row[2]).toPrecision(3), "n"));
        return line;
      }));
      heads.forEach((head, k) => head.setAttribute("aria-sort", k !== by ? "none" : up ? "ascending" : "descending"));
      const held = effects.rows.length < effects.of ? ` (of ${effects.of}; the page holds the surest, coef.csv all)` : "";
      told.textContent = `${Math.min(limit, rows.length)} of ${rows.length} shown${held}`;
      more.hidden = rows.length <= limit;
    };
    more.addEventListener("click", () => { limit += 5 * step; draw(); });
    for (const one of [find, which, sure]) one.addEventListener("input", () => { limit = step; draw(); });
    if (!tested) sure.parentElement.hidden = true;
    document.getElementById("tools").hidden = false;
    draw();
  }

  // Whatever has a name shows it under the pointer; of the rows also what is known of them.
  const tip = document.getElementById("tip");
  const points = data.points, dots = [...document.querySelectorAll("#rows-figure circle")];
  dots.forEach((dot, i) => { dot.dataset.row = i; dot.replaceChildren(); });
  document.addEventListener("pointermove", (event) => {
    const dot = event.target.closest ? event.target.closest("[data-row], [data-name]") : null;
    if (!dot) { tip.hidden = true; return; }
    if (dot.dataset.row !== undefined) {
      const i = Number(dot.dataset.row);
      const facts = Object.entries(points.facts).map(([name, values]) => make("div", `${name}: ${values[i] === null ? "" : values[i]}`));
      tip.replaceChildren(make("b", points.names[i]), ...facts);
    } else tip.replaceChildren(make("b", dot.dataset.name));
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 4)}px`;
    tip.style.top = `${event.clientY + tip.offsetHeight + 24 > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 14}px`;
  });

  // Colours of the rows by any of their covariates.
  const colour = document.getElementById("colour"), legend = document.getElementById("legend");
  const facts = Object.keys(points.facts);
  if (colour && facts.length) {
    const first = legend.dataset.name;
    for (const name of first ? facts : ["", ...facts]) { const one = make("option", name || "one colour"); one.value = name; colour.append(one); }
    colour.value = first;
    const between = (share) => {
      const low = [0, 66, 157], high = [253, 192, 60];
      return `rgb(${low.map((a, k) => Math.round(a + share * (high[k] - a))).join(",")})`;
    };
    const entry = (shade, name) => {
      const one = make("span"), spot = make("i");
      spot.style.background = shade;
      one.append(spot, name);
      return one;
    };
    colour.addEventListener("input", () => {
      const values = points.facts[colour.value];
      legend.replaceChildren();
      if (!values) { dots.forEach((dot) => dot.setAttribute("fill", data.groups[0])); return; }
      const groups = [...new Set(values)].sort((a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      if (groups.length <= data.groups.length) {
        const shade = new Map(groups.map((group, k) => [group, data.groups[k]]));
        dots.forEach((dot, i) => dot.setAttribute("fill", shade.get(values[i])));
        legend.append(...groups.map((group) => entry(shade.get(group), group === null ? "missing" : String(group))));
      } else if (values.every((value) => value === null || typeof value === "number")) {
        const held = values.filter((value) => value !== null), low = Math.min(...held), high = Math.max(...held);
        dots.forEach((dot, i) => dot.setAttribute("fill", values[i] === null ? "#888888" : between((values[i] - low) / (high - low))));
        legend.append(...[0, 0.25, 0.5, 0.75, 1].map((share) => entry(between(share), String(Number((low + share * (high - low)).toPrecision(3))))));
      } else {
        dots.forEach((dot) => dot.setAttribute("fill", data.groups[0]));
        legend.append(`${groups.length} values: too many for colours`);
      }
    });
    colour.parentElement.hidden = false;
  }
})();
