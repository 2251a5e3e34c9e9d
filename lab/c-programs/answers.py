"""A server whose answers have a known length: reads a line with a number, sends so many bytes and closes.

answers.py ADDRESS PORT
"""

import socketserver
import sys


class Answer(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        if line:
            self.wfile.write(b"." * int(line))


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


with Server((sys.argv[1], int(sys.argv[2])), Answer) as server:
    print("ready", file=sys.stderr, flush=True)
    server.serve_forever()
