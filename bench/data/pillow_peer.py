"""Pillow + CLIPImageProcessor's side of bench/data: FILE SIZE as arguments; for every line on stdin, that many pictures are
decoded, resized and normalised; answers with the CPU seconds this took."""
import sys
import time

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

torch.set_num_threads(1)
path, size = sys.argv[1], int(sys.argv[2])
processor = CLIPImageProcessorPil(size={'shortest_edge': size}, crop_size={'height': size, 'width': size})


def once():
    return processor(Image.open(path).convert('RGB'), return_tensors='np')['pixel_values']


for _ in range(5):
    once()
print('ready', flush=True)
for line in sys.stdin:
    start = time.process_time()
    for _ in range(int(line)):
        once()
    print(time.process_time() - start, flush=True)
