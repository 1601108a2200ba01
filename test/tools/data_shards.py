"""Writes test/fixtures/data/shards/: WebDataset shards in the layout of webdataset.TarWriter and img2dataset, made with Python's
tarfile. Shard 0 and 1: captions (.txt with .jpg/.png, and img2dataset's .json beside); shard 2: conversations in .json, one with
two pictures, one text only.

    python3 test/tools/data_shards.py
"""
import io
import json
import pathlib
import tarfile

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / 'fixtures' / 'data'
OUT = FIXTURES / 'shards'
OUT.mkdir(exist_ok=True)


def picture(name):
    return (FIXTURES / 'images' / name).read_bytes()


def shard(number, members, **options):
    with tarfile.open(OUT / f'set-{number:03}.tar', 'w', **options) as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def turns(question, answer):
    return [{'from': 'human', 'value': question}, {'from': 'gpt', 'value': answer}]


shard(0, [('00000.jpg', picture('rgb.png')), ('00000.txt', 'a red square\n'),
          ('00000.json', json.dumps({'caption': 'not this one', 'url': 'http://host/a.jpg', 'status': 'success'})),
          ('00001.json', json.dumps({'caption': 'only in the json'})), ('00001.png', picture('odd.png'))],
      format=tarfile.USTAR_FORMAT)
shard(1, [('./deep/' + 'long/' * 30 + 'n.txt', 'a long name'), ('./deep/' + 'long/' * 30 + 'n.png', picture('grey.png')),
          ('00000.txt', 'same stem, another shard'), ('00000.jpg', picture('grey.png'))], format=tarfile.PAX_FORMAT)
shard(2, [('c.json', json.dumps({'id': 'talk', 'image': ['x.jpg', 'y.jpg'],
                                 'conversations': turns('<image>\n<image>\nWhich?', 'Both.')})),
          ('c.0.png', picture('rgb.png')), ('c.1.PNG', picture('tiny.png')),
          ('t.json', json.dumps({'conversations': turns('Why?', 'Because.')})),
          ('bad.json', '{"conversations": '), ('empty.cls', '3')], format=tarfile.GNU_FORMAT)
