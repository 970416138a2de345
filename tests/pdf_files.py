"""Small PDF files for the tests, written byte by byte: no writer makes the damaged ones."""

import hashlib

# Red in the lower left quarter, blue in the upper right one, of a page of `width` x `height`.
QUARTERS = "1 0 0 rg 0 0 {x} {y} re f 0 0 1 rg {x} {y} {x} {y} re f"
PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")


def build(pages, *, password=None, count=None):
    """A PDF of pages given as (page entries, content stream, further objects)."""
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    kids = []
    number = 3
    for entries, content in pages:
        kids.append(number)
        objects[number] = (
            f"<< /Type /Page /Parent 2 0 R /Contents {number + 1} 0 R {entries} >>".encode()
        )
        objects[number + 1] = content.encode()
        number += 2
    total = len(kids) if count is None else count
    listed = " ".join(f"{kid} 0 R" for kid in kids)
    objects[2] = f"<< /Type /Pages /Kids [{listed}] /Count {total} >>".encode()
    return serialise(objects, contents={kid + 1 for kid in kids}, password=password)


def page(width=200, height=100, entries="", content=QUARTERS):
    box = f"/MediaBox [0 0 {width} {height}] "
    return box + entries, content.format(x=width / 2, y=height / 2)


def serialise(objects, contents=(), trailer="", password=None):
    """A file of numbered objects; those in `contents` become streams."""
    if password is not None:
        owner, user, key = keys(password)
        handler = f"<< /Filter /Standard /V 1 /R 2 /O <{owner.hex()}> /U <{user.hex()}> /P -4 >>"
        trailer += f"/Encrypt {handler} /ID [<{b'id'.hex()}> <{b'id'.hex()}>] "
    body = bytearray(b"%PDF-1.7\n")
    places = {}
    for number, content in sorted(objects.items()):
        places[number] = len(body)
        if number in contents:
            if password is not None:
                salt = number.to_bytes(3, "little") + bytes(2)
                content = rc4(hashlib.md5(key + salt).digest()[:10], content)  # noqa: PLW2901
            length = f"<< /Length {len(content)} >>".encode()
            content = length + b"\nstream\n" + content + b"\nendstream"  # noqa: PLW2901
        body += b"%d 0 obj\n%b\nendobj\n" % (number, content)
    table = len(body)
    size = max(objects) + 1
    body += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        body += b"%010d 00000 n \n" % places[number]
    body += f"trailer << /Size {size} /Root 1 0 R {trailer}>>\n".encode()
    return bytes(body + b"startxref\n%d\n%%%%EOF\n" % table)


def keys(password):
    """Owner entry, user entry and key of the standard handler, revision 2 (40 bits)."""
    padded = (password.encode() + PADDING)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    salt = owner + (-4).to_bytes(4, "little", signed=True) + b"id"
    key = hashlib.md5(padded + salt).digest()[:5]
    return owner, rc4(key, PADDING), key


def rc4(key, content):
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    out = bytearray()
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)
