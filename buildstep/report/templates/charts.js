
// The treemap of files: a squarified layout, as deep as there is room; a folder opens on click.
// Each row is a path, a size and, where files differ in what became of them, a word for that and a note; a
// folder has the word that all in it have.
function fileTree(files) {
  const root = { name: "/", size: 0, children: new Map(), parent: null };
  for (const [path, size, word, note] of files) {
    let node = root;
    root.size += size;
    for (const part of path.split("/").filter(Boolean)) {
      if (!node.children.has(part)) node.children.set(part, { name: part, size: 0, children: new Map(), parent: node });
      node = node.children.get(part);
      node.size += size;
      node.word = node.word === undefined || node.word === word ? word : null;
    }
    node.note = note;
  }
  return root;
}

// A folder with nothing but one folder in it is shown as one: usr/lib/x86_64-linux-gnu.
function folded(node) {
  let name = node.name;
  while (node.children.size === 1) {
    const [only] = node.children.values();
    if (!only.children.size) break;
    name += `/${only.name}`;
    node = only;
  }
  return { node, name };
}

// Rows of cells as near to squares as can be (Bruls, Huizing, van Wijk), largest first.
function squarify(items, x, y, width, height) {
  const total = items.reduce((sum, item) => sum + item.size, 0);
  const cells = [];
  if (!total || width < 1 || height < 1) return cells;
  const scale = (width * height) / total;
  let rest = items.filter((item) => item.size > 0).sort((a, b) => b.size - a.size);
  const worst = (row, sum, side) =>
    Math.max((side * side * row[0].size * scale) / (sum * sum), (sum * sum) / (side * side * row.at(-1).size * scale));
  while (rest.length) {
    const side = Math.min(width, height);
    let row = [rest[0]], sum = rest[0].size * scale;
    for (const item of rest.slice(1)) {
      const wider = sum + item.size * scale;
      if (worst([...row.slice(0, 1), item], wider, side) > worst(row, sum, side)) break;
      row.push(item);
      sum = wider;
    }
    const depth = sum / side;
    let at = 0;
    for (const item of row) {
      const length = (item.size * scale) / depth;
      cells.push(width >= height
        ? { item, x, y: y + at, width: depth, height: length }
        : { item, x: x + at, y, width: length, height: depth });
      at += length;
    }
    if (width >= height) { x += depth; width -= depth; } else { y += depth; height -= depth; }
    rest = rest.slice(row.length);
  }
  return cells;
}

function fitted(text, width, pixels) {
  const room = Math.floor(width / pixels);
  return text.length <= room ? text : room > 4 ? `${text.slice(0, room - 1)}…` : "";
}

