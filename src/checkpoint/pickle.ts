/**
 * Reads Python pickles as data. A pickle is a program for a stack machine whose instructions can name any Python object and
 * call it; here a name is looked up in a table that the caller gives, and what is not in it is refused. Nothing is executed.
 *
 * The format: CPython's Lib/pickletools.py. Protocols 0 to 5 without the instructions that no torch file has.
 */
import { mistake, type UserError } from '../errors.ts';
import { LITERALS, PickleCursor } from './pickle_cursor.ts';

/** What a name in a pickle may stand for. */
export interface Global {
  /** `module.name`, for messages. */
  readonly name: string;
  /** The value of calling it; absent where only the name itself is used (a storage class). */
  call?(args: readonly unknown[]): unknown;
  /** Applies `__setstate__`'s argument to a value that `call` returned; absent where there is no state to take. */
  build?(value: unknown, state: unknown): unknown;
}

export interface PickleTable {
  find(module: string, name: string): Global | undefined;
  /** The object behind a persistent id. */
  persistent(id: unknown): unknown;
}

/** Lists and tuples are arrays, dicts are Maps, sets are Sets, ints beyond 2⁵³ bigints, bytes Uint8Arrays. */
export function readPickle(bytes: Uint8Array, where: string, table: PickleTable): unknown {
  return new Machine(bytes, where, table).run();
}

/** A state dict of a 70-billion-parameter model takes less than one MB. */
export const PICKLE_LIMIT = 64 << 20;
/** Bounds what a small file can make us hold: one byte may ask for a container, or for a place in the memo. */
const CONTAINER_LIMIT = 1_000_000;
const STACK_LIMIT = 8_000_000;

const MARK = Symbol('mark');
/** The empty tuple, of which a pickle may ask for any number. */
const NOTHING: readonly unknown[] = Object.freeze([]);

class Machine {
  readonly #cursor: PickleCursor;
  readonly #where: string;
  readonly #table: PickleTable;
  readonly #stack: unknown[] = [];
  readonly #memo = new Map<number, unknown>();
  /** The global that made each value, for `BUILD`. */
  readonly #makers = new WeakMap<object, Global>();
  #containers = 0;

  constructor(bytes: Uint8Array, where: string, table: PickleTable) {
    if (bytes.length > PICKLE_LIMIT) {
      throw mistake({ where, problem: 'its pickle is too large to be a model’s', found: `${bytes.length} bytes` });
    }
    this.#cursor = new PickleCursor(bytes, where);
    this.#where = where;
    this.#table = table;
  }

