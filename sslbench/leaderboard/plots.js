// Each plot gives Plotly's traces and axes, and a sentence that says what it shows.

const PLOTS = {
  "Ranks": { draw: rankPlot },
  "Heat map": { draw: heatPlot },
  "Score against cost": { draw: costPlot, column: true },
  "Learning curves": { draw: curvePlot, column: true },
  "Pretraining loss against score": { draw: lossPlot, column: true },
};

function percent(column) { return column.share ? 100 : 1; }
function axis(column) { return `${column.task} on ${column.dataset}, ${column.unit}`; }

// Plotly reads tags such as <b> and <a>, and entities, in the texts that it draws.
function plain(text) { return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); }
function label(row) { return plain(row.label); }

function rankPlot({ rows }) {
  const ranked = rows.filter((row) => row.aggregate).sort((a, b) => b.aggregate.rank - a.aggregate.rank);
  if (!ranked.length) return { caption: "No column that is averaged is shared by all rows shown: no ranks." };
  const own = ranked.map((row) => row.aggregate);
  return {
    height: 120 + 24 * ranked.length,
    traces: [{
      type: "scatter", mode: "markers", name: "rank",
      x: own.map((a) => a.rank), y: ranked.map(label),
      error_x: {
        type: "data", symmetric: false,
        array: own.map((a) => a.rankHigh - a.rank), arrayminus: own.map((a) => a.rank - a.rankLow),
      },
      text: own.map((a) => `rank ${a.rank}, 95 %: ${a.rankLow} to ${a.rankHigh}, tie group ${a.group}`),
      hoverinfo: "y+text",
    }],
    layout: {
      xaxis: { title: { text: "rank" }, rangemode: "tozero", dtick: ranked.length > 20 ? 5 : 1 },
      yaxis: { type: "category" },
    },
    caption: `Ranks of ${ranked.length} rows by mean rank, with 95 % intervals over test examples and pretraining seeds. `
      + `Best group: ${ranked.filter((row) => row.aggregate.group === 1).map((row) => row.label).reverse().join(", ")}.`,
  };
}

function heatPlot({ rows, columns, score }) {
  const range = columns.map((column) => {
    const values = rows.map((row) => score(row, column)).filter((value) => value !== null);
    return [Math.min(...values), Math.max(...values)];
  });
  const scaled = rows.map((row) => columns.map((column, i) => {
    const value = score(row, column);
    const [low, high] = range[i];
    if (value === null || column.higher === null || low === high) return null;
    return (column.higher ? value - low : high - value) / (high - low);
  }));
  if (scaled.flat().every((value) => value === null)) {
    return { caption: "No column shown has a better direction and different scores in the rows shown." };
  }
  const shown = rows.map((row) => columns.map((column) => formatted(column, score(row, column))));
  return {
    height: 180 + 22 * rows.length,
    traces: [{
      type: "heatmap", z: scaled.reverse(), text: shown.reverse(),
      x: columns.map((column) => plain(`${column.task}/${column.dataset}`)), y: rows.map(label).reverse(),
      texttemplate: rows.length * columns.length <= 400 ? "%{text}" : "",
      hovertemplate: "%{y}<br>%{x}: %{text}<extra></extra>",
      colorbar: { title: { text: "worst to best" }, tickformat: ".0%" }, xgap: 1, ygap: 1,
    }],
    layout: { xaxis: { tickangle: -40, type: "category" }, yaxis: { type: "category" } },
    caption: "Scores as places between the worst and the best of their column in the rows shown; the better, the more intense. "
      + "A column without a better direction has no colour.",
  };
}

function costPlot({ rows, column, score, interval }) {
  const known = rows.filter((row) => row.seconds && score(row, column) !== null);
  if (!known.length) return { caption: "No row shown has a pretraining time and a score in this column." };
  const scale = percent(column);
  const values = known.map((row) => scale * score(row, column));
  const rho = spearman(known.map((row) => row.seconds), values);
  return {
    traces: [{
      type: "scatter", mode: known.length > 40 ? "markers" : "markers+text",
      x: known.map((row) => row.seconds), y: values, text: known.map(label),
      textposition: "top center", hovertemplate: "%{text}<br>%{x:.0f} s, %{y:.4g}<extra></extra>",
      error_y: {
        type: "data", symmetric: false, thickness: 1,
        array: known.map((row, i) => scale * (interval(row, column)?.[1] ?? 0) - values[i]).map((w) => Math.max(w, 0)),
        arrayminus: known.map((row, i) => values[i] - scale * (interval(row, column)?.[0] ?? Infinity)).map((w) => Math.max(w, 0)),
      },
    }],
    layout: { xaxis: { title: { text: "pretraining time in seconds" }, type: "log" }, yaxis: { title: { text: plain(axis(column)) } } },
    caption: `${known.length} rows with their pretraining time${said(rho, known.length)}`,
  };
}

