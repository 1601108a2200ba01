"""Writes test/fixtures/data/quirks.json: ids and labels as the training code of LLaVA and NeMo itself makes them; llama_3 as
transformers renders it.

    python3 test/tools/data_quirks.py LLAVA_CHECKOUT NEMO_CHECKOUT

LLaVA at c121f04, NeMo at v2.0.0rc0 (265bd739c7). The functions are taken out of llava/train/train.py, llava/mm_utils.py and
nemo/collections/multimodal/data/neva/neva_dataset.py and run on the tokenizers of data_tokenizer.py; nothing else of the two is
imported. NeMo's code knows ids of a vocabulary of 32000: they are put in place of the tokenizer's.
"""
import ast
import copy
import json
import pathlib
import re
import sys
import tempfile
import types
import typing

import sentencepiece as spm
import torch
import transformers

import data_tokenizer as base

OUT = base.OUT
IMAGE = -200
AWKWARD = ['Say ASSISTANT: now', 'stop</s>go', '[/INST] again', '\u0378 rare', '<unk>']


def take(path, names, namespace, change=lambda text: text):
    """Executes the named functions and upper-case constants of a source file in `namespace`."""
    tree = ast.parse(change(pathlib.Path(path).read_text()))
    wanted = [node for node in tree.body if getattr(node, 'name', None) in names]
    assert len(wanted) == len(names), (path, names)
    exec(compile(ast.Module(wanted, []), str(path), 'exec'), namespace)


def table():
    turns = base.conversations()[::4]
    for i, answer in enumerate(AWKWARD):
        turns.append([('human', '<image>\nWhat?'), ('gpt', answer), ('human', 'And?'), ('gpt', 'Fine.')])
        turns.append([('human', 'What?'), ('gpt', answer)])
    return turns


def llava(checkout):
    root = pathlib.Path(checkout)
    conversation = base.load_llava(root)
    scope = {'torch': torch, 'copy': copy, 'transformers': transformers, 'conversation_lib': conversation, 'Sequence': typing.Sequence,
             'Dict': typing.Dict, 'DataArguments': object, 'IGNORE_INDEX': -100, 'IMAGE_TOKEN_INDEX': IMAGE,
             'DEFAULT_IMAGE_TOKEN': '<image>', 'DEFAULT_IM_START_TOKEN': '<im_start>', 'DEFAULT_IM_END_TOKEN': '<im_end>',
             'IS_TOKENIZER_GREATER_THAN_0_14': True, 'print': lambda *_: None}
    take(root / 'llava' / 'mm_utils.py', ['tokenizer_image_token'], scope)
    take(root / 'llava' / 'train' / 'train.py',
         ['preprocess_multimodal', 'preprocess_llama_2', 'preprocess_v1', 'preprocess_mpt', 'preprocess_plain', 'preprocess',
          '_tokenize_fn', '_mask_targets', '_add_speaker_and_signal'], scope)
    rows = []
    for mode in ('legacy', 'new'):
        for brackets in (False, True):
            tokenizer = transformers.LlamaTokenizer.from_pretrained(OUT / f'tokenizer-{mode}', add_bos_token=True)
            assert tokenizer('a').input_ids[0] == 1
            tokenizer.legacy = mode == 'legacy'
            tokenizer.model_max_length = 4096
            if brackets:
                tokenizer.add_tokens(['<im_start>', '<im_end>'], special_tokens=True)
            for template in ('plain', 'v1', 'llava_v1', 'llama_2', 'llava_llama_2', 'mistral_instruct', 'mpt', 'chatml_direct', 'llava_v0'):
                # v0 is given a pad token of its own, the others pad with unk.
                tokenizer.pad_token = '<|im_end|>' if template == 'llava_v0' else tokenizer.unk_token
                # MPT's tokenizer puts no beginning-of-text token.
                scope['add_bos'] = template not in ('mpt', 'chatml_direct')
                tokenizer.add_bos_token = scope['add_bos']
                assert (tokenizer('a').input_ids[0] == 1) == scope['add_bos']
                conversation.default_conversation = conversation.conv_templates[template]
                for turns in table()[::3] if brackets else table():
                    image = any('<image>' in text for _, text in turns)
                    if template == 'plain' and (len(turns) != 2 or '<image>' not in turns[0][1]):
                        continue
                    if brackets and (not image or template not in ('v1', 'llava_llama_2')):
                        continue
                    source = [{'from': who, 'value': text} for who, text in turns]
                    arguments = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=brackets)
                    out = scope['preprocess'](scope['preprocess_multimodal']([source], arguments), tokenizer, has_image=image)
                    rows.append({'compat': 'llava', 'tokenizer': mode, 'brackets': brackets, 'template': template, 'turns': turns,
                                 'ids': out['input_ids'][0].tolist(), 'labels': out['labels'][0].tolist()})
    return rows


