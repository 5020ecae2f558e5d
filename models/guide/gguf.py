"""A writer for GGUF version 3: metadata and tensors in F32 or Q8_0."""
import struct

import numpy as np

ALIGNMENT = 32
F32, Q8_0 = 0, 8
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


_SCALAR = {UINT32: lambda v: struct.pack("<I", v), INT32: lambda v: struct.pack("<i", v), FLOAT32: lambda v: struct.pack("<f", v),
           BOOL: lambda v: struct.pack("<?", v), STRING: _string}


def _entry(key, kind, value):
    """One metadata entry; kind is a type, or (ARRAY, type of the items)."""
    if isinstance(kind, tuple):
        head = struct.pack("<IIQ", ARRAY, kind[1], len(value))
        return _string(key) + head + b"".join(_SCALAR[kind[1]](v) for v in value)
    return _string(key) + struct.pack("<I", kind) + _SCALAR[kind](value)


def encode_q8_0(x):
    """Blocks of 32: an F16 scale d = amax / 127, then round(x / d); halves away from zero, as llama.cpp rounds."""
    blocks = x.astype(np.float32).reshape(-1, 32)
    d = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), d, out=np.zeros_like(d), where=d != 0)
    scaled = blocks * inverse
    q = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), q.view(np.uint8)], 1).tobytes()


def write(path, metadata, tensors):
    """metadata: [(key, type, value)]; tensors: [(name, array, type)], the array's last axis being the row."""
    head, infos, blobs, offset = [], [], [], 0
    for key, kind, value in metadata:
        head.append(_entry(key, kind, value))
    for name, array, kind in tensors:
        raw = encode_q8_0(array) if kind == Q8_0 else array.astype("<f4").tobytes()
        dims = array.shape[::-1]
        infos.append(_string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims) + struct.pack("<IQ", kind, offset))
        blobs.append(raw + b"\0" * (-len(raw) % ALIGNMENT))
        offset += len(blobs[-1])
    start = struct.pack("<IIQQ", 0x46554747, 3, len(tensors), len(metadata)) + b"".join(head) + b"".join(infos)
    part = path.with_name(path.name + ".part")
    part.write_bytes(start + b"\0" * (-len(start) % ALIGNMENT) + b"".join(blobs))
    part.rename(path)
