/** What a checkpoint's weights have otherwise than the configured model, as one table with a line for all blocks that differ alike. */

type Shape = readonly number[];

export interface Difference {
  name: string;
  /** null: the model has no such weight. */
  expected: Shape | null;
  /** null: the checkpoint has no such weight. */
  found: Shape | null;
}

const ROWS = 16;
const text = (shape: Shape | null): string => (shape ? `[${shape.join(', ')}]` : '—');

/** The table's lines: how many of which kind, then weight, expected, found. */
export function differenceTable(differences: readonly Difference[]): string[] {
  const count = (is: (difference: Difference) => boolean) => differences.filter(is).length;
  const kinds: [number, string][] = [
    [count(({ found }) => !found), 'missing'],
    [count(({ expected, found }) => Boolean(expected && found)), 'of another shape'],
    [count(({ expected }) => !expected), 'that the model does not have'],
  ];
  const summary = kinds.filter(([number]) => number > 0).map(([number, kind]) => `${number} ${kind}`);
  const rows = grouped(differences);
  const table = [['weight', 'model', 'checkpoint'], ...rows.slice(0, ROWS)];
  const widths = [0, 1].map((column) => Math.max(...table.map((row) => row[column]!.length)));
  return [
    summary.join(', '),
    ...table.map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    ),
    ...(rows.length > ROWS ? [`… and ${rows.length - ROWS} lines more`] : []),
    ...hints(differences),
  ];
}

/** Weights of the same name in several blocks, with the same two shapes, are one row. */
function grouped(differences: readonly Difference[]): string[][] {
  const groups = new Map<string, { cells: [string, string, string]; blocks: number[] }>();
  for (const { name, expected, found } of differences) {
    const block = /\.layers\.(\d+)\./.exec(name)?.[1];
    const pattern = name.replace(/\.layers\.\d+\./, '.layers.*.');
    const key = [pattern, text(expected), text(found)].join();
    const group = groups.get(key) ?? { cells: [pattern, text(expected), text(found)], blocks: [] };
    if (block !== undefined) group.blocks.push(Number(block));
    groups.set(key, group);
  }
  return [...groups.values()].map(({ cells: [name, ...shapes], blocks }) => [
    name.replace('.layers.*.', `.layers.${ranges(blocks)}.`),
    ...shapes,
  ]);
}

/** 0,1,2,5 → {0-2,5}; a single one stands alone. */
function ranges(blocks: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const block of [...blocks].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && block === last[1] + 1) last[1] = block;
    else runs.push([block, block]);
  }
  const shown = runs.map(([from, to]) => (from === to ? String(from) : `${from}-${to}`)).join();
  return runs.length === 1 && runs[0]![0] === runs[0]![1] ? shown : `{${shown}}`;
}

function hints(differences: readonly Difference[]): string[] {
  const positions = differences.find(({ name }) => name.endsWith('embeddings.position_embedding.weight'));
  if (!positions?.expected || !positions.found) return [];
  const side = (shape: Shape) => Math.sqrt(shape[0]! - 1);
  const [wanted, has] = [side(positions.expected), side(positions.found)];
  if (!Number.isInteger(wanted) || !Number.isInteger(has) || wanted === has) return [];
  return [
    `the tower was trained on ${has}×${has} patches, and ${wanted}×${wanted} are configured: set model.mm_cfg.vision_encoder.image_size to its own size, or name the tower of the other size`,
  ];
}
