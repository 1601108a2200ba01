/** The GPUs of this machine, as NVIDIA's driver tells them. */
import { ask, findProgram } from './tools.ts';

export interface Gpu {
  name: string;
  memoryMiB: number;
  driver: string;
}

/** None where there is no driver. */
export function findGpus(): Gpu[] {
  if (!findProgram('nvidia-smi')) return [];
  const rows = ask('nvidia-smi', ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader,nounits']);
  return (rows ?? '')
    .split('\n')
    .filter((row) => row !== '')
    .map((row) => {
      const [name = '', memory = '', driver = ''] = row.split(',').map((cell) => cell.trim());
      return { name, memoryMiB: Number(memory), driver };
    });
}
