/** `neva download`: a model of the Hugging Face hub into its local cache. Nothing else of neva fetches models. */
import type { Command } from 'commander';

export function define(command: Command): void {
  command
    .argument('<name...>', 'ORGANISATION/NAME, or ORGANISATION/NAME@REVISION (a branch, a tag or a commit)')
    .option('--json', 'print one JSON object for each: folder, commit, files, bytes')
    .addHelpText(
      'after',
      `
Settings, tokenizer and weights, into the cache of huggingface_hub (HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub); weights that are
there twice as safetensors alone. An interrupted download goes on where it stopped, and every file is checked against its hash. From
then on the name stands wherever neva takes a model: model.mm_cfg.llm.from_pretrained=ORGANISATION/NAME.

HF_TOKEN (or the token that \`hf auth login\` keeps) opens private and gated models; HF_ENDPOINT names another hub.`,
    )
    .action(download);
}

async function download(names: string[], { json }: { json?: boolean }): Promise<void> {
  const { downloadModel } = await import('../checkpoint/hub_download.ts');
  const { progressBar } = await import('./progress_bar.ts');
  for (const name of names) {
    const bar = await progressBar(`${name} {bar} {value}/{total} MB, {eta_formatted} left`, 1e6);
    const say = (line: string) => (process.stderr.isTTY ? undefined : console.error(line));
    const found = await downloadModel(name, { onProgress: bar.update, say }).finally(bar.stop);
    console.log(
      json ? JSON.stringify({ name, ...found }) : `${name}  ${(found.bytes / 1e9).toFixed(2)} GB  ${found.folder}`,
    );
  }
}
