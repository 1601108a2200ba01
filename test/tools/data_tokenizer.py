"""Writes test/fixtures/data/tokenizer*/ and conversations.json: a tiny LLaMA-like tokenizer and what the references make of
a table of conversations.

    python3 test/tools/data_tokenizer.py PATH_TO_A_LLAVA_CHECKOUT

and nemo.json with tokenizer-nemo/: NeMo's texts, as one SentencePiece text each.

Texts are rendered by LLaVA's own conversation classes, tokenized as whole strings by transformers' LlamaTokenizer (each
piece between images alone, as LLaVA does); labels come from character offsets of the answers in the whole string.
"""
import importlib.util
import json
import pathlib
import shutil
import sys
import tempfile

import sentencepiece as spm
import tokenizers
import transformers
from transformers import LlamaTokenizer

OUT = pathlib.Path(__file__).resolve().parent.parent / 'fixtures' / 'data'
IMAGE = -200
ALL = ['plain', 'v1', 'llava_llama_2']
SOME = ['llama_2', 'llava_v1', 'v0', 'mpt', 'chatml_direct', 'mistral_instruct']

CORPUS = """
What is in the picture? There is a red circle above a blue square. How many triangles are there? There are three.
The user asks a question about the image and the assistant gives a helpful, detailed, and polite answer.
A chat between a curious user and an artificial intelligence assistant. USER: What color is the cat? ASSISTANT: It is black.
You are a helpful language and vision assistant. You are able to understand the visual content that the user provides.
[INST] <<SYS>> Answer the questions. <</SYS>> Describe the scene. [/INST] A man rides a bicycle along the river at sunset.
1 2 3 4 5 6 7 8 9 0 10 23 456 7890  two  spaces   three    four. Caf\u00e9 na\u00efve \u00fcber stra\u00dfe. Hello, world! It's a dog's life.
A woman is holding an umbrella while walking down the street. Two dogs are playing in the grass near a wooden fence.
"""

ANSWERS = [
    'a red circle', 'Yes.', 'There are 3 triangles, 12 squares and 456 dots.', ' leading space', 'trailing space ',
    'two  spaces   inside', 'line one\nline two\n', '\nstarts with a newline', 'Caf\u00e9 na\u00efve stra\u00dfe \u2014 \u4f60\u597d \U0001f600',
    "It's the dog's [INST] bone", 'a\tb', '1234567890', 'A chat between a curious user and an assistant.', '###', '.',
]
QUESTIONS = [
    'What is in the picture?', 'How many?', 'Describe the scene in  detail.\nBe brief.', 'na\u00efve?', 'x', 'What about "that"?',
]


def conversations():
    """Turns as LLaVA's JSON has them: one to three rounds, with and without an image."""
    table = []
    for i, answer in enumerate(ANSWERS):
        question = QUESTIONS[i % len(QUESTIONS)]
        for image in ('front', 'back', None):
            text = {'front': f'<image>\n{question}', 'back': f'{question}\n<image>', None: question}[image]
            turns = [('human', text), ('gpt', answer)]
            for round_ in range(1, 1 + i % 3):
                turns += [('human', QUESTIONS[(i + round_) % 6]), ('gpt', ANSWERS[(i * 7 + round_) % len(ANSWERS)])]
            table.append(turns)
    return table


def train(folder, name='tokenizer', vocab_size=620, **more):
    corpus = folder / 'corpus.txt'
    corpus.write_text(CORPUS * 8)
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / name), vocab_size=vocab_size, model_type='bpe', byte_fallback=True,
        normalization_rule_name='identity', remove_extra_whitespaces=False, split_digits=True, character_coverage=0.999,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, **more)


def vocabulary(processor):
    """Pieces and merges of a SentencePiece BPE model: every way to make a piece of two, best pieces first."""
    vocab = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    merges = []
    for piece, index in vocab.items():
        ways = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece)) if piece[:cut] in vocab and piece[cut:] in vocab]
        ways.sort(key=lambda way: (vocab[way[0]], vocab[way[1]]))
        merges += [(processor.get_score(index), way) for way in ways if not processor.is_byte(index)]
    merges.sort(key=lambda merge: merge[0], reverse=True)
    return vocab, [way for _, way in merges]


