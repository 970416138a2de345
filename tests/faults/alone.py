"""Run a command in a network of its own and print, as JSON, what it sent.

    python alone.py SECONDS COMMAND...

The network is a Linux namespace: nothing outside of it can be reached. Its one device is the
loopback, which the default route leads to; its resolver answers each name with an address of the
loopback, and a listener there accepts each connection. COMMAND runs to its end or for SECONDS.
The exit status is 77 where the system allows no namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

NOT_ALLOWED = 77
NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000
BIND, PRIVATE_BELOW = 0x1000, 0x40000 | 0x4000
SET_FLAGS, ADD_ROUTE, UP = 0x8914, 0x890B, 0x1
ALL_PACKETS = 3
PORTS = (80, 443, 4318, 8080)
HERE = socket.inet_aton("127.0.0.9")

libc = ctypes.CDLL(None, use_errno=True)


def called(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def leave() -> None:
    """Into a network and mounts of its own; as root of a new user where this is not root."""
    uid, gid = os.geteuid(), os.getegid()
    called(libc.unshare(NEW_NETWORK | NEW_MOUNTS | (NEW_USER if uid else 0)))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    called(libc.mount(b"none", b"/", None, PRIVATE_BELOW, None))
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("nameserver 127.0.0.1\n")
        file.flush()
        called(libc.mount(file.name.encode(), b"/etc/resolv.conf", None, BIND, None))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))
        device = ctypes.create_string_buffer(b"lo")
        any_address = struct.pack("H14x", socket.AF_INET)
        route = struct.pack(
            "L16s16s16sHhLPhPLLH", 0, *[any_address] * 3, UP, 0, 0, 0, 0,
            ctypes.addressof(device), 0, 0, 0,
        )  # fmt: skip
        fcntl.ioctl(control, ADD_ROUTE, route)


def answer(server: socket.socket, names: list[str]) -> None:
    """Every question with one address; the names that were asked for."""
    while True:
        question, sender = server.recvfrom(512)
        name, at = [], 12
        while question[at]:
            name.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
            at += 1 + question[at]
        names.append(".".join(name))
        kind = question[at + 1 : at + 3]
        known = kind == b"\0\x01"
        head = question[:2] + b"\x81\x80\0\x01" + (b"\0\x01" if known else b"\0\0") + b"\0\0\0\0"
        found = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + HERE if known else b""
        server.sendto(head + question[12 : at + 5] + found, sender)


def accept(server: socket.socket, seen: list[str]) -> None:
    while True:
        connection, _ = server.accept()
        address, port = connection.getsockname()
        seen.append(f"{address}:{port}")
        connection.close()


def sniff(wire: socket.socket, sent: list[str]) -> None:
    """Every packet of IP by its protocol and receiver, the loopback delivers each twice."""
    while True:
        packet, where = wire.recvfrom(65535)
        if where[2] == socket.PACKET_OUTGOING:
            continue
        version = packet[0] >> 4
        to = socket.inet_ntoa(packet[16:20]) if version == 4 else f"version {version}"
        sent.append(f"{to}, protocol {packet[9]}")


def main() -> None:
    seconds, command = float(sys.argv[1]), sys.argv[2:]
    try:
        leave()
    except OSError as error:
        print(f"no namespace of the network's own: {error}")  # noqa: T201
        sys.exit(NOT_ALLOWED)
    names: list[str] = []
    connections: list[str] = []
    packets: list[str] = []
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ALL_PACKETS))
    resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    resolver.bind(("127.0.0.1", 53))
    work = [(sniff, wire, packets), (answer, resolver, names)]
    for port in PORTS:
        server = socket.create_server(("0.0.0.0", port))
        work.append((accept, server, connections))
    for what, where, seen in work:
        threading.Thread(target=what, args=(where, seen), daemon=True).start()
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    try:
        said, _ = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.kill()
        said, _ = running.communicate()
    found = {"names": names, "connections": connections, "packets": packets}
    print(json.dumps({**found, "status": running.returncode, "said": said[-4000:]}))  # noqa: T201


if __name__ == "__main__":
    main()
