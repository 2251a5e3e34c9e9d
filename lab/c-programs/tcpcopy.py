"""C tcpcopy 1.3.0, as intercept and the target see it; written from the byte layouts, not from our codec.

It opens blocking connections to intercept, says hello on each, and plays clients that do not exist: CLIENT_ADD before
each SYN, packets by a raw IP socket. What the target answers comes back by intercept only, in C's records; each one is
checked, and a client's answer must be whole by the lengths that they tell. The last line is JSON; the exit status says
whether everything was right.

tcpcopy.py INTERCEPT PORT TARGET TARGET_PORT FIRST_CLIENT SESSIONS
"""

import json
import select
import socket
import struct
import sys
import time

CONNECTIONS = 2
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
# One byte, a segment, more than one packet, GSO packets, more than a window.
SIZES = (0, 1, 1448, 5000, 70_000, 800_000)
OPTIONS = bytes([2, 4, 5, 0xB4, 4, 2, 8, 10]) + struct.pack(">II", 1000, 0) + bytes([1, 3, 3, 7])
LIMIT_SECONDS = 40
SYN_RETRY_SECONDS = 1


def hello(version=6):
    return struct.pack(">IHHIH", 0, 0, version, 0, 0)


def client_add(client, port, target, target_port):
    return socket.inet_aton(client) + struct.pack(">HH", port, 1) + socket.inet_aton(target) + struct.pack(">H", target_port)


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Client:
    def __init__(self, address, port, size):
        self.address, self.port, self.size = address, port, size
        self.seq, self.expected, self.first = 1000, None, None
        self.timestamp = 0
        self.sent_at = 0
        self.finished = False
        self.retransmitted = 0


