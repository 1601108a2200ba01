/**
 * The Python objects that a torch file may name, and what each becomes. Tensors become views of the file; a few classes that
 * training frameworks leave in their checkpoints become inert records. Nothing else is known, and nothing is run.
 */
import type { DType } from '../engine/engine.ts';
import { mistake, type UserError } from '../errors.ts';
import type { Global } from './pickle.ts';
import type { View } from './pieces.ts';
import { bytesPerElement } from './safetensors.ts';
import type { Region } from './zip.ts';

/** A tensor in a pickle. */
export class TorchTensor {
  readonly view: View;
  constructor(view: View) {
    this.view = view;
  }
}

/** A storage: `dtype` is null where only bytes are known. */
export class TorchStorage {
  readonly dtype: DType | null;
  readonly region: Region;
  constructor(dtype: DType | null, region: Region) {
    this.dtype = dtype;
    this.region = region;
  }
}

/** An object of a class that is known but means nothing here: what it was made of. */
export class Inert {
  readonly name: string;
  state: unknown = null;
  constructor(name: string) {
    this.name = name;
  }
}

/** numpy.dtype, as far as its scalars need it. */
class NumpyType {
  readonly code: string;
  littleEndian = true;
  constructor(code: string) {
    this.code = code;
  }
}

const STORAGES: Record<string, DType> = {
  DoubleStorage: 'float64',
  FloatStorage: 'float32',
  HalfStorage: 'float16',
  BFloat16Storage: 'bfloat16',
  LongStorage: 'int64',
  IntStorage: 'int32',
  ByteStorage: 'uint8',
  BoolStorage: 'bool',
};
const DTYPE_NAMES = 'float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool'.split(' ');

const isSizes = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length <= 64 && value.every((n) => Number.isSafeInteger(n) && n >= 0);

/** torch._utils._rebuild_tensor_v2(storage, storage_offset, size, stride, …) */
function rebuildTensor(where: string, [storage, start, shape, strides]: readonly unknown[]): TorchTensor {
  const refuse = (problem: string): UserError => mistake({ where, problem, fix: 'save the state_dict again' });
  if (!(storage instanceof TorchStorage) || !isSizes(shape) || !isSizes(strides) || !isSizes([start])) {
    throw refuse('a tensor whose size, stride or storage is no such thing');
  }
  const { dtype, region } = storage;
  if (dtype === null) throw refuse('a tensor over bytes of no type');
  const held = region.nbytes / bytesPerElement(dtype);
  const count = shape.reduce((product, size) => product * size, 1);
  const last = shape.reduce((sum, size, d) => sum + (size - 1) * (strides[d] ?? 0), start as number);
  if (strides.length !== shape.length || (count > 0 && last >= held) || !(count <= held)) {
    // More elements than the storage has (an expanded tensor) would make a small file ask for any amount of memory.
    throw refuse(
      `a tensor of [${shape}] with strides [${strides}] from element ${start} of the ${held} that it lies in`,
    );
  }
  return new TorchTensor({ region, dtype, start: start as number, shape, strides });
}

function numpyScalar([type, bytes]: readonly unknown[]): number | bigint | undefined {
  if (!(type instanceof NumpyType) || !(bytes instanceof Uint8Array)) return undefined;
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const little = type.littleEndian;
  if (Number(type.code.slice(1)) !== bytes.length) return undefined;
  switch (type.code) {
    case 'f8':
      return data.getFloat64(0, little);
    case 'f4':
      return data.getFloat32(0, little);
    case 'i8':
      return data.getBigInt64(0, little);
    case 'u8':
      return data.getBigUint64(0, little);
    case 'i4':
      return data.getInt32(0, little);
    case 'u4':
      return data.getUint32(0, little);
    case 'b1':
    case 'u1':
      return data.getUint8(0);
    default:
      return undefined;
  }
}

const mapOf = ([pairs]: readonly unknown[]): Map<unknown, unknown> | undefined => {
  if (pairs === undefined) return new Map();
  if (pairs instanceof Map) return new Map(pairs);
  const isPair = (pair: unknown): pair is [unknown, unknown] => Array.isArray(pair) && pair.length === 2;
  return Array.isArray(pairs) && pairs.every(isPair) ? new Map(pairs) : undefined;
};

