const MARGIN = { left: 58, right: 16, top: 26, bottom: 44 };
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

class Plot {
  // Positions are shares u, v of the axes; the view maps u to k·u + x and v to k·v + y.
  constructor(figure) {
    this.figure = figure;
    this.svg = figure.querySelector("svg.plot");
    this.view = figure.querySelector(".view");
    this.tip = figure.querySelector(".tip");
    this.k = 1; this.x = 0; this.y = 0;
    for (const button of all("button[data-zoom]", figure))
      button.addEventListener("click", () => this.zoom(Number(button.dataset.zoom)));
    this.svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, ...this.share(event));
    }, { passive: false });
    this.svg.addEventListener("dblclick", (event) => this.zoom(2, ...this.share(event)));
    this.view.addEventListener("keydown", (event) => this.key(event));
    this.drag();
    for (const point of all(".point", this.svg)) {
      for (const start of ["pointerenter", "focus"]) point.addEventListener(start, () => this.tell(point));
      for (const end of ["pointerleave", "blur"]) point.addEventListener(end, () => { this.tip.hidden = true; });
      point.addEventListener("click", (event) => { event.preventDefault(); choose(point, this.figure); });
    }
    this.draw();
    new ResizeObserver(() => {
      if (this.view.clientWidth !== this.width) requestAnimationFrame(() => this.draw());
    }).observe(this.view);
  }

  size() {
    const width = Math.max(260, this.view.clientWidth);
    return [width, Math.round(Math.min(460, Math.max(300, width * 0.6)))];
  }

  share(event) {
    const box = this.svg.getBoundingClientRect();
    const [width, height] = this.size();
    return [(event.clientX - box.left - MARGIN.left) / (width - MARGIN.left - MARGIN.right),
            (event.clientY - box.top - MARGIN.top) / (height - MARGIN.top - MARGIN.bottom)];
  }

  zoom(factor, u = 0.5, v = 0.5) {
    const before = this.k;
    this.k = factor ? Math.min(40, Math.max(1, this.k * factor)) : 1;
    this.move(u - (u - this.x) * this.k / before, v - (v - this.y) * this.k / before);
  }

  move(x, y) {
    this.x = Math.min(0, Math.max(1 - this.k, x));
    this.y = Math.min(0, Math.max(1 - this.k, y));
    this.view.classList.toggle("zoomed", this.k > 1);
    this.draw();
  }

  key(event) {
    const step = 0.15;
    const actions = {
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.zoom(0),
      ArrowLeft: () => this.move(this.x + step, this.y), ArrowRight: () => this.move(this.x - step, this.y),
      ArrowUp: () => this.move(this.x, this.y + step), ArrowDown: () => this.move(this.x, this.y - step),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow") && this.k === 1) return;
    event.preventDefault();
    action();
  }

  drag() {
    let last = null;
    this.view.addEventListener("pointerdown", (event) => {
      if (this.k > 1 && !event.target.closest(".point")) { last = this.share(event); this.view.setPointerCapture(event.pointerId); }
    });
    this.view.addEventListener("pointermove", (event) => {
      if (!last) return;
      const now = this.share(event);
      this.move(this.x + now[0] - last[0], this.y + now[1] - last[1]);
      last = now;
    });
    for (const end of ["pointerup", "pointercancel"]) this.view.addEventListener(end, () => { last = null; });
  }

  tell(point) {
    this.tip.textContent = point.dataset.tell;
    this.tip.hidden = false;
    const box = point.getBoundingClientRect(), home = this.view.getBoundingClientRect();
    const left = box.left + box.width / 2 - home.left - this.tip.offsetWidth / 2;
    const above = box.top - home.top - this.tip.offsetHeight - 6;
    this.tip.style.left = `${Math.max(0, Math.min(home.width - this.tip.offsetWidth, left))}px`;
    this.tip.style.top = `${above > 0 ? above : box.bottom - home.top + 6}px`;
  }

  draw() {
    const [width, height] = this.size();
    this.width = this.view.clientWidth;
    const w = width - MARGIN.left - MARGIN.right, h = height - MARGIN.top - MARGIN.bottom;
    const X = (u) => MARGIN.left + (this.k * u + this.x) * w;
    const Y = (v) => MARGIN.top + (this.k * v + this.y) * h;
    const bottom = height - MARGIN.bottom, right = width - MARGIN.right;
    const set = (element, values) => { for (const [name, value] of Object.entries(values)) element.setAttribute(name, value); };
    const within = (value, low, high) => value >= low - 0.5 && value <= high + 0.5;
    set(this.svg, { viewBox: `0 0 ${width} ${height}`, width, height });
    set(this.svg.querySelector("clipPath rect"), { width: w, height: h });
    set(this.svg.querySelector(".frame"), { d: `M${MARGIN.left} ${MARGIN.top}V${bottom}H${right}` });
    set(this.svg.querySelector("text.name.x"), { x: MARGIN.left + w / 2, y: height - 6 });
    this.ticks("x", 44, (tick) => X(tick.dataset.u), (at) => within(at, MARGIN.left, right), (tick, at) => {
      set(tick.firstChild, { x1: at, x2: at, y1: MARGIN.top, y2: bottom });
      set(tick.lastChild, { x: at, y: bottom + 17 });
    });
    this.ticks("y", 26, (tick) => Y(tick.dataset.v), (at) => within(at, MARGIN.top, bottom), (tick, at) => {
      set(tick.firstChild, { x1: MARGIN.left, x2: right, y1: at, y2: at });
      set(tick.lastChild, { x: MARGIN.left - 7, y: at });
    });
    for (const tol of all(".tol", this.svg)) {
      const at = X(tol.dataset.u);
      set(tol.firstChild, { x1: at, x2: at, y1: MARGIN.top, y2: bottom });
      set(tol.lastChild, { x: at - 4, y: MARGIN.top + 11 });
    }
    for (const path of all(".front", this.svg)) {
      const corners = path.dataset.path.split(" ").map((pair) => pair.split(",").map(Number));
      set(path, { d: "M" + corners.map(([u, v]) => `${X(u)} ${Y(v)}`).join("L") });
    }
    for (const bar of all(".bar", this.svg)) {
      const at = X(bar.dataset.u);
      set(bar, { x1: at, x2: at, y1: Y(bar.dataset.v), y2: Y(bar.dataset.w) });
    }
    for (const level of all(".level", this.svg)) {
      const at = Y(level.dataset.v);
      set(level.firstChild, { x1: MARGIN.left, x2: right, y1: at, y2: at });
      set(level.lastChild, { x: MARGIN.left + 8, y: at - 5 });
    }
    const points = all(".point", this.svg);
    for (const point of points) {
      const x = X(point.dataset.u), y = Y(point.dataset.v);
      set(point, { transform: `translate(${x} ${y})` });
      point.toggleAttribute("hidden", !(within(x, MARGIN.left, right) && within(y, MARGIN.top, bottom)));
    }
    this.label(points.filter((point) => !point.hasAttribute("hidden")), right);
  }

  ticks(axis, apart, place, visible, draw) {
    const taken = [];
    const ticks = all(`.tick.${axis}`, this.svg).sort((a, b) => a.dataset.rank - b.dataset.rank);
    for (const tick of ticks) {
      const at = place(tick);
      const free = visible(at) && taken.every((other) => Math.abs(other - at) >= apart);
      tick.toggleAttribute("hidden", !free);
      if (free) { taken.push(at); draw(tick, at); }
    }
  }

  // A label takes the first of four places that covers neither a point nor another label.
  label(points, right) {
    const marks = points.map((point) => {
      const at = point.transform.baseVal[0].matrix;
      return { point, x: at.e, y: at.f, text: point.querySelector("text") };
    });
    const taken = marks.map(({ x, y }) => [x - 8, y - 8, x + 8, y + 8]);
    marks.sort((a, b) => b.point.classList.contains("on") - a.point.classList.contains("on"));
    for (const { x, y, text } of marks) {
      text.removeAttribute("hidden");
      const width = text.getComputedTextLength(), height = 12;
      const places = [[11, -7], [11, 15], [-11 - width, -7], [-11 - width, 15]];
      const free = places.find(([dx, dy]) => {
        const box = [x + dx, y + dy - height, x + dx + width, y + dy + 3];
        return box[0] > MARGIN.left && box[2] < right + MARGIN.right && taken.every((o) => box[2] < o[0] || box[0] > o[2] || box[3] < o[1] || box[1] > o[3]);
      });
      text.toggleAttribute("hidden", !free);
      if (!free) continue;
      text.setAttribute("x", free[0]);
      text.setAttribute("y", free[1]);
      taken.push([x + free[0], y + free[1] - height, x + free[0] + width, y + free[1] + 3]);
    }
  }
}