function said(rho, n) {
  return rho === null ? "." : `; Spearman's correlation ${rho.toFixed(2)} over ${n} points.`;
}

// Of one column, by row: the checkpoints, each with its mean over the evaluation seeds.
function checkpointsOf(points, rows, column) {
  const found = new Map();
  for (let i = 0; i < points.row.length; i += 1) {
    const [row, seed, epochs, loss] = [points.row[i], points.seed[i], points.epochs[i], points.loss[i]];
    if (points.column[i] !== column.index || !rows.has(row)) continue;
    if (!found.has(row)) found.set(row, new Map());
    const own = found.get(row);
    const key = `${seed} ${epochs}`;
    if (!own.has(key)) own.set(key, { seed, epochs, loss, scores: [] });
    own.get(key).scores.push(percent(column) * points.value[i]);
  }
  return [...found].map(([row, own]) => [row, [...own.values()].map((one) => ({ ...one, score: average(one.scores) }))]);
}

function curvePlot({ rows, column, points }) {
  const byRow = new Map(rows.map((row) => [row.index, row]));
  const found = checkpointsOf(points, byRow, column).filter(
    ([, own]) => new Set(own.map((one) => one.epochs)).size > 1);
  if (!found.length) return { caption: "No row shown has checkpoints along its pretraining (checkpoints = [0.25, 0.5] in the grid)." };
  const traces = found.map(([index, own]) => {
    const epochs = [...new Set(own.map((one) => one.epochs))].sort((a, b) => a - b);
    const values = epochs.map((epoch) => own.filter((one) => one.epochs === epoch).map((one) => one.score));
    return {
      type: "scatter", mode: "lines+markers", name: label(byRow.get(index)), x: epochs,
      y: values.map(average),
      error_y: { type: "data", array: values.map((v) => (v.length > 1 ? deviation(v) : 0)), thickness: 1 },
    };
  });
  return {
    traces,
    layout: { xaxis: { title: { text: "epochs of pretraining" } }, yaxis: { title: { text: plain(axis(column)) } } },
    caption: `Scores of ${found.length} rows along their pretraining; bars are standard deviations over pretraining seeds.`,
  };
}

function lossPlot({ rows, column, points }) {
  const byRow = new Map(rows.map((row) => [row.index, row]));
  const found = checkpointsOf(points, byRow, column)
    .map(([index, own]) => [index, own.filter((one) => one.loss !== null)])
    .filter(([, own]) => own.length);
  if (!found.length) return { caption: "No row shown has a pretraining loss and a score in this column." };
  const correlations = [];
  const traces = found.map(([index, own]) => {
    const [x, y] = [own.map((one) => one.loss), own.map((one) => one.score)];
    const rho = spearman(x, y);
    const name = label(byRow.get(index));
    if (rho !== null) correlations.push(rho);
    return {
      type: "scatter", mode: "markers", x, y,
      name: rho === null ? name : `${name} (ρ = ${rho.toFixed(2)}, n = ${x.length})`,
      text: own.map((one) => `seed ${one.seed}, ${one.epochs} epochs`),
      hovertemplate: "%{text}<br>loss %{x:.4g}, %{y:.4g}<extra>%{fullData.name}</extra>",
    };
  });
  const lower = correlations.filter((rho) => (column.higher === false ? rho > 0 : rho < 0)).length;
  const all = found.flatMap(([, own]) => own);
  const rho = spearman(all.map((one) => one.loss), all.map((one) => one.score));
  const within = correlations.length
    ? `Within a row, a lower loss goes with a better score in ${lower} of ${correlations.length} rows with three checkpoints or more. `
    : "No row has three checkpoints for a correlation within it. ";
  const across = rho === null ? "" : `Over all ${all.length} checkpoints Spearman's ρ is ${rho.toFixed(2)}; losses of different methods are not on one scale. `;
  return {
    traces,
    layout: { xaxis: { title: { text: "pretraining loss" } }, yaxis: { title: { text: plain(axis(column)) } } },
    caption: within + across,
  };
}