def load_llava(checkout):
    spec = importlib.util.spec_from_file_location('llava_conversation', pathlib.Path(checkout) / 'llava' / 'conversation.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules['llava_conversation'] = module
    spec.loader.exec_module(module)
    return module


def multimodal(text):
    """LLaVA's rewriting: the image first, then a newline."""
    return ('<image>\n' + text.replace('<image>', '').strip()).strip() if '<image>' in text else text


def render(llava, name, turns):
    """The whole training text and the character spans of the answers with their end marks."""
    if name == 'plain':
        text = '<image>' + turns[1][1] + '\n'
        return text, [(len('<image>'), len(text))]
    conv = llava.conv_templates[name].copy()
    conv.messages = []
    spans = []
    for index, (_, text) in enumerate(turns):
        if index % 2 == 0:
            conv.append_message(conv.roles[0], multimodal(text))
            conv.append_message(conv.roles[1], None)
            start = len(conv.get_prompt())
            conv.messages.pop()
        else:
            conv.append_message(conv.roles[1], text)
            spans.append((start, len(conv.get_prompt())))
    return conv.get_prompt(), spans


def encode(tokenizer, text, spans, bos):
    """Each piece between images alone; a label where a token's characters begin inside an answer."""
    ids, labels = ([1], [-100]) if bos else ([], [])
    at = 0
    for number, piece in enumerate(text.split('<image>')):
        if number:
            ids.append(IMAGE)
            labels.append(-100)
            at += len('<image>')
        if piece:
            encoding = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            for token, (low, high) in zip(encoding['input_ids'], encoding['offset_mapping']):
                inside = any(start <= at + low and at + high <= end for start, end in spans)
                ids.append(token)
                labels.append(token if inside else -100)
        at += len(piece)
    return ids, labels


def nemo_parts(template, turns):
    """NeMo's text in parts (text, in the loss), written down from its separators."""
    system = {
        'v1': "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
              "detailed, and polite answers to the user's questions.",
        'llama_2': 'You are a helpful language and vision assistant. You are able to understand the visual content that the '
                   'user provides, and assist the user with a variety of tasks using natural language.',
    }
    bos, eos, separator = '<extra_id_6>', '<extra_id_7>', '<extra_id_1>'
    labels = ('<extra_id_2>quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,'
              'complexity:4,verbosity:4\n')
    parts = []
    if template == 'plain':
        return [('<image>', False), (turns[1][1] + '\n', True)]
    if template == 'v1':
        parts.append((system['v1'] + ' ', False))
    if template == 'mistral':
        parts.append((bos, False))
    if template in ('nvgpt', 'nv_steerlm', 'nv_dpo'):
        text = '\n' if template == 'nv_dpo' else system['v1'] + '\n\n'
        parts.append((f'<extra_id_0>System\n{text}{separator}', False))
    for index in range(0, len(turns), 2):
        question, answer = turns[index][1], turns[index + 1][1]
        if template == 'v1':
            parts += [(f"{' ' if index else ''}USER: {question} ASSISTANT:", False), (f' {answer}{eos}', True)]
        elif template == 'llama_2':
            head = '' if index else f"<<SYS>>\n{system['llama_2']}\n<</SYS>>\n\n"
            parts += [(f"{bos if index else ''} [INST] {head}{question} [/INST]", False), (f' {answer} {eos}', True)]
        elif template == 'mistral':
            parts += [(f' [INST] {question} [/INST]', False), (f'{answer}{eos}', True)]
        else:
            attributes = '' if template == 'nv_dpo' else labels
            parts += [(f'User\n{question}\n{separator}Assistant\n{attributes}', False), (f'{answer}\n{separator}', True)]
    return parts


def nemo(work):
    """Whole strings through SentencePiece; stand-ins of the special tokens become LLaMA's, as NeMo does."""
    extra = [f'<extra_id_{i}>' for i in range(8)]
    train(work, 'nemo', vocab_size=640, user_defined_symbols=extra)
    processor = spm.SentencePieceProcessor(model_file=str(work / 'nemo.model'))
    vocab, merges = vocabulary(processor)
    tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, legacy=True)
    tokenizer.add_special_tokens({'additional_special_tokens': extra})
    tokenizer.save_pretrained(OUT / 'tokenizer-nemo')
    rows = []
    for template in ('plain', 'v1', 'llama_2', 'mistral', 'nvgpt', 'nv_steerlm', 'nv_dpo'):
        for turns in conversations()[::3] + conversations()[1::9]:
            if template == 'plain' and (len(turns) != 2 or '<image>' not in turns[0][1]):
                continue
            if any('[INST]' in text for _, text in turns):
                continue
            parts = nemo_parts(template, turns)
            text = ''.join(part for part, _ in parts)
            patch = lambda part: part.replace('<image>', '<extra_id_4><extra_id_3><extra_id_5>')
            spans, at = [], 0
            for part, loss in parts:
                end = at + len(patch(part).encode())
                if loss:
                    spans.append((at, end))
                at = end
            ids, labels = [], []
            # Byte offsets in the text; the dummy prefix lies before it.
            end = -1
            for token in processor.encode(patch(text)):
                piece = processor.id_to_piece(token)
                begin = end
                end += 1 if processor.is_byte(token) else len(piece.replace('\u2581', ' ').encode())
                if piece in ('<extra_id_3>', '<extra_id_5>'):
                    continue
                stand_in = {'<extra_id_4>': IMAGE}
                if template in ('v1', 'llama_2', 'mistral'):
                    stand_in.update({'<extra_id_6>': 1, '<extra_id_7>': 2})
                token = stand_in.get(piece, token)
                inside = any(low <= begin and end <= high for low, high in spans)
                ids.append(token)
                labels.append(token if inside and token != IMAGE else -100)
            assert end == len(patch(text).encode())
            rows.append({'template': template, 'turns': turns, 'ids': ids, 'labels': labels})
    lines = ',\n'.join(json.dumps(row) for row in rows)
    (OUT / 'nemo.json').write_text('{"versions": %s,\n"rows": [\n%s\n]}\n' % (json.dumps({'sentencepiece': spm.__version__}), lines))
    print(len(rows), 'conversations in NeMo\'s form')


