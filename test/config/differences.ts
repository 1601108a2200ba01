/**
 * Cases in which neva means to answer otherwise than Hydra and OmegaConf, with the reason;
 * docs/hydra-differences.md explains them.
 */
const BEYOND_ASCII = 'characters beyond ASCII need no quotes';
const NESTED = 'braces in an interpolation are matched';
const JSON_KEYS = 'keys of a mapping may be quoted, so that JSON can be pasted';
const BLANKS = 'blanks after a quoted string, a list, a mapping or a call do no harm';

export const DIFFERENCES: Record<'overrides' | 'merges' | 'compositions', Record<string, string>> = {
  overrides: {
    'k=é': BEYOND_ASCII,
    'k=日本 語': BEYOND_ASCII,
    'k=naïve,ü': BEYOND_ASCII,
    'k=${a.${b}}': NESTED,
    'k=x${a.${b}}y': NESTED,
    'k=${f:{x:1}}': NESTED,
    "k=${f:'}'}": NESTED,
    'k={a:${b.${c}}}': NESTED,
    'k={"a":1}': JSON_KEYS,
    'k={"a": {"b": [1, null]}}': JSON_KEYS,
    "k={'a':1}": JSON_KEYS,
    "k='a' ": BLANKS,
    'k="a"  ': BLANKS,
    'k=[1] ': BLANKS,
    'k={a:1} ': BLANKS,
    'k=int(1) ': BLANKS,
    'k=range(true)': 'true as a bound of a range is the number 1, not a bool',
  },
  merges: {
    'a: {b: 1} + a: {b: ???}': '??? may stand in a mapping written on one line',
    '- 1': 'a configuration is a mapping',
    a: 'a configuration is a mapping',
    'b: {x: 1}\na: ${oc.dict.keys:${b}}': 'oc.dict.keys takes the mapping itself as well as its path',
  },
  compositions: {},
};
