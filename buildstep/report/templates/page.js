
"use strict";
// Small helpers, and what is not a chart and not the log: theme, copy buttons, filters, the section marks.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const number = new Intl.NumberFormat("en");

function sizeText(bytes) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (bytes < 1024) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} GiB`;
}

function timeText(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return whole < 3600
    ? `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`
    : `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A browser may refuse storage to a page opened from a file: then the choice lasts for the visit.
function remembered(value) {
  try {
    if (value === undefined) return localStorage.getItem("buildstep-theme");
    localStorage.setItem("buildstep-theme", value);
  } catch { /* not kept */ }
  return null;
}

function setTheme(theme) {
  document.documentElement.style.colorScheme = theme;
}

if (["light", "dark"].includes(remembered())) setTheme(remembered());
$("theme").addEventListener("click", () => {
  const chosen = document.documentElement.style.colorScheme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(dark ? "light" : "dark");
  remembered(dark ? "light" : "dark");
});

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("said").textContent = "copied";
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await copyText(button.dataset.copy);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
});

for (const input of document.querySelectorAll("[data-filter]")) {
  const rows = [...$(input.dataset.filter).rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word));
      shown += !row.hidden;
    });
    const all = number.format(rows.length);
    $(input.dataset.count).textContent = words.length ? `${number.format(shown)} of ${all}` : all;
  });
}

const links = new Map([...document.querySelectorAll(".jump a")].map((link) => [link.hash.slice(1), link]));
const inView = new Set();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) inView[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  const here = [...links.keys()].find((id) => inView.has(id));
  for (const [id, link] of links) link.classList.toggle("here", id === here);
}, { rootMargin: "-80px 0px -70% 0px" });
for (const id of links.keys()) if ($(id)) seen.observe($(id));

// Drawn at the size there is, and again when that changes: text keeps its size at every width.
function drawn(target, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(target.clientWidth - width) < 1) return;
    width = target.clientWidth;
    draw(target.clientWidth, target.clientHeight);
  }).observe(target);
}