  run(): unknown {
    for (;;) {
      const code = String.fromCharCode(this.#cursor.byte());
      if (code === '.') return this.#pop();
      const literal = LITERALS[code];
      if (literal) this.#stack.push(literal(this.#cursor));
      else this.#step(code);
      if (this.#stack.length > STACK_LIMIT || this.#memo.size > STACK_LIMIT) throw this.#damaged('it never ends');
    }
  }

  #step(code: string): void {
    const stack = this.#stack;
    switch (code) {
      case '\x80': // PROTO
        if (this.#cursor.byte() > 5) throw this.#damaged('an unknown protocol');
        return;
      case '\x95': // FRAME
        this.#cursor.length();
        return;
      case '(':
        stack.push(MARK);
        return;
      case '0': // POP
        this.#pop();
        return;
      case '1': // POP_MARK
        this.#popMark();
        return;
      case '2': // DUP
        stack.push(this.#top());
        return;
      case ']':
        stack.push(this.#container([]));
        return;
      case ')':
        stack.push(NOTHING);
        return;
      case '}':
        stack.push(this.#container(new Map()));
        return;
      case '\x8f': // EMPTY_SET
        stack.push(this.#container(new Set()));
        return;
      case 'l':
      case 't':
        stack.push(this.#container(this.#popMark()));
        return;
      case '\x91': // FROZENSET
        stack.push(this.#container(new Set(this.#popMark())));
        return;
      case '\x85': // TUPLE1 to TUPLE3
      case '\x86':
      case '\x87':
        stack.push(this.#container(this.#popMany(code.charCodeAt(0) - 0x84)));
        return;
      case 'd':
        stack.push(this.#setItems(this.#container(new Map()), this.#popMark()));
        return;
      case 'a':
        this.#append([this.#pop()]);
        return;
      case 'e': // APPENDS
      case '\x90': // ADDITEMS
        this.#append(this.#popMark());
        return;
      case 's': {
        const items = this.#popMany(2);
        this.#setItems(this.#top(), items);
        return;
      }
      case 'u': {
        const items = this.#popMark();
        this.#setItems(this.#top(), items);
        return;
      }
      case 'R': // REDUCE
      case '\x81': {
        const [callee, args] = this.#popMany(2); // NEWOBJ
        stack.push(this.#call(callee, args));
        return;
      }
      case 'b': {
        const state = this.#pop();
        stack.push(this.#build(this.#pop(), state));
        return;
      }
      case 'c': {
        const module = this.#cursor.line();
        stack.push(this.#find(module, this.#cursor.line()));
        return;
      }
      case '\x93': {
        const [module, name] = this.#popMany(2); // STACK_GLOBAL
        stack.push(this.#find(module, name));
        return;
      }
      case 'Q': // BINPERSID
        stack.push(this.#table.persistent(this.#pop()));
        return;
      default:
        this.#memorize(code);
    }
  }

  #memorize(code: string): void {
    const cursor = this.#cursor;
    switch (code) {
      case 'p':
        this.#memo.set(Number(cursor.decimal()), this.#top());
        return;
      case 'q':
        this.#memo.set(cursor.byte(), this.#top());
        return;
      case 'r':
        this.#memo.set(cursor.word(), this.#top());
        return;
      case '\x94': // MEMOIZE
        this.#memo.set(this.#memo.size, this.#top());
        return;
      case 'g':
        this.#stack.push(this.#recall(Number(cursor.decimal())));
        return;
      case 'h':
        this.#stack.push(this.#recall(cursor.byte()));
        return;
      case 'j':
        this.#stack.push(this.#recall(cursor.word()));
        return;
      default:
        throw this.#damaged(`instruction 0x${code.charCodeAt(0).toString(16)}, which no model file has,`);
    }
  }

  #find(module: unknown, name: unknown): Global {
    if (typeof module !== 'string' || typeof name !== 'string') throw this.#damaged('a name that is no text');
    const found = this.#table.find(module, name);
    if (found) return found;
    throw mistake({
      where: this.#where,
      problem: `it asks for the Python object ${JSON.stringify(`${module}.${name}`).slice(0, 200)}`,
      expected: 'tensors, storages and plain values, which is all that a file of weights needs',
      fix: 'do not load this file with Python either unless you trust it; save its state_dict alone, or as safetensors',
    });
  }

  #call(callee: unknown, args: unknown): unknown {
    const target = callee as Global;
    if (typeof target?.call !== 'function' || !Array.isArray(args))
      throw this.#damaged('a call of what is no function');
    const value = target.call(args);
    if (value === undefined) throw this.#damaged(`arguments that ${target.name} does not take`);
    if (typeof value === 'object' && value !== null) {
      this.#container(value);
      this.#makers.set(value, target);
    }
    return value;
  }

  #build(value: unknown, state: unknown): unknown {
    const maker = typeof value === 'object' && value !== null ? this.#makers.get(value) : undefined;
    if (!maker?.build) throw this.#damaged('a state for what takes none');
    return maker.build(value, state);
  }

  #append(items: unknown[]): void {
    const target = this.#top();
    if (Array.isArray(target) && target !== NOTHING) for (const item of items) target.push(item);
    else if (target instanceof Set) for (const item of items) target.add(item);
    else throw this.#damaged('an item for what is no list');
  }

  #setItems(target: unknown, items: readonly unknown[]): unknown {
    if (!(target instanceof Map) || items.length % 2 !== 0) throw this.#damaged('an item for what is no dict');
    for (let i = 0; i < items.length; i += 2) target.set(items[i], items[i + 1]);
    return target;
  }

  #container<T extends object>(value: T): T {
    if (++this.#containers > CONTAINER_LIMIT) throw this.#damaged(`more than ${CONTAINER_LIMIT} objects`);
    return value;
  }

  #recall(index: number): unknown {
    if (!this.#memo.has(index)) throw this.#damaged('a reference to nothing');
    return this.#memo.get(index);
  }

  #top(): unknown {
    const value = this.#stack.at(-1);
    if (value === undefined || value === MARK) throw this.#damaged('an instruction without its operand');
    return value;
  }

  #pop(): unknown {
    const value = this.#top();
    this.#stack.pop();
    return value;
  }

  #popMany(count: number): unknown[] {
    const start = this.#stack.length - count;
    const items = start < 0 ? [MARK] : this.#stack.splice(start);
    if (items.includes(MARK)) throw this.#damaged('an instruction without its operand');
    return items;
  }

  #popMark(): unknown[] {
    const mark = this.#stack.lastIndexOf(MARK);
    if (mark < 0) throw this.#damaged('an end without a beginning');
    const items = this.#stack.splice(mark);
    items.shift();
    return items;
  }

  #damaged(problem: string): UserError {
    return this.#cursor.damaged(problem);
  }
}
