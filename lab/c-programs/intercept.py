"""C intercept 1.0.0, as its peers and the network see it; written from the byte layouts, not from our codec.

One thread, blocking in both directions as the C program: whoever stalls it stalls everybody. It captures the first
bytes of each packet, finds the connection by the 32-bit sum that is C's route key, and combines records by C's rules.
On SIGINT it prints what it has seen as JSON.

intercept.py INTERFACE SOURCE_PORT PORT [not-combined] [payload] [cut]

cut: frames leave in pieces, now and then one of them stops in the middle for 50 ms.
"""

import json
import random
import select
import signal
import socket
import struct
import sys
import time

HELLO_TYPE, ADD, DEL = 6, 1, 2
DELAY_SECONDS = 30
PACKETS_PER_EVENT = 10


def route_key(cip, cport, tip, tport):
    """The sum over raw network-order words, as read by a little-endian machine."""
    cip, tip = (struct.unpack("<I", socket.inet_aton(a))[0] for a in (cip, tip))
    cport, tport = (struct.unpack("<H", struct.pack(">H", p))[0] for p in (cport, tport))
    return ((cport << 16) + cip + cport + tip + (tport << 24) + (tport << 8) + tport) & 0xFFFFFFFF


class Peer:
    def __init__(self, connection):
        self.connection = connection
        self.greeted = False
        self.buffer = []
        self.touched = 0


class Intercept:
    def __init__(self, interface, source_port, port, words):
        self.combined = "not-combined" not in words
        self.size = 192 if "payload" in words else 64
        self.most = 6 if "payload" in words else 16
        self.cut = "cut" in words
        self.threshold = self.most
        self.random = random.Random(1)
        self.source_port = source_port
        self.snap = 14 + (248 if "payload" in words else 120)
        self.packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self.packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self.packets.bind((interface, 0))
        self.packets.setblocking(False)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("0.0.0.0", port))
        self.listener.listen(5)
        self.peers, self.routes, self.delayed = {}, {}, {}
        self.seen = dict.fromkeys(
            ("hellos", "adds", "dels", "unknown", "records", "frames", "lost", "combined", "refused"), 0)

    def run(self):
        print("ready", file=sys.stderr, flush=True)
        while True:
            fds = [self.packets.fileno(), self.listener.fileno(), *self.peers]
            for fd in select.select(fds, [], [], 0.002)[0]:
                if fd == self.packets.fileno():
                    self.capture()
                elif fd == self.listener.fileno():
                    connection, _ = self.listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.peers[connection.fileno()] = Peer(connection)
                elif fd in self.peers:
                    self.message(fd)
            for fd in list(self.peers):
                self.flush(fd)

    def message(self, fd):
        """One record of a peer; recv blocks until it is whole, as in C."""
        peer = self.peers[fd]
        first = self.take(peer, 8)
        if first is None:
            return self.close(fd)
        cip, cport, kind = socket.inet_ntoa(first[:4]), *struct.unpack(">HH", first[4:])
        if not peer.greeted and (first[:6] != bytes(6)):
            self.seen["refused"] += 1
            return self.close(fd)
        rest = self.take(peer, 6)
        if rest is None:
            return self.close(fd)
        if not peer.greeted:
            peer.greeted = True
            self.seen["hellos"] += kind == HELLO_TYPE
        elif kind == ADD:
            self.seen["adds"] += 1
            key = route_key(cip, cport, socket.inet_ntoa(rest[:4]), struct.unpack(">H", rest[4:])[0])
            self.routes[key] = fd
            for record in self.delayed.pop(key, (0, []))[1]:
                self.append(fd, record)
        elif kind == DEL:
            self.seen["dels"] += 1
        else:
            self.seen["unknown"] += 1

    def take(self, peer, count):
        data = b""
        while len(data) < count:
            piece = peer.connection.recv(count - len(data))
            if not piece:
                return None
            data += piece
        return data

    def close(self, fd):
        # Routes to this descriptor stay, and count again for whoever gets the number next.
        self.peers.pop(fd).connection.close()

    def capture(self):
        for _ in range(PACKETS_PER_EVENT):
            try:
                frame, (_, _, kind, _, _) = self.packets.recvfrom(self.snap)
            except BlockingIOError:
                return
            packet = frame[14:]
            # Not our own; the filter "tcp and src port N".
            if kind == socket.PACKET_OUTGOING or packet[9] != 6:
                continue
            ihl = (packet[0] & 15) * 4
            tcp = packet[ihl:]
            if ihl < 20 or len(tcp) < 20 or struct.unpack(">H", tcp[:2])[0] != self.source_port:
                continue
            self.response(packet, tcp)

    def response(self, packet, tcp):
        header = (tcp[12] >> 4) * 4
        record = bytearray(self.size)
        record[:20] = packet[:20]
        kept = min(header, 44)
        record[20:20 + kept] = tcp[:kept]
        payload = struct.unpack(">H", packet[2:4])[0] - (len(packet) - len(tcp)) - header
        if self.size == 192 and 1 <= payload <= 128:
            data = tcp[header:header + payload]
            record[20 + header:20 + header + len(data)] = data
            del record[192:]
        sport, dport = struct.unpack(">HH", tcp[:4])
        key = route_key(socket.inet_ntoa(packet[16:20]), dport, socket.inet_ntoa(packet[12:16]), sport)
        fd = self.routes.get(key)
        if fd in self.peers:
            self.append(fd, bytes(record))
        elif fd is None and tcp[13] & 0x06:
            since, records = self.delayed.setdefault(key, (time.time(), []))
            if time.time() - since < DELAY_SECONDS:
                records.append(bytes(record))
        else:
            self.seen["lost"] += 1

    def append(self, fd, record):
        peer = self.peers.get(fd)
        if peer is None:
            return
        self.seen["records"] += 1
        peer.buffer.append(record)
        if len(peer.buffer) >= self.threshold or not self.combined:
            self.threshold = min(self.threshold + 1, self.most)
            self.send(fd)
        else:
            self.flush(fd)

    def flush(self, fd):
        peer = self.peers.get(fd)
        tick = time.time_ns() // 1_000_000
        if peer and peer.buffer and peer.touched != tick:
            if len(peer.buffer) < self.threshold:
                self.threshold = max(self.threshold - 1, 1)
            self.send(fd)
        if peer:
            peer.touched = tick

    def send(self, fd):
        peer = self.peers[fd]
        records, peer.buffer = peer.buffer, []
        frame = b"".join(records)
        if self.combined:
            frame = struct.pack(">H", len(records)) + frame
        self.seen["frames"] += 1
        self.seen["combined"] += len(records) > 1
        try:
            if self.cut and self.random.random() < 0.2:
                at = self.random.randrange(1, len(frame))
                peer.connection.sendall(frame[:at])
                if self.random.random() < 0.1:
                    time.sleep(0.05)
                frame = frame[at:]
            peer.connection.sendall(frame)
        except OSError:
            self.close(fd)


def main():
    interface, source_port, port, *words = sys.argv[1:]
    intercept = Intercept(interface, int(source_port), int(port), words)

    def stop(*_):
        print(json.dumps(intercept.seen), flush=True)
        sys.exit(0)

    signal.signal(signal.SIGINT, stop)
    intercept.run()


main()
