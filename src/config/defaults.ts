/** Defaults lists: which files make up a configuration, in which order, below which package. */
import { ConfigError, problem } from './error.ts';
import type { Override } from './grammar/override.ts';
import { nearest } from './nearest.ts';
import type { Sources } from './sources.ts';
import { type Dict, type Node, originText } from './tree.ts';

/** A file to merge: its name (`model/tiny`) and the dotted package it goes below ('' is the root). */
export interface Loaded {
  readonly name: string;
  readonly package: string;
  /** Name of the configuration whose defaults list asked for it; null for the primary one. */
  readonly parent: string | null;
}

/** Files in order, nested as they were found; an entry that waits is an array filled later. */
type Part = Loaded | Part[];

export interface DefaultsList {
  readonly files: Loaded[];
  /** Group (with `@package` where it is not the default one) → what was chosen. */
  readonly choices: ReadonlyMap<string, string>;
}

/** An entry of a defaults list as written. */
interface Entry {
  kind: 'self' | 'config' | 'group';
  /** Group, or path of a plain configuration. */
  path: string;
  absolute: boolean;
  package: string | null;
  options: string[] | null;
  missing: boolean;
  optional: boolean;
  override: boolean;
  from: string;
}

const SELF: Entry = {
  kind: 'self',
  path: '',
  absolute: false,
  package: null,
  options: null,
  missing: false,
  optional: false,
  override: false,
  from: '',
};

interface Choice {
  options: string[] | null;
  deleted: boolean;
  external: Override | null;
  used: boolean;
}

export function splitDefaults(root: Dict): { defaults: Node | undefined; body: Dict } {
  const entries = new Map(root.entries);
  const defaults = entries.get('defaults');
  entries.delete('defaults');
  return { defaults, body: { ...root, entries } };
}

/**
 * @param overrides those whose key is a group
 * @throws ConfigError for an option that does not exist (with those that do), a group that no list has, …
 */
export function buildDefaults(sources: Sources, primary: string, overrides: readonly Override[]): DefaultsList {
  return new Builder(sources, overrides).build(primary);
}

class Builder {
  private readonly sources: Sources;
  private readonly chosen = new Map<string, Choice>();
  private readonly appended: Override[];
  private readonly choices = new Map<string, string>();
  private readonly seen = new Set<string>();
  private readonly deferred: (() => void)[] = [];

  constructor(sources: Sources, overrides: readonly Override[]) {
    this.sources = sources;
    this.appended = overrides.filter((o) => o.prefix === '+' || o.prefix === '++');
    for (const override of overrides) {
      if (override.prefix === '++') {
        throw new ConfigError(
          problem(override.key, '++ is for values, not for groups', { fix: `write ${override.text.slice(1)}` }),
        );
      }
      if (override.prefix === '+') continue;
      const key = choiceKey(override.key, override.package === '_global_' ? '' : override.package);
      const options = override.value === null ? null : optionsOf(override);
      this.chosen.set(key, { options, deleted: override.prefix === '~', external: override, used: false });
    }
  }

  build(primary: string): DefaultsList {
    if (this.sources.find(primary) === null) throw this.noConfig(primary);
    const parts = this.config(primary, '', null, true);
    // Entries with an interpolation wait until all other choices are known.
    for (let expand = this.deferred.shift(); expand !== undefined; expand = this.deferred.shift()) expand();
    const files = parts.flat(Number.POSITIVE_INFINITY as 1) as Loaded[];
    for (const { external, used } of this.chosen.values()) {
      if (external !== null && !used) throw this.unused(external);
    }
    return { files, choices: this.choices };
  }

  private config(name: string, pkg: string, parent: string | null, primary = false): Part[] {
    const file = this.sources.load(name);
    if (file === null) throw this.noConfig(name);
    const { defaults } = splitDefaults(file.root);
    const entries = defaults === undefined ? [] : this.entries(defaults);
    if (primary && this.appended.length > 0 && !entries.includes(SELF)) entries.push(SELF);
    if (primary) for (const override of this.appended) entries.push(this.addedEntry(override));
    // Without _self_ a file's own content comes last: it wins.
    if (!entries.includes(SELF)) entries.push(SELF);
    const folder = name.includes('/') ? name.slice(0, name.lastIndexOf('/')) : '';
    this.collectOverrides(entries, folder, pkg);
    const ordered: Part[][] = entries.map(() => []);
    // From the last to the first: a later file's `override` decides what an earlier entry loads.
    for (let i = entries.length - 1; i >= 0; i--) {
      const entry = entries[i] as Entry;
      if (entry.override) continue;
      const part = ordered[i] as Part[];
      if (entry === SELF) part.push({ name, package: pkg, parent });
      else if (entry.kind === 'config') part.push(this.plainConfig(entry, folder, pkg, name));
      else this.group(entry, folder, pkg, name, part);
    }
    return ordered;
  }

  private plainConfig(entry: Entry, folder: string, pkg: string, parent: string): Part[] {
    const name = entry.absolute || folder === '' ? entry.path : `${folder}/${entry.path}`;
    const group = entry.path.includes('/') ? entry.path.slice(0, entry.path.lastIndexOf('/')) : '';
    return this.config(name, this.packageOf(entry, group, pkg, name), parent);
  }

