// Draws every figure into its place; the figures lie beside them as JSON.
const options = {
  responsive: true,
  displaylogo: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
for (const source of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(source.dataset.chart);
  const { data, layout } = JSON.parse(source.textContent);
  Plotly.newPlot(place, data, layout, options);
}
// Paper is narrower than the screen: redraw for it, and back.
const redraw = () => document.querySelectorAll(".chart").forEach((place) => Plotly.Plots.resize(place));
window.addEventListener("beforeprint", redraw);
window.addEventListener("afterprint", redraw);
