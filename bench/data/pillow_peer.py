"""Pillow + CLIPImageProcessor's side of bench/data: FILE SIZE as arguments; for every `whole N` on stdin, N pictures are
decoded, resized and normalised, for `decode N` only decoded, for `torchvision N` as `whole`, by CLIPImageProcessor's torchvision
backend; answers with the CPU seconds this took, or `nan` where torchvision is not installed."""
import sys
import time

import torch

register_fake = torch.library.register_fake


def lenient(operator, *args, **keywords):
    # PyPI's torchvision beside a CPU build of torch has none of its own operators; resizing uses none of them.
    if isinstance(operator, str) and operator.startswith('torchvision::'):
        return lambda function: function
    return register_fake(operator, *args, **keywords)


torch.library.register_fake = lenient

from PIL import Image  # noqa: E402
from transformers import CLIPImageProcessorPil  # noqa: E402

torch.set_num_threads(1)
path, size = sys.argv[1], int(sys.argv[2])
shape = {'size': {'shortest_edge': size}, 'crop_size': {'height': size, 'width': size}}
pil = CLIPImageProcessorPil(**shape)
try:
    import torchvision  # noqa: F401
    from transformers import CLIPImageProcessor

    vision = CLIPImageProcessor(**shape)
except ImportError:
    vision = None


def decode():
    return Image.open(path).convert('RGB')


def whole():
    return pil(decode(), return_tensors='np')['pixel_values']


def torchvision_whole():
    return vision(decode(), return_tensors='pt')['pixel_values']


works = {'decode': decode, 'whole': whole, 'torchvision': vision and torchvision_whole}
print('ready', flush=True)
for line in sys.stdin:
    what, count = line.split()
    work = works[what]
    for _ in range(5 if work else 0):
        work()
    start = time.process_time()
    if work:
        for _ in range(int(count)):
            work()
    print(time.process_time() - start if work else 'nan', flush=True)