  private group(entry: Entry, folder: string, pkg: string, parent: string, part: Part[]): void {
    const group = entry.absolute || folder === '' ? entry.path : `${folder}/${entry.path}`;
    const written = this.finalPackage(entry, pkg, group) ?? joinPackage(pkg, entry.path.replaceAll('/', '.'));
    const key = choiceKey(group, written);
    if (this.seen.has(key)) {
      throw new ConfigError(
        problem(entry.from, `${key} appears twice in the defaults list`, {
          fix: `to change the choice of another file, write 'override ${key}: …'`,
        }),
      );
    }
    this.seen.add(key);
    const choice = this.choice(group, key);
    if (choice !== undefined) {
      choice.used = true;
      if (choice.deleted) {
        const same = choice.options === null || choice.options.join() === (entry.options ?? []).join();
        if (!same) {
          throw new ConfigError(
            problem(
              `~${key}`,
              `the choice is ${(entry.options ?? []).join() || 'null'}, not ${choice.options?.join()}`,
            ),
          );
        }
        return;
      }
    }
    const options = choice === undefined ? entry.options : choice.options;
    if (options === null) {
      if (entry.missing && choice === undefined) {
        throw new ConfigError(
          problem(key, 'one option must be chosen', {
            expected: this.sources.options(group).join(', '),
            from: entry.from,
            fix: `add ${key}=OPTION`,
          }),
        );
      }
      this.choices.set(key, 'null');
      return;
    }
    if (options.some((option) => option.includes('${'))) {
      this.deferred.push(() => {
        const filled = options.map((o) => this.fill(o, entry.from));
        part.push(this.load(filled, entry, group, key, pkg, parent));
      });
    } else part.push(this.load(options, entry, group, key, pkg, parent));
  }

  private load(options: string[], entry: Entry, group: string, key: string, pkg: string, parent: string): Part[] {
    this.choices.set(key, options.join(','));
    return options.map((option): Part => {
      const name = `${group}/${option.replace(/\.yaml$/, '')}`;
      if (this.sources.find(name) === null) {
        if (entry.optional) return [];
        throw this.noOption(group, key, option, this.chosen.get(key)?.external ?? null, entry.from);
      }
      return this.config(name, this.packageOf(entry, entry.path, pkg, name), parent);
    });
  }

  private choice(group: string, key: string): Choice | undefined {
    const exact = this.chosen.get(key);
    if (exact !== undefined) return exact;
    // Declared difference: the bare group name does for a packaged entry too, as long as nothing else is called so.
    const bare = this.chosen.get(group);
    return bare?.external?.package === null && !bare.used ? bare : undefined;
  }

  private collectOverrides(entries: readonly Entry[], folder: string, pkg: string): void {
    for (const entry of entries) {
      if (!entry.override) continue;
      const group = entry.absolute || folder === '' ? entry.path : `${folder}/${entry.path}`;
      const final = this.finalPackage(entry, pkg, group) ?? joinPackage(pkg, entry.path.replaceAll('/', '.'));
      const key = choiceKey(group, final);
      if (!this.chosen.has(key)) {
        this.chosen.set(key, { options: entry.options, deleted: false, external: null, used: false });
      }
    }
  }

  /** The package that the entry itself names, made absolute; null when it names none. */
  private finalPackage(entry: Entry, parentPackage: string, group: string): string | null {
    if (entry.package === null) return null;
    return absolutePackage(entry.package, parentPackage, group);
  }

  private packageOf(entry: Entry, group: string, parentPackage: string, name: string): string {
    const own = this.finalPackage(entry, parentPackage, group);
    if (own !== null) return own;
    const header = this.sources.load(name)?.package ?? null;
    const folder = name.includes('/') ? name.slice(0, name.lastIndexOf('/')) : '';
    if (header !== null) return absolutePackage(header, header.startsWith('_here_') ? parentPackage : '', folder);
    return joinPackage(parentPackage, group.replaceAll('/', '.'));
  }