const treemap = $("treemap");
if (treemap) {
  const root = fileTree(data.files);
  let open = folded(root).node;

  function cellOf(cell, hue, depth, redraw) {
    const { node, name } = folded(cell.item);
    const folder = node.children.size > 0;
    const nested = folder && depth < 4 && cell.width > 60 && cell.height > 52;
    const shown = folder ? `${name}/` : name;
    const group = svg("g", { class: `${(!nested && node.word) || `h${hue}`} ${folder ? "folder" : "file"} d${depth}` });
    group.append(
      svg("title", {}, `${pathOf(node)}${folder ? "/" : ""}\n${(!folder && node.note) || sizeText(cell.item.size)}`),
      svg("rect", { x: cell.x, y: cell.y, width: cell.width, height: cell.height, rx: 3 }),
    );
    if (cell.width > 44 && cell.height > 18) {
      group.append(svg("text", { x: cell.x + 6, y: cell.y + 14 }, fitted(shown, cell.width - 10, folder ? 7.4 : 6.8)));
      const beside = cell.width - 12 - shown.length * 7.4;
      const size = sizeText(cell.item.size);
      if (nested && beside > size.length * 7) {
        group.append(svg("text", { class: "size", x: cell.x + cell.width - 6, y: cell.y + 14, "text-anchor": "end" }, size));
      } else if (!nested && cell.height > 34 && cell.width > 58) {
        group.append(svg("text", { class: "size", x: cell.x + 6, y: cell.y + 29 }, size));
      }
    }
    if (folder) {
      group.setAttribute("tabindex", "0");
      group.setAttribute("role", "button");
      group.setAttribute("aria-label", `open ${shown}, ${sizeText(cell.item.size)}`);
      const enter = (event) => {
        if (event.type === "keydown" && !["Enter", " "].includes(event.key)) return;
        event.preventDefault();
        event.stopPropagation();
        open = node;
        redraw();
      };
      group.addEventListener("click", enter);
      group.addEventListener("keydown", enter);
      if (nested) {
        const inside = squarify([...node.children.values()], cell.x + 3, cell.y + 20, cell.width - 6, cell.height - 23);
        for (const child of inside) if (child.width > 3 && child.height > 3) group.append(cellOf(child, hue, depth + 1, redraw));
      }
    }
    return group;
  }

  function pathOf(node) {
    return node.parent ? `${node.parent.parent ? pathOf(node.parent) : ""}/${node.name}` : "/";
  }

  function crumbs(redraw) {
    const parts = [];
    for (let node = open; node; node = node.parent) parts.unshift(node);
    const line = $("crumbs");
    line.replaceChildren();
    parts.forEach((node, index) => {
      if (index > 1) line.append(" / ");
      const name = node.parent ? node.name : "/ ";
      if (node === open) return line.append(element("b", {}, name), ` ${sizeText(node.size)}`);
      const button = element("button", { type: "button" }, name);
      button.addEventListener("click", () => { open = node; redraw(); });
      line.append(button);
    });
  }

  const draw = () => {
    const width = treemap.clientWidth, height = treemap.clientHeight;
    crumbs(draw);
    const cells = squarify([...open.children.values()], 0, 0, width, height);
    const map = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": treemap.dataset.label || "files added, by size" });
    cells.forEach((cell, index) => {
      if (cell.width > 2 && cell.height > 2) map.append(cellOf(cell, index % 8, 0, draw));
    });
    treemap.replaceChildren(map);
  };
  drawn(treemap, draw);
}

// The trend: one line, from zero, so that a step looks as large as it is.
function niceStep(top) {
  const power = 10 ** Math.floor(Math.log10(top / 3));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => top / step <= 4);
}

for (const target of document.querySelectorAll("[data-trend]")) {
  const key = target.dataset.trend;
  const text = key === "size" ? sizeText : timeText;
  const unit = key === "size" ? 1024 ** Math.min(3, Math.floor(Math.log(Math.max(...data.trend.map((row) => row.size || 1))) / Math.log(1024))) : 1;
  drawn(target, (width, height) => {
    const left = 62, right = 14, upper = 22, lower = 20;
    const values = data.trend.map((row) => row[key]);
    const top = Math.max(...values.filter((value) => value !== null), unit / 1000) * 1.08;
    const x = (index) => left + (index * (width - left - right)) / Math.max(1, values.length - 1);
    const y = (value) => upper + (1 - value / top) * (height - upper - lower);
    const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${key === "size" ? "image size" : "time"} of ${values.length} builds` });
    const step = niceStep(top / unit) * unit;
    for (let mark = 0; mark <= top; mark += step) {
      chart.append(
        svg("line", { class: "rule", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }),
        svg("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, mark ? text(mark) : "0"),
      );
    }
    const points = values.map((value, index) => [x(index), value, index]).filter(([, value]) => value !== null);
    const line = points.map(([px, value]) => `${px.toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    if (points.length) {
      chart.append(
        svg("polygon", { class: "area", points: `${points[0][0]},${y(0)} ${line} ${points.at(-1)[0]},${y(0)}` }),
        svg("polyline", { class: "line", points: line }),
      );
    }
    const radius = values.length > width / 14 ? 2 : 3.5;
    for (const [px, value, index] of points) {
      const row = data.trend[index];
      chart.append(svg("circle", { cx: px, cy: y(value), r: radius, class: row.ok ? "" : "bad" },
        svg("title", {}, `${row.version}, ${new Date(row.started * 1000).toLocaleString()}\n${text(value)}${row.ok ? "" : ", failed"}`)));
    }
    if (points.length) {
      const [px, value] = points.at(-1);
      chart.append(svg("text", { class: "last", x: px + 4, y: y(value) - 9, "text-anchor": "end" }, text(value)));
    }
    const day = (row) => new Date(row.started * 1000).toLocaleDateString();
    chart.append(
      svg("text", { x: left, y: height - 4 }, day(data.trend[0])),
      svg("text", { x: width - right, y: height - 4, "text-anchor": "end" }, day(data.trend.at(-1))),
    );
    target.replaceChildren(chart);
  });
}
