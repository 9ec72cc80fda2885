// Draws every figure into its place; the figures lie beside them as JSON.
const touch = window.matchMedia("(pointer: coarse)").matches;
// A figure follows its place: a turned phone, a narrower window, a sheet of paper.
const follow = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
for (const source of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(source.dataset.chart);
  const { data, layout, views } = JSON.parse(source.textContent);
  // A finger that drags over a figure means to scroll the page.
  if (touch) layout.dragmode = false;
  Plotly.newPlot(place, data, layout, { displayModeBar: false }).then(() => follow.observe(place));
  const buttons = document.querySelectorAll(`[data-views="${place.id}"] button`);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      Plotly.relayout(place, views[button.textContent]);
    });
  }
}
