/** The candidates that someone who typed `word` most likely meant, best first; none when nothing is close. */
export function nearest(word: string, candidates: Iterable<string>, most = 3): string[] {
  const leaf = lastPart(word);
  const scored: { name: string; score: number }[] = [];
  for (const name of new Set(candidates)) {
    const end = lastPart(name);
    const whole = distance(word, name);
    const part = distance(leaf, end);
    // A right leaf under a wrong parent is close too; between two, the one with the nearer parent wins.
    const score = Math.min(whole, leaf.length > 2 ? part + 0.5 + whole / 100 : whole);
    const allowed = Math.max(1, Math.floor((score < whole ? leaf.length : word.length) / 4));
    if (score <= allowed + 0.99) scored.push({ name, score });
  }
  scored.sort((a, b) => a.score - b.score || a.name.localeCompare(b.name));
  const best = scored[0]?.score ?? 0;
  return scored
    .filter(({ score }) => score <= best + 1)
    .slice(0, most)
    .map(({ name }) => name);
}

function lastPart(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1);
}

/** Edits (insert, delete, replace, swap neighbours) between two words, letter case aside. */
export function distance(left: string, right: string): number {
  const [a, b] = [left.toLowerCase(), right.toLowerCase()];
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        cost = Math.min(cost, (before[j - 2] ?? 0) + 1);
      next.push(cost);
    }
    before = row;
    row = next;
  }
  return row[b.length] ?? 0;
}
