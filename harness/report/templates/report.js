"use strict";
(() => {
  document.documentElement.classList.add("js");
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

  // Filters of the tables; rows that say nothing are shown once they are asked for, or once a filter asks for them.
  for (const form of document.querySelectorAll("form[data-table]")) {
    const key = form.dataset.table.replace(/-table$/, "");
    const rows = [...$(form.dataset.table).tBodies[0].rows];
    const quiet = $(key + "-quiet");
    const filter = () => {
      if (!$(key + "-words")) { return; }
      const words = $(key + "-words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const verdict = $(key + "-verdict").value;
      const first = $(key + "-first").value;
      const gating = $(key + "-gating").checked;
      if (quiet && (words.length || verdict || first) && !quiet.dataset.touched) { quiet.checked = true; }
      let shown = 0;
      for (const row of rows) {
        const text = (row.textContent + " " + [...row.querySelectorAll("[title]")].map((one) => one.title).join(" ")).toLowerCase();
        const fits = words.every((word) => text.includes(word))
          && (!verdict || row.querySelector("td." + verdict))
          && (!first || row.cells[0].textContent.trim() === first)
          && (!gating || !text.includes("advisory"));
        row.hidden = !fits;
        shown += fits && !(row.classList.contains("quiet") && !quiet.checked) ? 1 : 0;
      }
      $(key + "-count").textContent = shown + " of " + rows.length;
    };
    if (quiet) { quiet.addEventListener("change", () => { quiet.dataset.touched = "1"; }); }
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    if (key === "matrix") {
      for (const link of document.querySelectorAll("a[data-verdict]")) {
        link.addEventListener("click", () => { $("matrix-verdict").value = link.dataset.verdict; filter(); });
      }
    }
  }

  // Contents: the part that is being read is marked.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        for (const link of links.values()) { link.removeAttribute("aria-current"); }
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main > section")) { seen.observe(section); }

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
    const flips = JSON.parse($("flip-data").textContent);
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
    const readable = new Map([...document.querySelectorAll("#matrix-table tbody tr")].map((row) => {
      const name = row.querySelector("th bdi");
      return [row.cells[0].textContent.trim() + ": " + name.title, name.textContent];
    }));
    const fill = (select, values) => {
      const kept = select.value;
      select.replaceChildren(node("option", "all"));
      select.options[0].value = "";
      for (const one of [...new Set(values)]) { select.append(node("option", one)); select.lastChild.value = one; }
      select.value = [...select.options].some((option) => option.value === kept) ? kept : "";
    };
    // Differences by word: the longest common sequence of words, as the browser cuts words in each language.
    const cut = (text, language) => {
      try { return [...new Intl.Segmenter(language || "en", { granularity: "word" }).segment(text)].map((one) => one.segment); }
      catch { return text.match(/\s+|\S+/g) || []; }
    };
    const differing = (one, other) => {
      const common = [new Uint16Array(other.length + 1)];
      for (let i = one.length - 1; i >= 0; i -= 1) {
        const row = new Uint16Array(other.length + 1);
        for (let j = other.length - 1; j >= 0; j -= 1) {
          row[j] = one[i] === other[j] ? common[0][j + 1] + 1 : Math.max(common[0][j], row[j + 1]);
        }
        common.unshift(row);
      }
      const marks = [new Set(one.keys()), new Set(other.keys())];
      for (let i = 0, j = 0; i < one.length && j < other.length;) {
        if (one[i] === other[j]) { marks[0].delete(i); marks[1].delete(j); i += 1; j += 1; }
        else if (common[i + 1][j] >= common[i][j + 1]) { i += 1; } else { j += 1; }
      }
      return marks;
    };
    const marked = (words, marks, language) => {
      const made = node("pre", undefined, { dir: "auto", lang: language });
      for (let at = 0; at < words.length;) {
        let end = at;
        const differs = marks.has(at);
        while (end < words.length && marks.has(end) === differs) { end += 1; }
        const text = words.slice(at, end).join("");
        made.append(differs && text.trim() ? node("mark", text) : text);
        at = end;
      }
      if (!words.length) { made.append(node("mark", "▏", { title: "ends here" })); }
      return made;
    };
    const side = (name, score, words, marks, flip) => {
      const made = node("div");
      const heading = node("h5");
      heading.append(node("bdi", name), " ", node("span", "score " + (100 * score).toFixed(1), { class: "muted" }));
      made.append(heading, marked(words, marks, flip.language));
      return made;
    };
    const show = () => {
      const flip = found[at];
      $("flip-count").textContent = found.length ? (at + 1) + " of " + found.length : "nothing fits";
      $("flip-previous").disabled = at <= 0;
      $("flip-next").disabled = at >= found.length - 1;
      $("flip").replaceChildren();
      if (!flip) { return; }
      const words = [cut(flip.baseline, flip.language), cut(flip.answer, flip.language)];
      const marks = differing(...words);
      const made = node("article", undefined, { class: "pair" });
      const title = node("h4");
      title.append(node("bdi", flip.candidate), " · ", node("bdi", flip.slice), " · ", node("bdi", readable.get(place(flip)) || flip.stratum, { title: flip.stratum }));
      if (flip.kinds.length) { title.append(" · ", flip.kinds.join(", ")); }
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
      sides.append(side($("flip").dataset.baseline, flip.before, words[0], marks[0], flip), side(flip.candidate, flip.after, words[1], marks[1], flip));
      made.append(flip.stored === false ? node("p", $("flip").dataset.absent + " " + scores(flip), { class: "absent" }) : sides);
      $("flip").append(made);
      reveal(made);
    };
    const filter = () => {
      const words = $("flip-words").value.toLowerCase().split(/\s+/).filter(Boolean);
      const candidate = $("flip-candidate").value;
      const stratum = $("flip-stratum").value;
      const kind = $("flip-kind").value;
      const direction = { lost: -1, gained: 1, same: 0 }[$("flip-direction").value];
      found = flips.filter((flip) => (!candidate || flip.candidate === candidate)
        && (!stratum || place(flip) === stratum)
        && (!kind || flip.kinds.includes(kind))
        && (direction === undefined || Math.sign(flip.after - flip.before) === direction)
        && words.every((word) => (flip.id + " " + flip.prompt + " " + flip.target + " " + flip.baseline + " " + flip.answer).toLowerCase().includes(word)));
      at = 0;
      show();
    };
    const fillAll = () => {
      fill($("flip-candidate"), flips.map((flip) => flip.candidate));
      fill($("flip-stratum"), flips.map(place));
      for (const option of $("flip-stratum").options) {
        if (readable.has(option.value)) { option.textContent = option.value.split(": ")[0] + ": " + readable.get(option.value); }
      }
      fill($("flip-kind"), flips.flatMap((flip) => flip.kinds));
    };
    const step = (by) => { at = Math.min(Math.max(at + by, 0), Math.max(found.length - 1, 0)); show(); };
    $("flip-previous").addEventListener("click", () => step(-1));
    $("flip-next").addEventListener("click", () => step(1));
    document.addEventListener("keydown", (event) => {
      if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) || event.ctrlKey || event.metaKey || event.altKey) { return; }
      const inside = $("browser").contains(event.target);
      if (event.key === "k" || (inside && event.key === "ArrowLeft")) { step(-1); }
      if (event.key === "j" || (inside && event.key === "ArrowRight")) { step(1); }
    });
    for (const link of document.querySelectorAll("a[data-candidate]")) {
      link.addEventListener("click", () => {
        for (const one of ["words", "direction"]) { $("flip-" + one).value = ""; }
        $("flip-candidate").value = link.dataset.candidate;
        $("flip-stratum").value = link.dataset.place;
        $("flip-kind").value = link.dataset.kind;
        filter();
      });
    }
    $("flip-filters").addEventListener("input", filter);
    $("flip-filters").addEventListener("submit", (event) => event.preventDefault());
    fillAll();
    $("browser").hidden = false;
    filter();
  }
})();
