/**
 * `neva __complete -- WORDS…`: what may stand where the cursor is. WORDS are those after `neva` up to the cursor, the last
 * one half-typed, perhaps empty. One candidate a line; a line `:files PREFIX` asks the shell for file names after PREFIX.
 * Neither YAML nor an engine is loaded: a key press waits for this.
 */
import { join } from 'node:path';
import { Command } from 'commander';
import { packageRoot } from '../root.ts';
import { type VerbModule, verbs } from './verbs.ts';

export function define(command: Command): void {
  command.argument('[words...]').action(async (words: string[]) => {
    for (const line of await candidates(words)) console.log(line);
  });
}

/** Flags whose value is a file or a folder. */
const PATH_FLAGS = ['--config-path', '-cp', '--config-dir', '-cd', '--model', '--image', '--from', '--out', '--pixels'];
/** Verbs that `launch` takes. */
const RANKED = ['pretrain', 'finetune'];
const NAME_FLAGS = ['--config-name', '-cn'];

export async function candidates(words: readonly string[]): Promise<string[]> {
  const current = words.at(-1) ?? '';
  const before = words.slice(0, -1);
  const verb = verbs.find(({ name }) => name === before[0]);
  if (!verb) {
    const names = [...verbs.filter(({ hidden }) => !hidden).map(({ name }) => name), '--help', '--version'];
    return before.length > 0 ? [] : startingWith(names, current);
  }
  if (verb.name === 'launch') {
    const at = before.findIndex((word) => RANKED.includes(word));
    if (at > 0) return candidates(words.slice(at));
    if (!current.startsWith('-')) return startingWith(RANKED, current);
  }
  const command = innermost(await verb.load(), before.slice(1));
  const last = before.at(-1) ?? '';
  if (PATH_FLAGS.includes(last)) return [':files '];
  const index = async () => {
    const { completionIndex } = await import('../config/docs.ts');
    const { SearchPath } = await import('../config/search_path.ts');
    const folders = before.flatMap((word, i) =>
      /^(-c[pd]|--config-(path|dir))$/.test(before[i - 1] ?? '') ? [word] : [],
    );
    return { path: new SearchPath([...folders, join(packageRoot, 'conf')]), completionIndex };
  };
  if (NAME_FLAGS.includes(last)) return startingWith((await index()).path.options(''), current);
  const option = command.options.find(({ long, short }) => long === last || short === last);
  if (option?.argChoices) return startingWith(option.argChoices, current);
  if (option?.long === '--cfg') return startingWith(['job'], current);
  if (option?.long === '--info') {
    const topics = startingWith(['defaults', 'defaults-tree', 'config', 'searchpath'], current);
    if (topics.length > 0) return topics;
  }
  if (current.startsWith('-')) {
    const flags = command.options.filter(({ hidden }) => !hidden).map(({ long, short }) => long ?? short ?? '');
    return startingWith([...flags, '--help'], current);
  }
  if (command.commands.length > 0)
    return startingWith(
      command.commands.map((inner) => inner.name()),
      current,
    );
  const [argument] = command.registeredArguments;
  if (argument?.argChoices) return startingWith(argument.argChoices, current);
  if (argument?.name() === 'run') return [':files '];
  const { path, completionIndex } = await index();
  const { complete } = await import('../config/docs.ts');
  if (argument?.name() === 'key' && before.length < 3) {
    // A key is asked about, not set.
    return complete(current, { ...completionIndex(path), groups: {} }).map((word) => word.replace(/=$/, ''));
  }
  if (!command.registeredArguments.some(({ variadic }) => variadic)) return [];
  const equals = current.indexOf('=');
  const keys = completionIndex(path);
  if (equals >= 0 && isPath(current.slice(0, equals), keys.keys)) return [`:files ${current.slice(0, equals + 1)}`];
  return complete(current, keys);
}

function isPath(written: string, keys: Readonly<Record<string, string[] | null>>): boolean {
  const key = written.replace(/^\++/, '');
  return keys[key] === null || keys[`model.${key}`] === null;
}

const startingWith = (words: readonly string[], start: string) => words.filter((word) => word.startsWith(start));

/** The verb's command, or the one below it that the words name, with its flags. */
function innermost(module: VerbModule, words: readonly string[]): Command {
  const command = new Command();
  module.define(command);
  return command.commands.find((inner) => inner.name() === words[0]) ?? command;
}