const setNumpyState = (type: unknown, state: unknown): unknown => {
  if (type instanceof NumpyType && Array.isArray(state)) type.littleEndian = state[1] !== '>';
  return type;
};

const setInertState = (value: unknown, state: unknown): unknown => {
  if (value instanceof Inert) value.state = state;
  return value;
};

/** `OrderedDict._metadata` and the like: attributes of a dict, which say nothing about weights. */
const ignoreState = (value: unknown): unknown => value;

type Calls = Record<string, Omit<Global, 'name'>>;

const CALLS = (where: string): Calls => ({
  'collections.OrderedDict': { call: mapOf, build: ignoreState },
  'collections.defaultdict': { call: () => new Map(), build: ignoreState },
  'builtins.set': { call: ([items = []]) => (Array.isArray(items) ? new Set(items) : undefined) },
  'torch._utils._rebuild_tensor': { call: (args) => rebuildTensor(where, args) },
  'torch._utils._rebuild_tensor_v2': { call: (args) => rebuildTensor(where, args), build: ignoreState },
  'torch._utils._rebuild_parameter': { call: ([data]) => (data instanceof TorchTensor ? data : undefined) },
  'torch._utils._rebuild_parameter_with_state': { call: ([data]) => (data instanceof TorchTensor ? data : undefined) },
  'torch.Size': { call: ([sizes]) => (isSizes(sizes) ? sizes : undefined) },
  'torch.device': { call: () => new Inert('torch.device') },
  'numpy.dtype': {
    call: ([code]) => (typeof code === 'string' ? new NumpyType(code) : undefined),
    build: setNumpyState,
  },
  'numpy.core.multiarray.scalar': { call: numpyScalar },
  'numpy._core.multiarray.scalar': { call: numpyScalar },
  // How protocol 2 spells bytes.
  '_codecs.encode': {
    call: ([text, codec]) =>
      typeof text === 'string' && codec === 'latin1' ? new Uint8Array(Buffer.from(text, 'latin1')) : undefined,
  },
  'builtins.bytes': { call: (args) => (args.length === 0 ? new Uint8Array(0) : undefined) },
  // Extra states of Transformer Engine.
  '_io.BytesIO': { call: () => new Inert('_io.BytesIO'), build: setInertState },
  'pathlib.PosixPath': { call: () => new Inert('pathlib.PosixPath') },
  'argparse.Namespace': { call: () => new Inert('argparse.Namespace'), build: setInertState },
});

/** Classes that stand for themselves: element types of OmegaConf's containers. */
const NAMES = /^(?:typing\.Any|builtins\.(?:int|float|str|bool|dict|list|tuple|object))$/;
/** NeMo's Lightning checkpoints carry their configuration as OmegaConf containers. */
const OMEGACONF = /^omegaconf\.(?:dictconfig\.DictConfig|listconfig\.ListConfig|base\.\w+|nodes\.\w+)$/;
const ATTRIBUTE_DICT = /^(?:pytorch_lightning|lightning|lightning_fabric)\.[a-z_.]+\.AttributeDict$/;

/** What a name stands for, or undefined: it is refused. `where` is named in messages. */
export function torchGlobals(where: string): (module: string, name: string) => Global | undefined {
  const calls = CALLS(where);
  return (module, name) => {
    const full = `${module === '__builtin__' ? 'builtins' : module}.${name}`;
    if (Object.hasOwn(calls, full)) return { name: full, ...calls[full]! };
    if (module === 'torch' && (Object.hasOwn(STORAGES, name) || DTYPE_NAMES.includes(name))) return { name: full };
    if (full === 'torch.storage.UntypedStorage' || full === 'torch.UntypedStorage' || NAMES.test(full)) {
      return { name: full };
    }
    if (OMEGACONF.test(full)) return { name: full, call: () => new Inert(full), build: setInertState };
    if (ATTRIBUTE_DICT.test(full)) return { name: full, call: mapOf, build: ignoreState };
    return undefined;
  };
}

/** The element type of a storage class, null for untyped bytes, undefined for what is no storage class. */
export function storageType(global: unknown): DType | null | undefined {
  const name = (global as Partial<Global> | null)?.name;
  if (typeof name !== 'string') return undefined;
  if (name.endsWith('.UntypedStorage')) return null;
  const type = name.replace('torch.', '');
  return Object.hasOwn(STORAGES, type) ? STORAGES[type] : undefined;
}