  /** `${group}` in an option's name stands for what that group's choice is. */
  private fill(option: string, from: string): string {
    return option.replace(/\$\{([^}]*)\}/g, (_, key: string) => {
      const value = this.choices.get(key);
      if (value === undefined) {
        throw new ConfigError(problem(from, `\${${key}} names no group of the defaults list`, { found: option }));
      }
      return value;
    });
  }

  private entries(defaults: Node): Entry[] {
    if (defaults.kind !== 'list') {
      throw new ConfigError(problem(originText(defaults.origin), 'defaults must be a list'));
    }
    return defaults.items.map((item) => {
      const from = originText(item.origin);
      if (item.kind === 'scalar' && item.value.kind === 'string') {
        return item.value.value === '_self_' ? SELF : parseEntry('config', item.value.value, null, from);
      }
      const [pair] = item.kind === 'dict' ? [...item.entries] : [];
      if (item.kind !== 'dict' || item.entries.size !== 1 || pair === undefined) {
        throw new ConfigError(
          problem(from, 'an entry of the defaults list is a name, or one pair `group: option`', {
            fix: 'indent it as `- group: option`',
          }),
        );
      }
      return parseEntry('group', pair[0], pair[1], from);
    });
  }

  private addedEntry(override: Override): Entry {
    const options = optionsOf(override);
    const key = choiceKey(override.key, override.package);
    return {
      ...SELF,
      kind: 'group',
      path: override.key,
      absolute: true,
      package: override.package === '' ? '_global_' : override.package,
      options,
      from: `override ${override.text} (${key})`,
    };
  }

  private noConfig(name: string): ConfigError {
    const folder = name.includes('/') ? name.slice(0, name.lastIndexOf('/')) : '';
    const exist = this.sources.options(folder);
    const close = nearest(
      name,
      exist.map((e) => (folder === '' ? e : `${folder}/${e}`)),
    );
    return new ConfigError(
      problem(name, 'there is no such configuration', {
        expected: exist.length > 0 ? exist.join(', ') : 'a .yaml file',
        found: `no ${name}.yaml in ${this.sources.folders.join(', ')}`,
        ...(close.length > 0 ? { fix: `did you mean ${close.join(' or ')}?` } : {}),
      }),
    );
  }

  private noOption(group: string, key: string, option: string, external: Override | null, from: string): ConfigError {
    const exist = this.sources.options(group);
    const close = nearest(option, exist);
    return new ConfigError(
      problem(key, `there is no option '${option}'`, {
        expected: exist.join(', '),
        from: external === null ? from : `override ${external.text}`,
        ...(close.length > 0 ? { fix: `did you mean ${key}=${close[0]}?` } : {}),
      }),
    );
  }

  private unused(override: Override): ConfigError {
    const key = choiceKey(override.key, override.package);
    const packaged = [...this.choices.keys()].filter((k) => k.split('@')[0] === override.key);
    const fix =
      packaged.length > 0
        ? `write ${packaged.map((k) => `${k}=…`).join(' or ')}`
        : `to load it in addition, write +${override.text.replace(/^~/, '')}`;
    return new ConfigError(problem(key, 'no defaults list has this group', { from: `override ${override.text}`, fix }));
  }
}

function parseEntry(kind: 'config' | 'group', written: string, value: Node | null, from: string): Entry {
  const words = written.trim().split(/\s+/);
  const name = words.pop() ?? '';
  const at = name.indexOf('@');
  const path = at < 0 ? name : name.slice(0, at);
  const entry: Entry = {
    ...SELF,
    kind,
    path: path.replace(/^\//, '').replace(kind === 'config' ? /\.yaml$/ : /$^/, ''),
    absolute: path.startsWith('/'),
    package: at < 0 ? null : name.slice(at + 1) || '_global_',
    optional: words.includes('optional'),
    override: words.includes('override'),
    from,
  };
  const unknown = words.find((word) => word !== 'optional' && word !== 'override');
  if (unknown !== undefined) {
    throw new ConfigError(
      problem(from, `'${unknown}' is not a word of the defaults list`, { expected: 'optional or override' }),
    );
  }
  if (value === null) return entry;
  if (value.kind === 'list') return { ...entry, options: value.items.map((item) => optionText(item, from)) };
  if (value.kind === 'scalar' && value.value.kind === 'null') return entry;
  const option = optionText(value, from);
  return option === '???' ? { ...entry, missing: true } : { ...entry, options: [option] };
}

function optionText(node: Node, from: string): string {
  if (node.kind === 'scalar' && node.value.kind === 'string') return node.value.value;
  throw new ConfigError(
    problem(from, 'an option must be a name, or a list of names', { fix: 'values go below the defaults list' }),
  );
}

function optionsOf(override: Override): string[] | null {
  const { value } = override;
  if (value?.kind === 'string') return [value.value];
  if (value?.kind === 'list' && value.items.every((item) => item.kind === 'string')) {
    return value.items.map((item) => (item as { value: string }).value);
  }
  throw new ConfigError(
    problem(choiceKey(override.key, override.package), 'a group takes the name of an option, or a list of names', {
      from: `override ${override.text}`,
      fix: `to leave the group out, write ~${override.key}`,
    }),
  );
}

/** The override key: the bare group when its package is the default one. */
function choiceKey(group: string, pkg: string | null): string {
  return pkg === null || pkg === group.replaceAll('/', '.') ? group : `${group}@${pkg === '' ? '_global_' : pkg}`;
}

function joinPackage(parent: string, inner: string): string {
  return parent === '' ? inner : inner === '' ? parent : `${parent}.${inner}`;
}

function absolutePackage(pkg: string, parent: string, group: string): string {
  const parts: string[] = [];
  let base = parent;
  for (const part of pkg.split('.')) {
    if (part === '_global_') {
      base = '';
      parts.length = 0;
    } else if (part === '_group_') {
      parts.push(...group.split('/').filter((g) => g !== ''));
    } else if (part !== '_here_' && part !== '') parts.push(part);
  }
  return joinPackage(base, parts.join('.'));
}
