/**
 * Files of torch.save: a zip with `NAME/data.pkl`, which says what there is, and one stored member a storage, so that tensors
 * are mapped where they lie (torch's caffe2/serialize/inline_container.h; its C++ reader aligns storages to 64 bytes).
 */
import { mistake } from '../errors.ts';
import { PICKLE_LIMIT, readPickle } from './pickle.ts';
import { assemble } from './pieces.ts';
import { bytesPerElement, type TensorEntry } from './safetensors.ts';
import { Inert, storageType, TorchStorage, TorchTensor, torchGlobals } from './torch_globals.ts';
import { type Region, readMember, readZip, type ZipMember } from './zip.ts';

export interface TorchFile {
  /** Tensors of the state dict, by name. */
  entries: Map<string, TensorEntry>;
  /** The configuration that a Lightning checkpoint carries (hyper_parameters), as plain values; null elsewhere. */
  config: Record<string, unknown> | null;
}

/** Reads what a torch file holds; the tensors stay where they are. Everything but weights and plain values is refused. */
export function readTorchFile(region: Region, where = region.file): TorchFile {
  const members = readZip(region, where);
  const folder = rootFolder(members, where);
  const member = (name: string) => members.get(`${folder}/${name}`);
  const order = member('byteorder');
  if (order && readMember(order, `${where}: byteorder`, 16).toString() !== 'little') {
    throw mistake({ where, problem: 'written on a big-endian machine', fix: 'save it again on a common one' });
  }
  const pickle = readMember(member('data.pkl')!, `${where}: data.pkl`, PICKLE_LIMIT);
  const root = readPickle(pickle, where, {
    find: torchGlobals(where),
    persistent: (id) => storage(id, member, region.file, where),
  });
  return { entries: stateDict(root, where), config: lightningConfig(root) };
}

function rootFolder(members: ReadonlyMap<string, ZipMember>, where: string): string {
  const pickles = [...members.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length === 1) return pickles[0]!.replace('/data.pkl', '');
  const script = [...members.keys()].some((name) => /\/code\/|\/constants\.pkl$/.test(name));
  throw mistake({
    where,
    problem: script ? 'it is a TorchScript program, and no file of weights' : 'this zip is no file of torch.save',
    expected: 'one NAME/data.pkl',
    found: pickles.join(', ') || 'none',
  });
}

/** ('storage', class, key, device, element count) → where its bytes lie. */
function storage(
  id: unknown,
  member: (name: string) => ZipMember | undefined,
  file: string,
  where: string,
): TorchStorage {
  const [kind, type, key, , count] = Array.isArray(id) ? id : [];
  const dtype = storageType(type);
  const known = kind === 'storage' && dtype !== undefined && typeof key === 'string' && /^\d+$/.test(key);
  if (!known || !Number.isSafeInteger(count) || count < 0) {
    throw mistake({
      where,
      problem: 'it refers to a storage that neva cannot read',
      expected: 'float, half, bfloat16, double, long, int, byte or bool',
      found: String((type as { name?: string } | undefined)?.name ?? kind).slice(0, 80),
    });
  }
  const nbytes = count * (dtype ? bytesPerElement(dtype) : 1);
  const data = member(`data/${key}`);
  // torch writes no member of its own for storages of nothing in some versions.
  if (data?.nbytes !== nbytes && !(nbytes === 0 && !data)) {
    const found = data ? `${data.nbytes} bytes` : 'nothing';
    throw mistake({ where, problem: `storage ${key} is not there whole`, expected: `${nbytes} bytes`, found });
  }
  return new TorchStorage(dtype, data ?? { file, offset: 0, nbytes: 0 });
}

function stateDict(root: unknown, where: string): Map<string, TensorEntry> {
  const dict = root instanceof Map && root.get('state_dict') instanceof Map ? root.get('state_dict') : root;
  const refuse = (problem: string, found: string) =>
    mistake({ where, problem, expected: 'a state dict: names and tensors', found });
  if (!(dict instanceof Map)) throw refuse('it holds no state dict', describe(dict));
  const entries = new Map<string, TensorEntry>();
  for (const [name, value] of dict) {
    if (typeof name !== 'string') throw refuse('it holds no state dict', `a key that is ${describe(name)}`);
    if (value instanceof TorchTensor) {
      const { view } = value;
      entries.set(name, assemble(name, view.shape, view.shape, [{ view, at: view.shape.map(() => 0) }]));
    } else if (!/_extra_state$/.test(name)) throw refuse(`${JSON.stringify(name)} is no tensor`, describe(value));
  }
  return entries;
}

function describe(value: unknown): string {
  if (value instanceof TorchTensor) return 'one tensor';
  if (value instanceof Inert) return value.name;
  if (value instanceof Map) return 'a dict';
  return Array.isArray(value) ? 'a list' : value === null ? 'None' : typeof value;
}

function lightningConfig(root: unknown): Record<string, unknown> | null {
  const hyper = root instanceof Map ? root.get('hyper_parameters') : null;
  const plain = plainValue(hyper, { left: 100_000 }, 0) as Record<string, unknown> | null | undefined;
  const config = plain?.cfg ?? plain;
  return typeof config === 'object' && !Array.isArray(config) ? (config as Record<string, unknown> | null) : null;
}

/**
 * Maps and OmegaConf's nodes as plain objects; undefined for what has no plain form. The budget bounds what shared parts of a
 * hostile file would unfold to.
 */
function plainValue(value: unknown, budget: { left: number }, depth: number): unknown {
  if (depth > 20 || --budget.left < 0) return undefined;
  const inside = (inner: unknown) => plainValue(inner, budget, depth + 1);
  if (value instanceof Map) {
    const named = [...value].filter(([key]) => typeof key === 'string');
    return Object.fromEntries(named.map(([key, inner]) => [key, inside(inner)]));
  }
  if (Array.isArray(value)) return value.map(inside);
  if (value instanceof Inert) {
    return value.state instanceof Map
      ? inside(value.state.get('_content') ?? value.state.get('_val') ?? null)
      : undefined;
  }
  return value === null || ['number', 'string', 'boolean'].includes(typeof value) ? value : undefined;
}