function choose(point, figure) {
  const row = document.querySelector(point.getAttribute("href"));
  for (const other of all(".point.chosen")) other.classList.remove("chosen");
  point.classList.add("chosen");
  const panel = document.querySelector("#chosen");
  panel.replaceChildren(...all(":scope > *", row).map((child) => {
    const copy = child.cloneNode(true);
    if (copy.tagName !== "SUMMARY") return copy;
    const title = document.createElement("h3");
    title.textContent = copy.textContent;
    return title;
  }));
  panel.hidden = false;
  figure.after(panel);
  panel.focus({ preventScroll: true });
  panel.scrollIntoView({ block: "nearest" });
}

function sortable(table) {
  for (const [column, button] of all("thead button", table).entries()) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const body = table.tBodies[0];
      const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const both = !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y);
        return ascending ? both : -both;
      };
      body.append(...[...body.rows].sort(order));
    });
  }
}

function filtered(table) {
  const words = document.querySelector("#filter"), front = document.querySelector("#only-front");
  const count = document.querySelector("#count");
  const apply = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (front.checked && !row.classList.contains("front")) || !wanted.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  };
  words.addEventListener("input", apply);
  front.addEventListener("change", apply);
  apply();
}

for (const tools of all(".tools, figure button")) tools.hidden = false;
for (const figure of all("figure")) new Plot(figure);
sortable(document.querySelector("#measured"));
filtered(document.querySelector("#measured"));
