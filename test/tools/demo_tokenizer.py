"""Trains data/demo/llm/'s tokenizer, and writes test/fixtures/demo/tokenizer.json: what it makes of every demo text.

    node dist/data/demo/make/more.js --text --seed 3 --count 1500 --out FOLDER
    python3 test/tools/demo_tokenizer.py FOLDER/text.json

Made with tokenizers 0.23.2. LLaMA-2's design in miniature: BPE over characters with ▁ for a space, bytes for all other
characters, <unk> 0, <s> 1, </s> 2, bytes from 3. The ▁ in front comes from a Metaspace step that writes it before the
first piece alone: this is what `legacy: false` means, so that every library agrees on the `USER` after an `</s>`.
"""
import hashlib
import json
import pathlib
import re
import sys

import tokenizers
from tokenizers import Tokenizer, models, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / 'data' / 'demo'
VOCABULARY = 512
SPECIAL = ['<unk>', '<s>', '</s>']
BYTES = [f'<0x{i:02X}>' for i in range(256)]
SYSTEM = (
    'A chat between a curious user and an artificial intelligence assistant. '
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
# The system prompt is counted once for this many records. 8 brings it to 40 tokens and leaves the world's own words one
# token, but for plurals and number words; 30 would make those one token too, and the system prompt 54.
SYSTEM_EVERY = 8


def conversation(record):
    """LLaVA's v1 text of a record, without its picture."""
    turns = [turn['value'].replace('<image>', '') for turn in record['conversations']]
    rounds = zip(turns[::2], turns[1::2])
    return SYSTEM + ' ' + ''.join(f'USER: {question} ASSISTANT: {answer}</s>' for question, answer in rounds)


def pieces(text):
    """The stretches that merges may not cross: a word with the ▁ before it, a mark, and never a line's end."""
    for stretch in re.split(r'</s>|\n', text):
        yield from re.findall(r'▁?\w+|▁|[^\w▁]', stretch.replace(' ', '▁'), flags=re.ASCII)


def learn(texts):
    """Vocabulary and merges; no merge crosses from one piece into the next."""
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL + BYTES, show_progress=False)
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = tokenizers.pre_tokenizers.Split('\n', 'removed')
    learned.train_from_iterator(('\n'.join(pieces(text)) for text in texts), trainer)
    return json.loads(learned.to_str())['model']


def llama_like(model):
    """tokenizer.json as a dict, the special tokens alone marked as such."""
    added = [
        {'id': i, 'content': token, 'single_word': False, 'lstrip': False, 'rstrip': False, 'normalized': False,
         'special': True}
        for i, token in enumerate(SPECIAL)
    ]
    bos = {'SpecialToken': {'id': '<s>', 'type_id': 0}}
    return {
        'version': '1.0',
        'truncation': None,
        'padding': None,
        'added_tokens': added,
        'normalizer': None,
        'pre_tokenizer': {'type': 'Metaspace', 'replacement': '▁', 'prepend_scheme': 'first', 'split': False},
        'post_processor': {
            'type': 'TemplateProcessing',
            'single': [bos, {'Sequence': {'id': 'A', 'type_id': 0}}],
            'pair': [bos, {'Sequence': {'id': 'A', 'type_id': 0}}, {'SpecialToken': {'id': '<s>', 'type_id': 1}},
                     {'Sequence': {'id': 'B', 'type_id': 1}}],
            'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}},
        },
        'decoder': {
            'type': 'Sequence',
            'decoders': [
                {'type': 'Replace', 'pattern': {'String': '▁'}, 'content': ' '},
                {'type': 'ByteFallback'},
                {'type': 'Fuse'},
                {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0},
            ],
        },
        'model': {
            'type': 'BPE', 'dropout': None, 'unk_token': '<unk>', 'continuing_subword_prefix': None,
            'end_of_word_suffix': None, 'fuse_unk': True, 'byte_fallback': True, 'ignore_merges': False,
            'vocab': model['vocab'], 'merges': model['merges'],
        },
    }


CONFIG = {
    'add_bos_token': True,
    'add_eos_token': False,
    'bos_token': '<s>',
    'clean_up_tokenization_spaces': False,
    'eos_token': '</s>',
    'legacy': False,
    'model_max_length': 512,
    'pad_token': None,
    'padding_side': 'right',
    'tokenizer_class': 'LlamaTokenizer',
    'unk_token': '<unk>',
}
SPECIAL_MAP = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}


def write(path, value, **style):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, **style) + '\n', encoding='utf-8')


def digest(tokenizer, texts):
    """SHA-256 over the ids of all texts: ids joined by spaces, a line a text."""
    lines = '\n'.join(' '.join(map(str, tokenizer.encode(text).ids)) for text in texts)
    return hashlib.sha256(lines.encode()).hexdigest()


def main():
    records = [r for name in ('pretrain', 'finetune', 'heldout') for r in json.loads((DEMO / f'{name}.json').read_text())]
    text_only = json.loads(pathlib.Path(sys.argv[1]).read_text())
    captions = [turn['value'] + '\n' for r in records[:1500] for turn in r['conversations'][1:]]
    rounds = [conversation(r)[len(SYSTEM) :] for r in records + text_only]
    folder = DEMO / 'llm'
    if '--keep' in sys.argv:  # the model in data/demo knows these tokens: only the ids to compare with are made anew
        model = json.loads((folder / 'tokenizer.json').read_text())['model']
    else:
        model = learn(captions + rounds + [SYSTEM] * (len(rounds) // SYSTEM_EVERY))
        write(folder / 'tokenizer.json', llama_like(model), indent=1)
        write(folder / 'tokenizer_config.json', CONFIG, indent=2)
        write(folder / 'special_tokens_map.json', SPECIAL_MAP, indent=2)

    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    full = [conversation(r) for r in records]
    turns = [turn['value'].replace('<image>', '') for r in records for turn in r['conversations']]
    odd = ['', ' ', '\n', 'Grüße, 世界 🙂\ttab', '  two  spaces ', 'USER: a</s>USER: b </s> c', '▁', 'quartz 1234567890']
    samples = [SYSTEM, *full[::500], *turns[:6], *(conversation(r) for r in text_only[:2]), *odd]
    write(
        ROOT / 'test' / 'fixtures' / 'demo' / 'tokenizer.json',
        {
            'made_with': f'tokenizers {tokenizers.__version__}',
            'conversations': {'count': len(full), 'sha256': digest(tokenizer, full)},
            'turns': {'count': len(turns), 'sha256': digest(tokenizer, turns)},
            'samples': [{'text': t, 'ids': tokenizer.encode(t).ids, 'decoded': tokenizer.decode(tokenizer.encode(t).ids)}
                        for t in samples],
        },
        indent=1,
    )

    lengths = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in rounds]
    turns_of = [len(r['conversations']) // 2 for r in records + text_only]
    print('vocabulary', tokenizer.get_vocab_size(), 'merges', len(model['merges']))
    print('system prompt', tokenizer.encode(SYSTEM).tokens)
    print('tokens a turn', round(sum(lengths) / sum(turns_of), 1))
    for text in (rounds[0], rounds[2000], rounds[-1], captions[0]):
        print(len(tokenizer.encode(text, add_special_tokens=False).ids), tokenizer.encode(text).tokens)
    words = sorted({p for text in rounds for p in pieces(text)})
    print('not one token:', {w: tokenizer.encode(w, add_special_tokens=False).tokens for w in words
                            if w not in model['vocab']})


if __name__ == '__main__':
    main()
