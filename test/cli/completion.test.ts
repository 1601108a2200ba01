/** Completion: the words that are offered, and the scripts in the shells that this machine has. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { neva, nevaArgs } from './neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-completion-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const offered = (...words: string[]) => {
  const { status, stdout, stderr } = neva(['__complete', '--', ...words]);
  assert.deepEqual([status, stderr], [0, '']);
  return stdout.split('\n').slice(0, -1);
};

test('verbs, flags, configurations, groups, keys and values are offered where they may stand', () => {
  assert.deepEqual(offered('pre'), ['pretrain']);
  assert.ok(!offered('').includes('__complete'));
  assert.deepEqual(offered('config', 'd'), ['docs']);
  assert.deepEqual(offered('pretrain', '--config-'), ['--config-name', '--config-path', '--config-dir']);
  assert.ok(!offered('pretrain', '--').includes('--job-folder'));
  assert.deepEqual(offered('pretrain', '-cn', 'neva_f'), ['neva_finetune']);
  assert.deepEqual(offered('pretrain', '--info', 'def'), ['defaults', 'defaults-tree']);
  assert.deepEqual(offered('pretrain', '-m', 'model=llama2_1'), ['model=llama2_13b']);
  assert.deepEqual(offered('pretrain', '+recipe=nemo_p'), ['+recipe=nemo_pretrain_13b', '+recipe=nemo_pretrain_7b']);
  assert.deepEqual(offered('pretrain', 'trainer.preci'), ['trainer.precision=']);
  assert.deepEqual(offered('pretrain', 'trainer.precision=b'), ['trainer.precision=bf16']);
  assert.deepEqual(offered('pretrain', 'exp_manager.resume_if_exists='), [
    'exp_manager.resume_if_exists=true',
    'exp_manager.resume_if_exists=false',
  ]);
  assert.deepEqual(offered('pretrain', 'model.opt'), ['model.optim.']);
  assert.deepEqual(offered('pretrain', 'data.data_path=x'), [':files data.data_path=']);
  assert.deepEqual(offered('pretrain', '--config-dir', ''), [':files ']);
  assert.deepEqual(offered('config', 'docs', 'trainer.preci'), ['trainer.precision']);
  assert.deepEqual(offered('convert-checkpoint', '--to', 'hf'), ['hf', 'hf-new']);
  assert.deepEqual(offered('launch', '--nproc', '2', 'pre'), ['pretrain']);
  assert.deepEqual(offered('launch', '--nproc', '2', 'pretrain', 'trainer.preci'), ['trainer.precision=']);
  assert.deepEqual(offered('completion', 'z'), ['zsh']);
  assert.deepEqual(offered('no-such-verb', ''), []);
});

test('groups of a folder of your own are offered too', () => {
  mkdirSync(join(folder, 'conf/data'), { recursive: true });
  writeFileSync(join(folder, 'conf/data/zoo.yaml'), '');
  assert.deepEqual(offered('pretrain', '-cd', join(folder, 'conf'), 'data=z'), ['data=zoo']);
});

// A `neva` for the shells, and files to complete.
const bin = join(folder, 'bin');
mkdirSync(bin);
const quote = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
writeFileSync(join(bin, 'neva'), `#!/bin/sh\nexec ${[process.execPath, ...nevaArgs([])].map(quote).join(' ')} "$@"\n`);
chmodSync(join(bin, 'neva'), 0o755);
mkdirSync(join(folder, 'files/pictures'), { recursive: true });
writeFileSync(join(folder, 'files/pairs.json'), '');

const shells = (name: string) => spawnSync(name, ['-c', 'exit 0']).error === undefined;

/** Runs a script in a shell that has read neva's completion script. */
function inShell(shell: string, args: string[], script: string, before = ''): string[] {
  const completion = neva(['completion', shell]).stdout;
  const { stdout, stderr } = spawnSync(shell, [...args, '-c', `${before}\n${completion}\n${script}`], {
    encoding: 'utf8',
    cwd: join(folder, 'files'),
    env: { ...process.env, HOME: folder, PATH: `${bin}:${process.env.PATH}` },
  });
  assert.equal(stderr, '');
  return stdout.split('\n').slice(0, -1);
}

test('bash', { skip: !shells('bash') && 'no bash here' }, () => {
  const at = (line: string, wordbreaks = ' \t\n"\'><=;|&(:') =>
    inShell(
      'bash',
      ['--norc'],
      `COMP_WORDBREAKS=${quote(wordbreaks)}; COMP_LINE=${quote(line)}; COMP_POINT=\${#COMP_LINE}; _neva; printf '%s\\n' "\${COMPREPLY[@]}"`,
    );
  assert.deepEqual(at('neva pretr'), ['pretrain ']);
  assert.deepEqual(at('neva pretrain trainer.preci'), ['trainer.precision=']);
  // Readline replaces what follows the equals sign alone.
  assert.deepEqual(at('neva pretrain trainer.precision=b'), ['bf16 ']);
  assert.deepEqual(at('neva pretrain trainer.precision=b', ' \t\n'), ['trainer.precision=bf16 ']);
  assert.deepEqual(at('neva pretrain trainer.precision=bf16 model=vicuna_1'), ['vicuna_13b ']);
  assert.deepEqual(at('neva pretrain data.data_path=pa'), ['pairs.json']);
  assert.deepEqual(at('neva pretrain -cd pi'), ['pictures']);
  assert.deepEqual(at('neva config '), ['show ', 'list ', 'docs ', 'why ', 'rerun ']);
});

test('zsh', { skip: !shells('zsh') && 'no zsh here' }, () => {
  // The builtins of zsh's line editor, which only a terminal has, say what they were called with.
  const stubs = `
    compdef() {}
    compadd() { local s=' '; [[ $1 == -S ]] && { s=''; shift 2 }; shift; for w in "$@"; do print -r -- "$w$s|"; done }
    compset() { print -r -- "compset $*" }
    _files() { print files }`;
  const at = (...words: string[]) =>
    inShell('zsh', ['-f'], `words=(neva ${words.map(quote).join(' ')}); CURRENT=$#words; _neva`, stubs);
  assert.deepEqual(at('pretr'), ['pretrain |']);
  assert.deepEqual(at('pretrain', 'trainer.preci'), ['trainer.precision=|']);
  assert.deepEqual(at('pretrain', 'trainer.precision=b'), ['trainer.precision=bf16 |']);
  assert.deepEqual(at('pretrain', 'data.data_path=pa'), ['compset -P *=', 'files']);
  assert.deepEqual(at('pretrain', '-cd', ''), ['files']);
});

test('fish', { skip: !shells('fish') && 'no fish here' }, () => {
  const at = (line: string) => inShell('fish', ['--no-config'], `complete -C ${quote(line)}`);
  assert.deepEqual(at('neva pretr'), ['pretrain']);
  assert.deepEqual(at('neva pretrain trainer.preci'), ['trainer.precision=']);
  assert.deepEqual(at('neva pretrain trainer.precision=b'), ['trainer.precision=bf16']);
  assert.deepEqual(at('neva pretrain data.data_path=pa'), ['data.data_path=pairs.json']);
});