def nemo(checkout):
    root = pathlib.Path(checkout) / 'nemo' / 'collections' / 'multimodal' / 'data' / 'neva'
    spec = base.importlib.util.spec_from_file_location('nemo_conversation', root / 'conversation.py')
    conversation = base.importlib.util.module_from_spec(spec)
    sys.modules['nemo_conversation'] = conversation
    spec.loader.exec_module(conversation)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        base.train(work, 'nemo', vocab_size=640, user_defined_symbols=[f'<extra_id_{i}>' for i in range(8)])
        processor = spm.SentencePieceProcessor(model_file=str(work / 'nemo.model'))
    kept = json.loads((OUT / 'tokenizer-nemo' / 'tokenizer.json').read_text())['model']['vocab']
    assert all(kept[processor.id_to_piece(i)] == i for i in range(processor.get_piece_size()))
    extra = {i: processor.piece_to_id(f'<extra_id_{i}>') for i in range(8)}

    class Tokenizer:
        def text_to_ids(self, text):
            return processor.encode(text)

    constants = {name: getattr(conversation, name) for name in dir(conversation) if name.startswith('DEFAULT_')}
    scope = {'torch': torch, 're': re, 'conversation_lib': conversation, 'IGNORE_INDEX': -1, 'Any': typing.Any, 'Dict': typing.Dict,
             'List': typing.List, 'Union': typing.Union, **constants}
    own_ids = lambda text: re.sub(r'\b3200([0-7])\b', lambda match: str(extra[int(match[1])]), text)
    functions = {'v1': 'preprocess_v1', 'llama_2': 'preprocess_llama_2', 'plain': 'preprocess_plain', 'nvgpt': 'preprocess_nvgpt',
                 'nv_steerlm': 'preprocess_nvgpt', 'nv_dpo': 'preprocess_nv_dpo'}
    take(root / 'neva_dataset.py', ['tokenize', 'preprocess_multimodal', *set(functions.values())], scope, own_ids)
    stand_ins = {'v1', 'llama_2'}
    for template, function in functions.items():
        for front in (False, True):
            for number, turns in enumerate(table()):
                image = '<image>' in turns[0][1]
                if template == 'plain' and (len(turns) != 2 or not image):
                    continue
                # The stand-ins of NeMo's tokenizer are no control tokens: </s> and <unk> in a text are spelt out there.
                if any('</s>' in text or '<unk>' in text for _, text in turns) or (front and (not image or number % 3)):
                    continue
                source = {'conversations': [{'from': who, 'value': text} for who, text in turns]}
                if number % 2 and template in ('nvgpt', 'nv_steerlm', 'nv_dpo'):
                    source['system'] = 'Be brief.\n'
                    source['conversations'][1]['label'] = 'quality:9,humor:2'
                system = source.get('system')
                labels = [turn.get('label') for turn in source['conversations']]
                config = {'is_multimodal': True, 'media_type': 'image', 'use_im_start_end': False, 'sep_image_conv_front': front}
                sources = scope['preprocess_multimodal']([source], config, 3, use_plain=template == 'plain')
                out = scope[function](sources, Tokenizer(), {'context_length': 4096, 'add_extra_token': 0})
                ids, targets = out['tokens'][0].tolist(), out['labels'][0].tolist()
                # NeMo moves labels by one position; nothing is ever learnt at the first.
                marks = [-100] + [-100 if target == -1 else target for target in targets[:-1]]
                # Start, one patch, end of an image: one position.
                patch = 0 if template in stand_ins else extra[3]
                kept_ids, kept_labels = [], []
                at = 0
                while at < len(ids):
                    if ids[at] == extra[4]:
                        assert ids[at + 1] == patch and ids[at + 2] == extra[5]
                        kept_ids.append(IMAGE)
                        kept_labels.append(-100)
                        at += 3
                        continue
                    kept_ids.append(ids[at])
                    kept_labels.append(marks[at])
                    at += 1
                rows.append({'compat': 'nemo', 'tokenizer': 'nemo', 'front': front, 'template': template, 'turns': turns,
                             'system': system, 'attributes': labels, 'ids': kept_ids, 'labels': kept_labels})
    return rows


LLAMA_3 = ("{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content + "
           "'<|eot_id|>' }}{% endfor %}")


def llama_3():
    """Meta's chat form by transformers' chat templates; labels from offsets of the answers in the whole string."""
    system = ('You are a helpful language and vision assistant. You are able to understand the visual content that the user '
              'provides, and assist the user with a variety of tasks using natural language.')
    tokenizer = transformers.LlamaTokenizer.from_pretrained(OUT / 'tokenizer-new')
    tokenizer.add_tokens(['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'], special_tokens=True)
    tokenizer.chat_template = LLAMA_3
    rows = []
    for number, turns in enumerate(table()):
        own = 'Be brief.' if number % 2 else None
        if any('</s>' in text or '<unk>' in text for _, text in turns):
            continue
        messages = [{'role': 'system', 'content': own or system}]
        spans = []
        for who, text in turns:
            messages.append({'role': 'user' if who == 'human' else 'assistant', 'content': text})
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            if who == 'gpt':
                spans.append((len(whole) - len(text + '<|eot_id|>') - 3, len(whole) - 3))
        assert whole.startswith('<s>')
        ids, labels = base.encode(tokenizer, whole[3:], spans, bos=True)
        rows.append({'compat': 'default', 'tokenizer': 'new', 'template': 'llama_3', 'turns': turns, 'system': own,
                     'tokens': ['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'], 'ids': ids, 'labels': labels})
    return rows


def main(llava_checkout, nemo_checkout):
    rows = llava(llava_checkout) + nemo(nemo_checkout) + llama_3()
    versions = {'transformers': transformers.__version__, 'sentencepiece': spm.__version__, 'LLaVA': 'c121f04', 'NeMo': '265bd739c7'}
    lines = ',\n'.join(json.dumps(row, separators=(',', ':')) for row in rows)
    (OUT / 'quirks.json').write_text('{"versions": %s,\n"rows": [\n%s\n]}\n' % (json.dumps(versions), lines))
    print(len(rows), 'conversations', versions)


main(*sys.argv[1:])
