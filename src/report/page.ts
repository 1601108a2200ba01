/** A page of tables and charts that needs nothing else. The charts are uPlot's, which is put into the page. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

export interface Chart {
  title: string;
  /** Names of the series; `values` has a row for each, null where a step has none. */
  series: string[];
  values: (number | null)[][];
  logarithmic?: boolean;
  /** Positions of the values, and what they are; the page's own (steps) without. */
  x?: number[];
  xLabel?: string;
  /** Bars instead of a line. */
  bars?: boolean;
}

/** Names and values, under a heading. */
export const table = (title: string, rows: readonly [string, string][]) =>
  `<h2>${title}</h2><table>${rows.map(([name, value]) => `<tr><th>${escapeHtml(name)}</th><td>${escapeHtml(value)}</td></tr>`).join('')}</table>`;

const ENTITIES: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };
export const escapeHtml = (text: string) => text.replace(/[&<>"]/g, (letter) => ENTITIES[letter]!);

/** JSON inside a script element must not be able to end it. */
const embedded = (value: unknown) => JSON.stringify(value).replaceAll('<', '\\u003c');

/** The page; `x` are the positions of every chart that has none of its own. */
export function page(title: string, body: string, x: readonly number[], charts: readonly Chart[]): string {
  const uplot = createRequire(import.meta.url).resolve('uplot/dist/uPlot.iife.min.js');
  const library = readFileSync(uplot, 'utf8');
  const style = readFileSync(uplot.replace('iife.min.js', 'min.css'), 'utf8');
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escapeHtml(title)}</title>
<style>
${style}
body { font: 15px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.2em; overflow-wrap: anywhere; } h2 { font-size: 1em; margin-top: 2em; }
th { text-align: left; font-weight: normal; color: #666; padding-right: 2em; vertical-align: top; white-space: nowrap; }
td, pre { font-family: ui-monospace, monospace; font-size: 0.9em; overflow-wrap: anywhere; }
</style>
<h1>${escapeHtml(title)}</h1>
${body}
<div id="charts"></div>
<script>${library}</script>
<script>
const x = ${embedded(x)};
const colours = ['#1f6feb', '#d1570a'];
for (const { title, series, values, logarithmic, x: own = x, xLabel = 'step', bars } of ${embedded(charts)}) {
  new uPlot({
    title, width: Math.min(940, innerWidth - 40), height: 260,
    scales: { x: { time: false }, y: logarithmic ? { distr: 3 } : {} },
    axes: [{}, { size: 70 }],
    series: [{ label: xLabel }, ...series.map((label, i) => ({
      label, stroke: colours[i], spanGaps: true, points: { show: label === 'validation' },
      ...(bars ? { paths: uPlot.paths.bars({ size: [0.9, 60] }), fill: colours[i] } : {}),
    }))],
  }, [own, ...values], document.getElementById('charts'));
}
</script>
</html>
`;
}
