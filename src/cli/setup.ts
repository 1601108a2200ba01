import type { Command } from 'commander';

export function define(command: Command): void {
  command
    .addHelpText(
      'after',
      `
LibTorch is looked for in NEVA_LIBTORCH, in the torch package of the python3 on PATH, and in .libtorch/ of neva's own
folder; if it is in none of them, pip fetches it into the last. CXX names another compiler.`,
    )
    .action(setup);
}

async function setup(): Promise<void> {
  const { ensureAddon } = await import('../engine/torch/build.ts');
  const { loadNative } = await import('../engine/torch/native.ts');
  const { buildJpeg, loadJpeg } = await import('../engine/jpeg.ts');
  const startedAt = performance.now();
  const say = (line: string) => console.error(line);
  await buildJpeg(say, { again: true });
  const { path, libtorch } = await ensureAddon(say);
  const { torch, cuda, gpus, nccl, cpuCapability } = loadNative().versions();
  const devices = cuda ? `, ${gpus} GPU${gpus === 1 ? '' : 's'}, with${nccl ? '' : 'out'} NCCL` : '';
  console.log(`LibTorch  ${libtorch.version} in ${libtorch.root} (${libtorch.source})`);
  console.log(`addon     ${path}`);
  console.log(`loads     torch ${torch}, CPU ${cpuCapability}${devices}`);
  const jpeg = loadJpeg();
  console.log(
    `JPEGs     ${jpeg ? `libjpeg-turbo ${jpeg.version}` : 'sharp; faster once the headers of libjpeg-turbo are installed'}`,
  );
  console.log(`Ready after ${((performance.now() - startedAt) / 1000).toFixed(1)} s.`);
}
