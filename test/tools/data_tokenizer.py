"""Writes test/fixtures/data/tokenizer*/ and conversations.json: a tiny LLaMA-like tokenizer and what the references make of
a table of conversations.

    python3 test/tools/data_tokenizer.py PATH_TO_A_LLAVA_CHECKOUT

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


def train(folder):
    corpus = folder / 'corpus.txt'
    corpus.write_text(CORPUS * 8)
    spm.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / 'tokenizer'), vocab_size=620, model_type='bpe', byte_fallback=True,
        normalization_rule_name='identity', remove_extra_whitespaces=False, split_digits=True, character_coverage=0.999,
        allow_whitespace_only_pieces=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)


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


def main(checkout):
    llava = load_llava(checkout)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        train(work)
        processor = spm.SentencePieceProcessor(model_file=str(work / 'tokenizer.model'))
        vocab, merges = vocabulary(processor)
        plain_texts = [text for turns in conversations() for _, text in turns]
        (OUT / 'spm').mkdir(parents=True, exist_ok=True)
        shutil.copy(work / 'tokenizer.model', OUT / 'spm' / 'tokenizer.model')
        for mode, legacy in (('legacy', True), ('new', False)):
            folder = OUT / f'tokenizer-{mode}'
            shutil.rmtree(folder, ignore_errors=True)
            tokenizer = LlamaTokenizer(vocab=vocab, merges=merges, legacy=legacy)
            tokenizer.save_pretrained(folder)
            config = json.loads((folder / 'tokenizer_config.json').read_text())
            config['legacy'] = legacy
            (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=1) + '\n')
            tokenizer = LlamaTokenizer.from_pretrained(folder)
            for template in ('plain', 'v1', 'llava_llama_2'):
                for turns in conversations():
                    if template == 'plain' and (len(turns) != 2 or '<image>' not in turns[0][1]):
                        continue
                    text, spans = render(llava, template, turns)
                    # LLaMA-2's rendering loses its first <s> to the tokenizer's own.
                    ids, labels = encode(tokenizer, text, spans, bos=True)
                    rows.append({'tokenizer': mode, 'template': template, 'turns': turns, 'text': text, 'ids': ids, 'labels': labels})
    versions = {'transformers': transformers.__version__, 'tokenizers': tokenizers.__version__, 'sentencepiece': spm.__version__}
    spm_rows = [{'text': text, 'ids': processor.encode(text)} for text in sorted(set(plain_texts))]
    lines = ',\n'.join(json.dumps(row) for row in rows)
    (OUT / 'conversations.json').write_text(
        '{"versions": %s,\n"sentencepiece": %s,\n"rows": [\n%s\n]}\n' % (json.dumps(versions), json.dumps(spm_rows), lines))
    print(len(rows), 'conversations', versions)


main(sys.argv[1])
