/** Check reports and records as text for a terminal. */
import type { CheckReport, LengthSummary } from './check.ts';
import type { ShownPiece, ShownRecord } from './show.ts';

const BAR = 40;

/** The report of `neva data check`: what was found, by kind, with the first of each; lengths as a bar chart. */
export function presentCheck(report: CheckReport): string {
  const { records, checked, good, bad, truncated, textOnly, images, problems } = report;
  const lines = [
    `${report.dataPath}: ${checked === records ? `${records} records` : `${checked} of ${records} records checked`}`,
    `  good       ${good}${textOnly > 0 ? `, ${textOnly} of them without a picture` : ''}`,
    `  bad        ${bad}`,
    `  cut        ${truncated}${truncated > 0 ? ' lose positions at the right' : ''}`,
    `  pictures   ${images.used} uses; ${images.decoded} decoded, ${images.remembered} known from an earlier check`,
  ];
  if (report.labels) lines.push(`  in the loss ${report.labels.mean.toFixed(1)} positions a record`);
  if (report.positions) lines.push('', 'Positions a record, image positions included', ...histogram(report.positions));
  const kinds = Object.entries(problems).sort(([, a], [, b]) => b.count - a.count);
  for (const [kind, { count, examples }] of kinds) {
    lines.push('', `${kind}: ${count}`);
    for (const { message } of examples) lines.push(...message.split('\n').map((line) => `  ${line}`));
    if (count > examples.length) lines.push(`  … and ${count - examples.length} more`);
  }
  if (report.refused) lines.push('', 'A training run would refuse these data.');
  return lines.join('\n');
}

function histogram({ min, mean, max, histogram: { upTo, counts } }: LengthSummary): string[] {
  const largest = Math.max(...counts);
  const width = String(max).length;
  const bars = counts.map((count, bin) => {
    const bar = '█'.repeat(Math.ceil((count / largest) * BAR));
    return `  ≤ ${String(upTo[bin]).padStart(width)} ${bar}${count > 0 ? ` ${count}` : ''}`;
  });
  return [`  least ${min}, mean ${mean.toFixed(1)}, most ${max}`, ...bars];
}

/** A record for the eye: what is in the loss stands out by colour, or between ⟦ ⟧ where there is none. */
export function presentRecord(record: ShownRecord, pieces: readonly ShownPiece[], colour: boolean): string {
  const [open, close] = colour ? ['\u001b[32m', '\u001b[39m'] : ['⟦', '⟧'];
  const runs: ShownPiece[] = [];
  for (const piece of pieces) {
    const last = runs.at(-1);
    if (last?.loss === piece.loss) last.text += piece.text;
    else runs.push({ ...piece });
  }
  const text = runs.map((run) => (run.loss ? `${open}${run.text}${close}` : run.text)).join('');
  const labelled = record.labels.filter((label) => label !== -100).length;
  return [
    `record ${record.index}, id ${record.id}, template ${record.template}`,
    ...record.images.map(({ path, width, height }) => `image ${path} (${width} × ${height})`),
    `${record.tokens.length} positions, ${labelled} in the loss${record.cut > 0 ? `; ${record.cut} cut off at the right` : ''}`,
    '',
    text,
  ].join('\n');
}
