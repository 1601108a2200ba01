/** The C++ compiler: finding it, and having it write one file. */
import { renameSync, rmSync, utimesSync } from 'node:fs';
import { mistake } from '../../errors.ts';
import { besideName } from '../../files.ts';
import { type Environment, findProgram, runProgram } from './tools.ts';

export interface Compiler {
  program: string;
  /** What stands in CXX after the program: `ccache g++` has one. */
  args: string[];
}

/** The compiler named by CXX, or the first of the usual ones on PATH; null if there is none. */
export function findCompiler(env: Environment = process.env): Compiler | null {
  const named = env.CXX?.trim();
  if (named) {
    const [name = '', ...args] = named.split(/\s+/);
    const program = findProgram(name, env);
    if (program) return { program, args };
    throw mistake({
      where: 'CXX',
      problem: 'there is no such compiler',
      found: named,
      fix: 'correct CXX, or unset it to let neva take g++ or clang++ from PATH',
    });
  }
  const usual = process.platform === 'darwin' ? ['clang++', 'g++', 'c++'] : ['g++', 'clang++', 'c++'];
  for (const name of usual) {
    const program = findProgram(name, env);
    if (program) return { program, args: [] };
  }
  return null;
}

/** Has the compiler write `output` beside and renames it; its time is that of the start, so later edits count as newer. */
export async function makeFile(
  compiler: Compiler,
  output: string,
  args: readonly string[],
  name: string,
): Promise<void> {
  const beside = besideName(output);
  const startedAt = new Date();
  try {
    const run = await runProgram(compiler.program, [...compiler.args, ...args, '-o', beside]);
    if (run.status !== 0) {
      throw new Error(`${compiler.program} could not build ${name} (status ${run.status}):\n${run.output.trim()}`);
    }
    utimesSync(beside, startedAt, startedAt);
    renameSync(beside, output);
  } finally {
    rmSync(beside, { force: true });
  }
}
