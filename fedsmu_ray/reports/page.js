"use strict";
// Draws the figures in the colors of the page, and hides and shows settings in all of them.
const figures = JSON.parse(document.getElementById("figures").textContent);
const hidden = new Set();

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function axis(given) {
  return { ...given, gridcolor: color("--line"), linecolor: color("--soft"), showline: true };
}

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    const layout = {
      ...figure.layout,
      font: { family: "system-ui, sans-serif", size: 12, color: color("--ink") },
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--line"), activecolor: color("--soft") },
    };
    const data = figure.data.map((trace) => ({ ...trace, visible: !hidden.has(trace.meta) }));
    Plotly.react(id, data, layout, {
      responsive: true,
      displaylogo: false,
      toImageButtonOptions: { format: "svg", filename: id },
    });
  }
}

for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const name = button.dataset.setting;
    if (!hidden.delete(name)) hidden.add(name);
    for (const other of document.querySelectorAll(".legend button")) {
      other.setAttribute("aria-pressed", String(!hidden.has(other.dataset.setting)));
    }
    draw();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
