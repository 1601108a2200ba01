"""Writes test/fixtures/data/images/: odd pictures, what Pillow decodes them to, and what CLIPImageProcessor makes of them.

    python3 test/tools/data_images.py
"""
import base64
import hashlib
import json
import pathlib
import random
import zlib

import numpy as np
import PIL
import transformers
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessorPil as Processor

OUT = pathlib.Path(__file__).resolve().parent.parent / 'fixtures' / 'data' / 'images'
SIZE = 28


def scene(width, height, seed=0, alpha=False):
    """Smooth gradients with sharp shapes: resampling errors would show."""
    rng = random.Random(seed)
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    layers = [np.sin(7 * x + seed) * 60 + 128, y * 200 + 20, (x * y) * 220 + 10]
    if alpha:
        layers.append(x * 255)
    image = Image.fromarray(np.stack(layers, -1).astype(np.uint8), 'RGBA' if alpha else 'RGB')
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        box = sorted([rng.randrange(width), rng.randrange(width)]), sorted([rng.randrange(height), rng.randrange(height)])
        colour = tuple(rng.randrange(256) for _ in range(4 if alpha else 3))
        draw.rectangle([box[0][0], box[1][0], box[0][1], box[1][1]], fill=colour)
    return image


def cmyk(width, height, seed):
    """All four inks."""
    return Image.frombytes('CMYK', (width, height), scene(width, height, seed, True).tobytes())


def save_all():
    save = lambda image, name, **options: image.save(OUT / name, **options)
    save(scene(64, 48), 'rgb.png')
    save(scene(48, 64, 1), 'tall.png')
    save(scene(28, 28, 2), 'exact.png')
    save(scene(9, 7, 3), 'tiny.png')
    save(scene(200, 10, 4), 'strip.png')
    save(scene(10, 150, 5), 'column.png')
    save(scene(1, 1, 6), 'dot.png')
    save(scene(157, 113, 7), 'odd.png')
    save(scene(28, 90, 8), 'samewidth.png')
    save(scene(120, 90, 9), 'photo.jpg', quality=90)
    save(scene(121, 91, 10), 'chroma.jpg', quality=60, subsampling=2)
    save(scene(90, 70, 11), 'progressive.jpg', quality=80, progressive=True)
    save(scene(80, 60, 12).convert('L'), 'grey.jpg', quality=85)
    save(scene(80, 60, 13).convert('L'), 'grey.png')
    save(scene(60, 50, 14).convert('1'), 'bilevel.png')
    save(scene(60, 50, 15, True).convert('LA'), 'greyalpha.png')
    save(scene(60, 50, 16, True), 'rgba.png')
    save(scene(60, 50, 17).quantize(32), 'palette.png')
    palette = scene(60, 50, 18).quantize(16)
    save(palette, 'palettealpha.png', transparency=bytes([0, 128] + [255] * 14))
    save(scene(60, 50, 19).quantize(64), 'still.gif')
    frames = [scene(40, 40, seed).quantize(32) for seed in (20, 21)]
    frames[0].save(OUT / 'moving.gif', save_all=True, append_images=frames[1:])
    save(cmyk(64, 48, 22), 'cmyk.jpg', quality=95)
    save(cmyk(64, 48, 23), 'cmyk.tif', compression='tiff_lzw')
    save(scene(64, 48, 24), 'lossy.webp', quality=80)
    save(scene(64, 48, 25, True), 'lossless.webp', lossless=True)
    save(scene(64, 48, 26), 'plain.tif', compression='tiff_lzw')
    save(Image.fromarray((np.arange(48 * 64, dtype=np.uint32) * 21 % 65536).astype(np.uint16).reshape(48, 64)), 'grey16.png')
    png16(OUT / 'rgb16.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    save(scene(90, 50, 27), 'rotated.jpg', quality=90, exif=exif)
    (OUT / 'wrongname.jpg').write_bytes((OUT / 'rgb.png').read_bytes())
    transparent = scene(60, 50, 28)
    save(transparent, 'keycolour.png', transparency=transparent.getpixel((0, 0)))
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('XYZ')).tobytes()
    save(scene(40, 40, 29), 'profile.png', icc_profile=profile)
    save(scene(70, 50, 30).convert('YCbCr'), 'ycc.jpg', quality=92, subsampling=0)


def png16(path):
    """16-bit RGB PNG by hand: Pillow reads such files but cannot write them."""
    height, width = 40, 52
    values = (np.arange(height * width * 3, dtype=np.uint64) * 977 % 65536).astype('>u2').reshape(height, width * 3)
    raw = b''.join(b'\0' + row.tobytes() for row in values)
    chunk = lambda kind, data: len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    header = width.to_bytes(4, 'big') + height.to_bytes(4, 'big') + bytes([16, 2, 0, 0, 0])
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(raw, 9)) + chunk(b'IEND', b''))


def pad(image, colour):
    """LLaVA's expand2square."""
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    out = Image.new('RGB', (side, side), colour)
    out.paste(image, ((side - width) // 2, (side - height) // 2))
    return out


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    save_all()
    processor = Processor(size={'shortest_edge': SIZE}, crop_size={'height': SIZE, 'width': SIZE})
    colour = tuple(int(value * 255) for value in processor.image_mean)
    mean, std = np.array(processor.image_mean)[:, None, None], np.array(processor.image_std)[:, None, None]
    rows = []
    for path in sorted(OUT.iterdir()):
        image = Image.open(path)
        mode = image.mode
        image = image.convert('RGB')
        row = {'file': path.name, 'mode': mode, 'width': image.width, 'height': image.height,
               'sha256': hashlib.sha256(image.tobytes()).hexdigest()}
        for aspect in ('square', 'pad'):
            source = pad(image, colour) if aspect == 'pad' else image
            pixels = np.asarray(processor(source, return_tensors='np')['pixel_values'][0], np.float64)
            assert pixels.shape == (3, SIZE, SIZE), pixels.shape
            grey = np.rint((pixels * std + mean) * 255).astype(np.uint8)
            row[aspect] = base64.b64encode(grey.tobytes()).decode()
            row[aspect + 'Sample'] = [float(np.float32(v)) for v in pixels.reshape(-1)[[0, 500, 1500, 2351]]]
        rows.append(row)
    versions = {'pillow': PIL.__version__, 'transformers': transformers.__version__, 'processor': type(processor).__name__}
    text = ',\n'.join(json.dumps(row) for row in rows)
    (OUT.parent / 'images.json').write_text('{"size": %d, "versions": %s, "rows": [\n%s\n]}\n' % (SIZE, json.dumps(versions), text))
    print(len(rows), 'pictures', versions)


main()