class Tcpcopy:
    def __init__(self, intercept, port, target, target_port, first, sessions):
        self.target, self.target_port = target, target_port
        # Blocking, one after the other, as at C's start.
        self.connections = [socket.create_connection((intercept, port)) for _ in range(CONNECTIONS)]
        for connection in self.connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(hello())
        # Others, which must not disturb: one that stops within its hello, one of another version that stops within
        # a record and sends types that nobody knows, one that never reads.
        self.stalled = socket.create_connection((intercept, port))
        self.stalled.sendall(hello()[:5])
        self.other = socket.create_connection((intercept, port))
        self.other.sendall(hello(5) + struct.pack(">IHHIH", 1, 1, 99, 1, 1) + b"\x0a\x4d")
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        network, last = first.rsplit(".", 1)
        self.clients = {}
        for n in range(sessions):
            address = f"{network}.{int(last) + n % 7}"
            self.clients[address, 20000 + n] = Client(address, 20000 + n, SIZES[n % len(SIZES)])
        self.seen = dict.fromkeys(("frames", "records", "payload", "retransmitted", "most", "syns"), 0)

    def run(self):
        # Both directions of a session on the connection that announced it; the routes go round.
        waiting = list(self.clients.values())
        start = time.monotonic()
        while not all(c.finished for c in self.clients.values()):
            if time.monotonic() - start > LIMIT_SECONDS:
                left = [c.port for c in self.clients.values() if not c.finished]
                raise SystemExit(f"{len(left)} clients have no whole answer: ports {left[:8]}")
            for number, client in enumerate(waiting[:8]):
                record = client_add(client.address, client.port, self.target, self.target_port)
                self.connections[(client.port + number) % CONNECTIONS].sendall(record)
                self.syn(client)
            waiting = waiting[8:]
            for client in self.clients.values():
                silent = time.monotonic() - client.sent_at > SYN_RETRY_SECONDS
                if client.sent_at and client.expected is None and silent:
                    self.syn(client)
            for connection in select.select(self.connections, [], [], 0.005)[0]:
                self.frame(connection)

    def frame(self, connection):
        """One frame; recv blocks until it is whole, as C spins."""
        count = struct.unpack(">H", self.take(connection, 2))[0]
        if not 1 <= count <= 16:
            raise SystemExit(f"a frame announces {count} records")
        self.seen["frames"] += 1
        self.seen["most"] = max(self.seen["most"], count)
        for _ in range(count):
            self.seen["records"] += 1
            self.record(self.take(connection, 64))

    @staticmethod
    def take(connection, count):
        data = b""
        while len(data) < count:
            piece = connection.recv(count - len(data))
            if not piece:
                raise SystemExit("intercept closed the connection")
            data += piece
        return data

    def record(self, record):
        def expect(what, got, good):
            if not good:
                raise SystemExit(f"{what}: got {got} in {record.hex(' ')}")

        expect("version and header length", hex(record[0]), record[0] == 0x45)
        expect("protocol", record[9], record[9] == 6)
        total = struct.unpack(">H", record[2:4])[0]
        source, destination = (socket.inet_ntoa(record[at:at + 4]) for at in (12, 16))
        sport, dport, seq, ack = struct.unpack(">HHII", record[20:32])
        doff, flags, window = record[32] >> 4, record[33], struct.unpack(">H", record[34:36])[0]
        expect("data offset", doff, 5 <= doff <= 11)
        expect("source", (source, sport), (source, sport) == (self.target, self.target_port))
        client = self.clients.get((destination, dport))
        expect("client", (destination, dport), client is not None)
        expect("rest behind the options", "bytes", not any(record[20 + doff * 4:]))
        options = self.options(record[40:20 + doff * 4], expect)
        length = total - 20 - doff * 4
        expect("payload length", length, length >= 0)
        self.seen["payload"] += length
        if flags & RST:
            expect("reset", flags, client.finished)
            return
        if flags & SYN:
            expect("acknowledged", ack, ack == 1001 and flags & ACK)
            expect("options of a SYN-ACK", sorted(options), {2, 3, 4, 8} <= set(options))
            client.timestamp = options[8][:4]
            if client.expected is None:
                client.first = client.expected = (seq + 1) & 0xFFFFFFFF
                client.seq = 1001
                request = b"%d\n" % client.size
                self.send(client, ACK)
                self.send(client, ACK | PSH, request)
                client.seq += len(request)
            return
        expect("window", window, window > 0)
        expect("options of data", sorted(options), 8 in options)
        client.timestamp = options[8][:4]
        if client.expected is None:
            return
        end = (seq + length + (flags & FIN)) & 0xFFFFFFFF
        if seq != client.expected:
            # Sent again: C counts, and takes what is new.
            client.retransmitted += 1
            if (end - client.expected) & 0xFFFFFFFF >= 1 << 31 or end == client.expected:
                return self.send(client, ACK)
            expect("sequence number", seq, (client.expected - seq) & 0xFFFFFFFF < 1 << 31)
        client.expected = end
        if length or flags & FIN:
            self.send(client, ACK)
        if flags & FIN and not client.finished:
            got = (end - client.first - 1) & 0xFFFFFFFF
            expect("length of the answer", got, got == client.size)
            client.finished = True
            self.send(client, FIN | ACK)
            client.seq += 1

    @staticmethod
    def options(area, expect):
        found, at = {}, 0
        while at < len(area) and area[at]:
            if area[at] == 1:
                at += 1
                continue
            length = area[at + 1] if at + 1 < len(area) else 0
            expect("option length", length, 2 <= length <= len(area) - at)
            found[area[at]] = area[at + 2:at + length]
            at += length
        return found

    def syn(self, client):
        self.seen["syns"] += 1
        client.sent_at = time.monotonic()
        self.send(client, SYN, options=OPTIONS, seq=1000, ack=0)

    def send(self, client, flags, payload=b"", options=None, seq=None, ack=None):
        if options is None:
            options = bytes([1, 1, 8, 10]) + struct.pack(">I", 1001) + client.timestamp
        ack = client.expected if ack is None else ack
        seq = client.seq if seq is None else seq
        doff = (20 + len(options)) // 4
        # 65535 unscaled; the options of the SYN multiply it by 128.
        tcp = struct.pack(">HHIIBBHHH", client.port, self.target_port, seq, ack, doff << 4, flags, 65535, 0, 0)
        tcp += options + payload
        ends = socket.inet_aton(client.address) + socket.inet_aton(self.target)
        total = checksum(ends + struct.pack(">HH", 6, len(tcp)) + tcp)
        tcp = tcp[:16] + struct.pack(">H", total) + tcp[18:]
        # Identification and checksum are the kernel's (raw(7)).
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + ends
        self.raw.sendto(ip + tcp, (self.target, 0))


def main():
    intercept, port, target, target_port, first, sessions = sys.argv[1:]
    tcpcopy = Tcpcopy(intercept, int(port), target, int(target_port), first, int(sessions))
    tcpcopy.run()
    clients = tcpcopy.clients.values()
    tcpcopy.seen["retransmitted"] = sum(c.retransmitted for c in clients)
    tcpcopy.seen["answered"] = sum(c.size for c in clients)
    print(json.dumps(tcpcopy.seen), flush=True)


main()