def main(checkout):
    llava = load_llava(checkout)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        train(work)
        nemo(work)
        processor = spm.SentencePieceProcessor(model_file=str(work / 'tokenizer.model'))
        vocab, merges = vocabulary(processor)
        plain_texts = [text for turns in conversations() for _, text in turns]
        (OUT / 'spm').mkdir(parents=True, exist_ok=True)
        shutil.copy(work / 'tokenizer.model', OUT / 'spm' / 'tokenizer.model')
        for mode, legacy in (('legacy', True), ('new', False)):
            folder = OUT / f'tokenizer-{mode}'
            shutil.rmtree(folder, ignore_errors=True)
            tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, legacy=legacy)
            tokenizer.add_special_tokens({'additional_special_tokens': ['<|im_start|>', '<|im_end|>']})
            tokenizer.save_pretrained(folder)
            config = json.loads((folder / 'tokenizer_config.json').read_text())
            config['legacy'] = legacy
            (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=1) + '\n')
            tokenizer = LlamaTokenizer.from_pretrained(folder)
            for template in ALL + SOME:
                for turns in conversations()[::1 if template in ALL else 6]:
                    if template == 'plain' and (len(turns) != 2 or '<image>' not in turns[0][1]):
                        continue
                    text, spans = render(llava, template, turns)
                    # LLaMA-2's rendering loses its first <s> to the tokenizer's own.
                    ids, labels = encode(tokenizer, text, spans, bos=template not in ('mpt', 'chatml_direct'))
                    rows.append({'tokenizer': mode, 'template': template, 'turns': turns, 'text': text, 'ids': ids, 'labels': labels})
    versions = {'transformers': transformers.__version__, 'tokenizers': tokenizers.__version__, 'sentencepiece': spm.__version__}
    spm_rows = [{'text': text, 'ids': processor.encode(text)} for text in sorted(set(plain_texts))]
    lines = ',\n'.join(json.dumps(row) for row in rows)
    (OUT / 'conversations.json').write_text(
        '{"versions": %s,\n"sentencepiece": %s,\n"rows": [\n%s\n]}\n' % (json.dumps(versions), json.dumps(spm_rows), lines))
    print(len(rows), 'conversations', versions)


if __name__ == '__main__':
    main(sys.argv[1])
