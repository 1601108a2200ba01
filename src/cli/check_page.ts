/** The report of `neva data check` as a page: counts, problems by kind, and how long the records are. */
import type { CheckReport, LengthSummary } from '../data/check.ts';
import { type Chart, escapeHtml, page, table } from '../report/page.ts';

export function checkPage(report: CheckReport): string {
  const { records, checked, good, bad, truncated, textOnly, images, problems, positions, labels } = report;
  const counts: [string, string][] = [
    ['records', `${records}${checked < records ? `, ${checked} of them checked` : ''}`],
    ['template', report.template],
    ['good', String(good)],
    ['without a picture', String(textOnly)],
    ['cut at the right', String(truncated)],
    ['bad', String(bad)],
    ['pictures', `${images.used} uses, ${images.decoded} decoded, ${images.remembered} known from an earlier check`],
    ['a training run', report.refused ? 'would refuse these data' : 'would take these data'],
  ];
  if (positions) counts.push(['positions a record', spread(positions)]);
  if (labels) counts.push(['positions in the loss', spread(labels)]);
  const kinds = Object.entries(problems).sort(([, a], [, b]) => b.count - a.count);
  const found = kinds.map(([kind, { count, examples }]) => {
    const shown = escapeHtml(examples.map(({ message }) => message).join('\n\n'));
    return `<h2>${kind}: ${count}</h2><pre>${shown}</pre>`;
  });
  const charts = [
    ...(positions ? [histogram('Positions a record, image positions included', positions)] : []),
    ...(labels ? [histogram('Positions in the loss', labels)] : []),
  ];
  return page(report.dataPath, `${table('What was found', counts)}${found.join('')}`, [], charts);
}

const spread = ({ min, mean, max }: LengthSummary) => `least ${min}, mean ${mean.toFixed(1)}, most ${max}`;

const histogram = (title: string, { histogram: { upTo, counts } }: LengthSummary): Chart => ({
  title,
  series: ['records'],
  values: [counts],
  x: upTo,
  xLabel: 'up to',
  bars: true,
});
