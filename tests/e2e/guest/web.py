"""Runs inside a sandbox: a small web server (HTTP/1.1 and websockets) with nothing but the standard library."""

import base64
import hashlib
import http.server
import json
import struct
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("Upgrade", "").lower() == "websocket":
            return self.websocket()
        if self.path == "/stream":
            return self.stream()
        if self.path == "/big":
            return self.reply(b"0123456789abcdef" * (1 << 20), "application/octet-stream")
        self.reply(json.dumps({"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()}}).encode(), "application/json")

    def do_POST(self):
        self.reply(self.body(), self.headers.get("Content-Type", "application/octet-stream"))

    do_PUT = do_PATCH = do_DELETE = do_POST

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def reply(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Method", self.command)
        self.end_headers()
        self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for i in range(4):
            piece = b"tick %d\n" % i
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
            time.sleep(0.4)
        self.wfile.write(b"0\r\n\r\n")

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        while True:
            first, second = self.rfile.read(2)
            size = second & 127
            if size == 126:
                (size,) = struct.unpack(">H", self.rfile.read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self.rfile.read(8))
            mask = self.rfile.read(4)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(size)))
            self.frame(first, data)
            if first & 15 == 8:
                return

    def frame(self, first, data):
        if len(data) < 126:
            head = bytes([first, len(data)])
        elif len(data) < 65536:
            head = bytes([first, 126]) + struct.pack(">H", len(data))
        else:
            head = bytes([first, 127]) + struct.pack(">Q", len(data))
        self.wfile.write(head + data)
        self.wfile.flush()

    def log_message(self, *_):
        pass


host, port = sys.argv[1], int(sys.argv[2])
server = http.server.ThreadingHTTPServer((host, port), Handler)
print("listening", flush=True)
server.serve_forever()
