
// The log: compressed chunks unpacked when looked at; only the rows in sight are in the document.
const ROW = 20;
// Browsers cap an element's height between 17 and 33 million pixels: beyond this the scroll bar is a scale.
const TALLEST = 8e6;
const KEPT = 48;

function makeLog() {
  const view = $("log-view"), space = $("log-space"), list = $("log-rows");
  const index = JSON.parse($("log-index").textContent);
  const packed = [...document.querySelectorAll("script.log-chunk")];
  const starts = [0];
  for (const rows of index.chunks) starts.push(starts.at(-1) + rows);
  const kept = new Map(), wanted = new Map();
  let hits = null; // rows that pass the filter, or null for all
  let top = 0, selected = -1, needle = "", run = 0;

  // -- chunks ------------------------------------------------------------------------------------------

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
    return bytes;
  }

  function unpack(chunk) {
    const stream = new Blob([bytesOf(packed[chunk].textContent)]).stream();
    return new Response(stream.pipeThrough(new DecompressionStream("gzip"))).text();
  }

  async function load(chunk) {
    const lines = (await unpack(chunk)).split("\n");
    kept.set(chunk, lines);
    wanted.delete(chunk);
    if (kept.size > KEPT) kept.delete(kept.keys().next().value);
    return lines;
  }

  function lines(chunk) {
    const found = kept.get(chunk);
    if (found) {
      kept.delete(chunk);
      kept.set(chunk, found);
      return found;
    }
    if (!wanted.has(chunk)) wanted.set(chunk, load(chunk).then(paint));
    return null;
  }

  function chunkOf(row) {
    let low = 0, high = index.chunks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (starts[middle] <= row) low = middle; else high = middle - 1;
    }
    return low;
  }

  function parse(line) {
    const a = line.indexOf("\t"), b = line.indexOf("\t", a + 1), c = line.indexOf("\t", b + 1), d = line.indexOf("\t", c + 1);
    return { time: +line.slice(0, a), kind: line.slice(a + 1, b), step: +line.slice(b + 1, c), tool: line.slice(c + 1, d), text: clean(line.slice(d + 1)) };
  }

  // Colour codes of terminals go; any other control character is shown by its picture.
  function clean(text) {
    return text.replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)/g, "").replace(/\t/g, "    ")
      .replace(/[\x00-\x1f\x7f]/g, (char) => String.fromCharCode(char === "\x7f" ? 0x2421 : 0x2400 + char.charCodeAt(0)));
  }

  function clock(millis) {
    const seconds = millis / 1000, minutes = Math.floor(seconds / 60);
    return minutes ? `${minutes}:${(seconds % 60).toFixed(2).padStart(5, "0")}` : seconds.toFixed(3);
  }

  // -- what is in sight --------------------------------------------------------------------------------

  const total = () => (hits ? hits.length : index.rows);
  const rowAt = (place) => (hits ? hits[place] : place);
  const inSight = () => Math.max(1, Math.floor(view.clientHeight / ROW));
  const height = () => Math.min(TALLEST, total() * ROW + 4);
  const scaled = () => total() * ROW + 4 > TALLEST;
  const lastTop = () => Math.max(0, total() - inSight());

  function paint() {
    const first = Math.max(0, Math.floor(top));
    const offset = scaled() ? view.scrollTop : first * ROW;
    const rows = [];
    let whole = true;
    for (let place = first; place < Math.min(total(), first + inSight() + 3); place++) {
      const row = rowAt(place), chunk = chunkOf(row), found = lines(chunk);
      whole &&= found !== null;
      rows.push(found ? rowElement(row, parse(found[row - starts[chunk]])) : element("div", { class: "row" }, "…"));
    }
    list.replaceChildren(...rows);
    list.style.transform = `translateY(${offset}px)`;
    if (whole && !document.documentElement.dataset.ready) document.documentElement.dataset.ready = performance.now().toFixed(0);
  }

  function rowElement(row, line) {
    const made = element("div", { class: `row ${line.kind}${row === selected ? " on" : ""}` },
      element("span", { class: "t" }, clock(line.time)),
      element("span", { class: "g" }, line.tool || index.steps[line.step]),
      element("span", { class: "x" }, ...marked(line.text.slice(0, 2000))));
    made.addEventListener("click", () => select(row));
    return made;
  }

  function marked(text) {
    if (!needle) return [text];
    const parts = [], lower = text.toLowerCase();
    let at = 0;
    for (let found = lower.indexOf(needle); found >= 0; found = lower.indexOf(needle, at)) {
      parts.push(text.slice(at, found), element("mark", {}, text.slice(found, found + needle.length)));
      at = found + needle.length;
    }
    return [...parts, text.slice(at)];
  }

  function resize() {
    space.style.height = `${height()}px`;
    goTo(top);
  }

  function goTo(place) {
    top = Math.min(lastTop(), Math.max(0, place));
    view.scrollTop = scaled() ? (top / Math.max(1, lastTop())) * (height() - view.clientHeight) : top * ROW;
    paint();
  }

  let painting = 0;
  view.addEventListener("scroll", () => {
    const exact = scaled() ? (view.scrollTop / (height() - view.clientHeight)) * lastTop() : view.scrollTop / ROW;
    // Setting scrollTop rounds to a pixel, which on a scale may be many rows: keep the row we chose.
    if (Math.abs(exact - top) > (scaled() ? (2 * lastTop()) / (height() - view.clientHeight) : 0.01)) top = exact;
    cancelAnimationFrame(painting);
    painting = requestAnimationFrame(paint);
  });
  view.addEventListener("wheel", (event) => {
    if (!scaled() || event.ctrlKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    event.preventDefault();
    goTo(top + (event.deltaMode ? event.deltaY : event.deltaY / ROW));
  }, { passive: false });
  view.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: inSight() - 1, PageUp: 1 - inSight(), Home: -Infinity, End: Infinity };
    if (event.target !== view || !(event.key in moves)) return;
    event.preventDefault();
    goTo(Math.max(0, Math.min(lastTop(), top + moves[event.key])));
  });

  // -- one line, whole ---------------------------------------------------------------------------------

  async function select(row) {
    selected = row;
    const chunk = chunkOf(row), line = parse((kept.get(chunk) || (await load(chunk)))[row - starts[chunk]]);
    const step = index.steps[line.step];
    $("log-where").textContent = `Line ${number.format(row + 1)}${step ? `, step ${step}` : ""}${line.tool ? `, ${line.tool}` : ""}, at ${clock(line.time)}`;
    $("log-text").textContent = line.text;
    $("log-context").hidden = !hits;
    $("log-detail").hidden = false;
    paint();
  }

  function center(row) {
    goTo(row - Math.floor(inSight() / 2));
    select(row);
  }

  $("log-close").addEventListener("click", () => { $("log-detail").hidden = true; selected = -1; paint(); });
  $("log-copy").addEventListener("click", () => copyText($("log-text").textContent));
  $("log-context").addEventListener("click", () => { showAll(); center(selected); });

  // -- search ------------------------------------------------------------------------------------------

  function showAll() {
    $("log-find").value = $("log-step").value = $("log-level").value = "";
    run++;
    hits = null;
    needle = "";
    count();
    resize();
  }

  function count(done) {
    const all = `${number.format(index.rows)} line${index.rows === 1 ? "" : "s"}`;
    const size = index.bytes > 1e6 ? `, ${sizeText(index.bytes)}` : "";
    const searching = done !== undefined && done < packed.length ? `, searching ${Math.floor((100 * done) / packed.length)} %` : "";
    $("log-count").textContent = hits ? `${number.format(hits.length)} of ${all}${searching}` : all + size;
  }

  async function search() {
    const mine = ++run;
    needle = $("log-find").value.toLowerCase();
    const step = $("log-step").value, level = $("log-level").value;
    if (!needle && !step && !level) return showAll();
    hits = [];
    top = 0;
    let shown = 0;
    for (let chunk = 0; chunk < packed.length; chunk++) {
      const text = kept.get(chunk)?.join("\n") ?? (await unpack(chunk));
      if (mine !== run) return;
      if (!needle || text.toLowerCase().includes(needle)) match(text, starts[chunk], step, level);
      if (performance.now() - shown > 120 || chunk === packed.length - 1) {
        shown = performance.now();
        count(chunk + 1);
        resize();
        await new Promise((resume) => setTimeout(resume));
        if (mine !== run) return;
      }
    }
  }

  function match(text, start, step, level) {
    text.split("\n").forEach((line, at) => {
      if (needle && !line.toLowerCase().includes(needle)) return;
      const found = parse(line);
      if (step && found.step !== +step) return;
      if (level && !level.includes(found.kind)) return;
      // The needle may have been in the fields before the text, or across a colour code.
      if (needle && !found.text.toLowerCase().includes(needle) && !found.tool.toLowerCase().includes(needle)) return;
      hits.push(start + at);
    });
  }

  let typing = 0;
  $("log-find").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 120);
  });
  for (const id of ["log-step", "log-level"]) $(id).addEventListener("change", search);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    $("log").scrollIntoView();
    $("log-find").focus({ preventScroll: true });
  });

  // -- the buttons -------------------------------------------------------------------------------------

  $("log-problem").hidden = !index.problems.length;
  $("log-problem").addEventListener("click", () => {
    if (hits) showAll();
    center(index.problems.find((row) => row > selected) ?? index.problems[0]);
  });
  $("log-save").addEventListener("click", async () => {
    const parts = [];
    for (let chunk = 0; chunk < packed.length; chunk++) {
      const rows = (await unpack(chunk)).split("\n").map(parse);
      parts.push(new Blob(rows.map((line) => `${clock(line.time)}\t${index.steps[line.step]}\t${line.tool}\t${line.text}\n`)));
    }
    const link = element("a", { href: URL.createObjectURL(new Blob(parts, { type: "text/plain" })), download: `${data.name}.log` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  });
  index.steps.forEach((name, step) => {
    if (name) $("log-step").append(element("option", { value: step }, name));
  });

  count();
  new ResizeObserver(resize).observe(view);
  // A build that failed is opened for its error: go there.
  const error = data.ok ? undefined : index.problems.at(-1);
  resize();
  if (error !== undefined) goTo(error - Math.floor(inSight() / 2));
}

if ($("log-view")) {
  if ("DecompressionStream" in window) makeLog();
  else $("log-count").textContent = "this browser is too old to unpack the log";
} else document.documentElement.dataset.ready = performance.now().toFixed(0);
