// Lines over the last minutes, as SVG: a legend with the newest values, a cross to read off with, a table of the numbers.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 210, LEFT = 38, RIGHT = 10, TOP = 8, BOTTOM = 24;
const MOST = 7; // colours there are

function make(tag, attributes = {}, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function html(tag, text = null, ...children) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  node.append(...children);
  return node;
}

function ceiling(value) {
  // The least of these times a power of ten that is not below the value: quarters of them are round numbers.
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 4, 8, 12].map((factor) => factor * power).find((top) => top >= value);
}

const shown = (value) => (value === null ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(1));

function ago(seconds) {
  if (seconds <= 0) return "now";
  return seconds >= 60 ? `${Math.floor(seconds / 60)} min${seconds % 60 ? ` ${seconds % 60} s` : ""} ago` : `${seconds} s ago`;
}

export class Plot {
  // figure: where to draw. empty: what to say while there is nothing to draw.
  constructor(figure, label, empty) {
    this.figure = figure;
    this.empty = empty;
    this.legend = html("ul");
    this.legend.className = "legend";
    this.svg = make("svg", { role: "img", "aria-label": label });
    this.body = html("tbody");
    this.headings = html("tr");
    const table = html("div", null, html("table", null, html("thead", null, this.headings), this.body));
    table.className = "scroll";
    table.tabIndex = 0;
    this.details = html("details", null, html("summary", "As a table"), table);
    this.details.addEventListener("toggle", () => this.tabulate());
    figure.append(this.legend, this.svg, this.details);
    this.series = [];
    this.step = 5;
    this.at = null;
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // series: [{name, values: [number or null, oldest first]}], of equal length.
  show(series, step) {
    this.series = series.slice(0, MOST);
    this.step = step;
    this.draw();
    this.tabulate();
  }

  get length() {
    return this.series.length ? this.series[0].values.length : 0;
  }

  x(index) {
    return LEFT + ((this.width - LEFT - RIGHT) * index) / Math.max(1, this.length - 1);
  }

  point(event) {
    if (event && this.length) {
      const position = event.clientX - this.svg.getBoundingClientRect().left;
      const index = Math.round(((position - LEFT) / (this.width - LEFT - RIGHT)) * (this.length - 1));
      this.at = Math.min(this.length - 1, Math.max(0, index));
    } else {
      this.at = null;
    }
    this.draw();
  }

  draw() {
    this.width = this.svg.clientWidth || 480;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren();
    const values = this.series.flatMap((line) => line.values).filter((value) => value !== null);
    this.details.hidden = values.length === 0;
    if (values.length === 0) {
      this.svg.append(make("text", { x: this.width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, this.empty));
      this.legend.replaceChildren();
      return;
    }
    const top = ceiling(Math.max(...values));
    const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * value) / top;
    for (let quarter = 0; quarter <= 4; quarter++) {
      const value = (top * quarter) / 4;
      this.svg.append(make("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y(value), y2: y(value) }));
      const text = Number.isInteger(top / 4) ? value.toFixed(0) : String(Number(value.toFixed(2)));
      this.svg.append(make("text", { x: LEFT - 7, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    const minutes = (this.length * this.step) / 60;
    for (let minute = 0; minute <= minutes; minute += 2) {
      const x = this.x(this.length - 1 - (minute * 60) / this.step);
      if (x < LEFT - 1) continue;
      const anchor = minute === 0 ? "end" : "middle";
      this.svg.append(make("text", { x, y: HEIGHT - 6, "text-anchor": anchor }, minute ? `−${minute} min` : "now"));
    }
    this.series.forEach((line, number) => this.svg.append(make("path", { class: `s${number}`, d: this.path(line.values, y) })));
    if (this.at !== null) {
      const x = this.x(this.at);
      this.svg.append(make("line", { class: "cross", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.label();
  }

  path(values, y) {
    let path = "", open = false;
    values.forEach((value, index) => {
      if (value !== null) {
        path += `${open ? "L" : "M"}${this.x(index).toFixed(1)} ${y(value).toFixed(1)}`;
        if (!open) path += "h0"; // a single one becomes a dot
      }
      open = value !== null;
    });
    return path;
  }

  label() {
    const at = this.at ?? this.length - 1;
    const items = this.series.map((line, number) => {
      const key = make("svg", { "aria-hidden": "true", viewBox: "0 0 24 10" });
      key.append(make("line", { class: `s${number}`, x1: 1, x2: 23, y1: 5, y2: 5 }));
      return html("li", null, key, html("span", line.name), html("b", shown(line.values[at])));
    });
    if (this.at !== null) items.push(html("li", ago((this.length - 1 - at) * this.step)));
    this.legend.replaceChildren(...items);
  }

  tabulate() {
    if (!this.details.open) return;
    this.headings.replaceChildren(...["when", ...this.series.map((line) => line.name)].map((text) => html("th", text)));
    const rows = [];
    for (let index = this.length - 1; index >= 0; index--) {
      if (this.series.every((line) => line.values[index] === null)) continue;
      const cells = this.series.map((line) => html("td", shown(line.values[index])));
      rows.push(html("tr", null, html("th", ago((this.length - 1 - index) * this.step)), ...cells));
    }
    this.body.replaceChildren(...rows);
  }
}
