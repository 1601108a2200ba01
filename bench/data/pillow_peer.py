"""Pillow + CLIPImageProcessor's side of bench/data: FILE SIZE as arguments; for every `whole N` on stdin, N pictures are
decoded, resized and normalised, for `decode N` only decoded; answers with the CPU seconds this took."""
import sys
import time

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

torch.set_num_threads(1)
path, size = sys.argv[1], int(sys.argv[2])
processor = CLIPImageProcessorPil(size={'shortest_edge': size}, crop_size={'height': size, 'width': size})


def decode():
    return Image.open(path).convert('RGB')


def whole():
    return processor(decode(), return_tensors='np')['pixel_values']


for _ in range(5):
    whole()
print('ready', flush=True)
for line in sys.stdin:
    what, count = line.split()
    work = {'decode': decode, 'whole': whole}[what]
    start = time.process_time()
    for _ in range(int(count)):
        work()
    print(time.process_time() - start, flush=True)
