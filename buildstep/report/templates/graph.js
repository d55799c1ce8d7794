
// A component that is pointed at, or chosen by a click or the keyboard, shows what it needs and what needs it.
{
  const graph = document.querySelector(".graph");
  const boxes = new Map([...graph.querySelectorAll(".box")].map((box) => [box.dataset.name, box]));
  const lines = [...graph.querySelectorAll(".lines path")];
  const near = { up: new Map(), down: new Map() };
  for (const [from, to] of data.edges) {
    near.up.set(to, [...(near.up.get(to) || []), from]);
    near.down.set(from, [...(near.down.get(from) || []), to]);
  }
  const reached = (name, way) => {
    const found = new Set([name]);
    for (const one of found) for (const other of near[way].get(one) || []) found.add(other);
    return found;
  };
  let chosen = null;
  const light = (name) => {
    graph.classList.toggle("some", name !== null);
    const up = name === null ? new Set() : reached(name, "up");
    const down = name === null ? new Set() : reached(name, "down");
    for (const [other, box] of boxes) {
      box.classList.toggle("on", other === name);
      box.classList.toggle("up", up.has(other));
      box.classList.toggle("down", down.has(other));
    }
    for (const line of lines) {
      line.classList.toggle("up", up.has(line.dataset.from) && up.has(line.dataset.to));
      line.classList.toggle("down", down.has(line.dataset.from) && down.has(line.dataset.to));
    }
  };
  const choose = (name) => {
    chosen = chosen === name ? null : name;
    light(chosen);
    if (chosen !== null) {
      const count = (way) => reached(name, way).size - 1;
      $("said").textContent = `${name}: needs ${count("up")}, needed by ${count("down")}`;
    }
  };
  for (const [name, box] of boxes) {
    box.addEventListener("pointerenter", () => { if (chosen === null) light(name); });
    box.addEventListener("pointerleave", () => { if (chosen === null) light(null); });
    box.addEventListener("click", (event) => { event.stopPropagation(); choose(name); });
    box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(name);
    });
  }
  graph.addEventListener("click", () => { if (chosen !== null) choose(chosen); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen !== null) choose(chosen); });
}
