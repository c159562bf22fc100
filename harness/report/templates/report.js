"use strict";
(() => {
  const $ = (id) => document.getElementById(id);

  // Theme: as the system, light, dark. A page from disk may be refused storage; the choice is then for this visit.
  const themes = ["system", "light", "dark"];
  const store = { get: () => { try { return localStorage.getItem("quantcliff-theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("quantcliff-theme", value); } catch { /* for this visit only */ } } };
  const applyTheme = (theme) => {
    if (theme === "system") { delete document.documentElement.dataset.theme; } else { document.documentElement.dataset.theme = theme; }
    $("theme").textContent = "Theme: " + theme;
    $("theme").setAttribute("aria-label", "Colour theme: " + (theme === "system" ? "as the system" : theme));
  };
  let theme = themes.includes(store.get()) ? store.get() : "system";
  applyTheme(theme);
  $("theme").addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    store.set(theme);
    applyTheme(theme);
  });

  // Sorting: the value is in data-value where the cell shows more than it. Missing numbers stay last.
  const value = (row, index, kind) => {
    const cell = row.cells[index];
    if (kind === "text") { return (cell.dataset.value ?? cell.textContent).trim(); }
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const compare = (a, b, kind) => {
    if (kind === "text") { return a.localeCompare(b, undefined, { numeric: true }); }
    if (Number.isNaN(a) || Number.isNaN(b)) { return 0; }
    return a - b;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    [...table.tHead.rows[0].cells].forEach((heading, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const turn = { none: "ascending", ascending: "descending", descending: "none" };
        const next = turn[heading.getAttribute("aria-sort") || "none"];
        for (const other of table.tHead.rows[0].cells) { other.removeAttribute("aria-sort"); }
        let rows = [...original];
        if (next !== "none") {
          heading.setAttribute("aria-sort", next);
          const kind = heading.dataset.kind;
          const sign = next === "ascending" ? 1 : -1;
          const missing = rows.filter((row) => kind === "number" && Number.isNaN(value(row, index, kind)));
          rows = rows.filter((row) => !missing.includes(row));
          rows.sort((a, b) => sign * compare(value(a, index, kind), value(b, index, kind), kind));
          rows.push(...missing);
        }
        body.append(...rows);
      });
    });
  }

  // Filters of the matrix.
  const table = $("matrix-table");
  if (table) {
    const rows = [...table.tBodies[0].rows];
    const filter = () => {
      const words = $("matrix-words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const verdict = $("matrix-verdict").value;
      const slice = $("matrix-slice").value;
      const gating = $("matrix-gating").checked;
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits = words.every((word) => text.includes(word))
          && (!verdict || row.dataset.verdicts.split(" ").includes(verdict))
          && (!slice || row.dataset.slice === slice)
          && (!gating || row.dataset.gating === "1");
        row.hidden = !fits;
        shown += fits ? 1 : 0;
      }
      $("matrix-count").textContent = shown === rows.length ? rows.length + " strata" : shown + " of " + rows.length + " strata";
    };
    $("matrix-filters").addEventListener("input", filter);
    $("matrix-filters").addEventListener("submit", (event) => event.preventDefault());
    for (const link of document.querySelectorAll("a[data-verdict]")) {
      link.addEventListener("click", () => { $("matrix-verdict").value = link.dataset.verdict; filter(); });
    }
  }

  // Long answers: each first difference comes into sight in its box, once the box itself is seen.
  const reveal = (inside) => {
    for (const mark of inside.querySelectorAll("pre mark")) {
      const box = mark.closest("pre");
      box.scrollTop += mark.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
    }
  };
  reveal(document);
  for (const fold of document.querySelectorAll("details")) { fold.addEventListener("toggle", () => reveal(fold)); }

  // The flip browser. Everything from a model is set as text, never as HTML.
  if ($("flip-data")) {
    let flips = JSON.parse($("flip-data").textContent);
    let found = flips;
    let at = 0;
    const node = (tag, text, attributes) => {
      const made = document.createElement(tag);
      if (text !== undefined) { made.textContent = text; }
      for (const [name, given] of Object.entries(attributes || {})) { if (given) { made.setAttribute(name, given); } }
      return made;
    };
    const scores = (flip) => $("flip").dataset.baseline + ": " + (100 * flip.before).toFixed(1) + ", " + flip.candidate + ": " + (100 * flip.after).toFixed(1) + ".";
    const place = (flip) => flip.slice + ": " + flip.stratum;
    const fill = (select, values) => {
      const kept = select.value;
      select.replaceChildren(node("option", "all"));
      select.options[0].value = "";
      for (const one of [...new Set(values)]) { select.append(node("option", one)); }
      select.value = [...select.options].some((option) => option.value === kept) ? kept : "";
    };
    const marked = (text, index, language) => {
      const made = node("pre", undefined, { dir: "auto", lang: language });
      if (index === null) { made.textContent = text; return made; }
      const rest = text.slice(index);
      const word = (rest.match(/^\S+|^[^]/u) || [""])[0];
      made.append(text.slice(0, index), node("mark", word || "▏"), rest.slice(word.length));
      return made;
    };
    const side = (name, score, text, flip) => {
      const made = node("div");
      const heading = node("h5");
      heading.append(node("bdi", name), " ", node("span", "score " + (100 * score).toFixed(1), { class: "muted" }));
      made.append(heading, marked(text, flip.at, flip.language));
      return made;
    };
    // Indices count Unicode characters in the data and UTF-16 units here: surrogate pairs before it move it.
    const units = (text, index) => { let i = 0; let seen = 0; while (seen < index && i < text.length) { i += text.codePointAt(i) > 0xffff ? 2 : 1; seen += 1; } return i; };
    const show = () => {
      const flip = found[at];
      $("flip-count").textContent = found.length ? (at + 1) + " of " + found.length : "nothing fits";
      $("flip-previous").disabled = at <= 0;
      $("flip-next").disabled = at >= found.length - 1;
      $("flip").replaceChildren();
      if (!flip) { return; }
      const shown = { ...flip, at: flip.at === null ? null : units(flip.baseline, flip.at) };
      const made = node("article", undefined, { class: "pair" });
      const title = node("h4");
      title.append(node("bdi", flip.candidate), " · ", node("bdi", flip.slice), " · ", node("bdi", flip.stratum));
      const item = node("p", "item ", { class: "muted" });
      item.append(node("code", flip.id));
      made.append(title, item);
      if (flip.prompt) {
        const prompt = node("details");
        prompt.open = flip.prompt.length < 600;
        prompt.append(node("summary", "Prompt"), node("pre", flip.prompt, { dir: "auto", lang: flip.language }));
        made.append(prompt);
      }
      if (flip.target) {
        const target = node("p", "Right answer: ");
        target.append(node("bdi", flip.target, { class: "target", lang: flip.language }));
        made.append(target);
      }
      const sides = node("div", undefined, { class: "sides" });
      sides.append(side($("flip").dataset.baseline, flip.before, flip.baseline, shown), side(flip.candidate, flip.after, flip.answer, shown));
      made.append(flip.stored === false ? node("p", $("flip").dataset.absent + " " + scores(flip), { class: "absent" }) : sides);
      $("flip").append(made);
      reveal(made);
    };
    const filter = () => {
      const words = $("flip-words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const candidate = $("flip-candidate").value;
      const stratum = $("flip-stratum").value;
      const direction = $("flip-direction").value;
      found = flips.filter((flip) => (!candidate || flip.candidate === candidate)
        && (!stratum || place(flip) === stratum)
        && (!direction || (flip.after < flip.before) === (direction === "lost"))
        && words.every((word) => (flip.id + " " + flip.prompt + " " + flip.target + " " + flip.baseline + " " + flip.answer).toLowerCase().includes(word)));
      at = 0;
      show();
    };
    const fillAll = () => {
      fill($("flip-candidate"), flips.map((flip) => flip.candidate));
      fill($("flip-stratum"), flips.map(place));
    };
    const step = (by) => { at = Math.min(Math.max(at + by, 0), Math.max(found.length - 1, 0)); show(); };
    $("flip-previous").addEventListener("click", () => step(-1));
    $("flip-next").addEventListener("click", () => step(1));
    $("browser").addEventListener("keydown", (event) => {
      if (["INPUT", "SELECT"].includes(event.target.tagName)) { return; }
      if (event.key === "ArrowLeft") { step(-1); }
      if (event.key === "ArrowRight") { step(1); }
    });
    $("flip-filters").addEventListener("input", (event) => { if (event.target.type !== "file") { filter(); } });
    $("flip-filters").addEventListener("submit", (event) => event.preventDefault());
    $("flip-file").addEventListener("change", async (event) => {
      const file = event.target.files[0];
      if (!file) { return; }
      try {
        const more = JSON.parse(await file.text());
        const known = new Set(flips.map((flip) => flip.candidate + "\u0000" + flip.id));
        flips = flips.concat(more.filter((flip) => !known.has(flip.candidate + "\u0000" + flip.id)));
        fillAll();
        filter();
      } catch {
        $("flip-count").textContent = "that file holds no flips";
      }
    });
    fillAll();
    $("browser").hidden = false;
    filter();
  }
})();
