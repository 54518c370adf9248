// Aggregates of the rows and columns that are shown, as sslbench/leaderboard/aggregates.py has them.

// Ranks from 1, the highest value first; equal values share the mean of their places.
function ranks(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  const found = new Float64Array(values.length);
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let i = start; i < end; i += 1) found[order[i]] = (start + end + 1) / 2;
    start = end;
  }
  return found;
}

// Places from 1, the lowest value first; equal values share the better place.
function places(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return [...values].map((value) => sorted.indexOf(value) + 1);
}

function meanRanks(columns, rows) {
  const total = new Float64Array(rows);
  for (const column of columns) ranks(column).forEach((rank, i) => { total[i] += rank; });
  return total.map((sum) => sum / columns.length);
}

// Upper tail of the normal distribution: the complementary error function of Numerical Recipes 6.2.
function tail(z) {
  const t = 1 / (1 + Math.abs(z) / Math.SQRT2 / 2);
  const terms = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807,
    -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  const exponent = -z * z / 2 + terms.reduceRight((sum, term) => term + t * sum);
  const erfc = t * Math.exp(exponent);
  return (z >= 0 ? erfc : 2 - erfc) / 2;
}

// Of k - 1 rows against the best of k: against_best of sslbench/statistics.py.
function againstBest(p) {
  const order = p.map((_, i) => i).sort((a, b) => p[a] - p[b]);
  const adjusted = new Array(p.length);
  let largest = 0;
  order.forEach((i, step) => {
    const left = p.length + 1 - step;
    largest = Math.max(largest, (p[i] * left * (left - 1)) / 2);
    adjusted[i] = Math.min(largest, 1);
  });
  return adjusted;
}

function average(values) { return values.reduce((a, b) => a + b) / values.length; }

function deviation(values) {
  const mean = average(values);
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (values.length - 1));
}

// Tie groups, by mean ranks and what they are in each draw.
function tieGroups(meanRank, drawn, level) {
  const group = new Array(meanRank.length).fill(0);
  for (let number = 1; group.includes(0); number += 1) {
    const left = [...group.keys()].filter((row) => group[row] === 0);
    const best = left.reduce((a, b) => (meanRank[b] < meanRank[a] ? b : a));
    const others = left.filter((row) => row !== best);
    const p = others.map((row) => {
      const apart = meanRank[row] - meanRank[best];
      const spread = deviation(drawn.map((draw) => draw[row] - draw[best]));
      if (apart === 0) return 1;
      return spread > 0 ? 2 * tail(apart / spread) : 0;
    });
    const corrected = againstBest(p);
    group[best] = number;
    others.forEach((row, i) => { if (corrected[i] >= level) group[row] = number; });
  }
  return group;
}

// Of columns[c] = {values, chance, noise[draw]} over the same rows.
function aggregate(columns, level) {
  const rows = columns[0].values.length;
  const meanRank = meanRanks(columns.map((c) => c.values), rows);
  const rank = places(meanRank);
  const draws = columns[0].noise.length;
  const drawn = Array.from({ length: draws }, (_, d) => meanRanks(
    columns.map((c) => c.values.map((value, row) => value + c.noise[d][row])), rows));
  const drawnPlaces = drawn.map(places);
  const group = tieGroups(meanRank, drawn, level);
  const mean = (row, of) => columns.reduce((sum, c) => sum + of(c.values[row], c.chance), 0) / columns.length;
  return [...rank.keys()].map((row) => {
    const sorted = drawnPlaces.map((place) => place[row]).sort((a, b) => a - b);
    const at = (q) => sorted[Math.max(0, Math.ceil(q * draws) - 1)];
    const borda = columns.length * (rows - meanRank[row]);
    return {
      rank: rank[row],
      rankLow: Math.min(at(level / 2), rank[row]),
      rankHigh: Math.max(at(1 - level / 2), rank[row]),
      group: group[row],
      mean: mean(row, (value) => value),
      normalised: mean(row, (value, chance) => (value - chance) / (1 - chance)),
      borda,
      winRate: rows > 1 ? borda / (columns.length * (rows - 1)) : 1,
    };
  });
}

// Spearman's rank correlation; null for fewer than three points or without variation.
function spearman(x, y) {
  if (x.length < 3) return null;
  const [a, b] = [ranks(x), ranks(y)];
  const middle = (x.length + 1) / 2;
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 1) {
    ab += (a[i] - middle) * (b[i] - middle);
    aa += (a[i] - middle) ** 2;
    bb += (b[i] - middle) ** 2;
  }
  return aa > 0 && bb > 0 ? ab / Math.sqrt(aa * bb) : null;
}
