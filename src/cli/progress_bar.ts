/** A bar on a terminal, which is gone when the work is done; nothing elsewhere. */
export interface ProgressBar {
  update(done: number, total: number): void;
  stop(): void;
}

/**
 * @param format of cli-progress: {bar}, {value}, {total}, {percentage}, {eta_formatted}
 * @param unit what one of `value` and `total` is, e.g. 1e6 for megabytes of bytes
 */
export async function progressBar(format: string, unit = 1): Promise<ProgressBar> {
  if (!process.stderr.isTTY) return { update: () => {}, stop: () => {} };
  const { Presets, SingleBar } = await import('cli-progress');
  const bar = new SingleBar({ format, clearOnComplete: true, hideCursor: true }, Presets.shades_classic);
  return {
    update(done, total) {
      if (!bar.isActive) bar.start(Math.ceil(total / unit), 0);
      bar.update(Math.ceil(done / unit));
    },
    stop: () => bar.stop(),
  };
}
