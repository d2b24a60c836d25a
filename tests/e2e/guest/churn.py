"""Runs inside a sandbox: binds ports on loopback and lets go of them, without end.

    churn.py PORT FIRST COUNT  On PORT it binds a new port for each GET, until that was asked once, and says which. Meanwhile the COUNT ports
                               from FIRST are bound in turn, one for a moment each. Whoever connects to one hears its number.
"""

import http.server
import select
import socket
import sys
import threading

#: How long each port is bound, in seconds.
MOMENT = 0.05


def listen(port):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen(16)
    return server


def answer(server):
    connection, _ = server.accept()
    with connection:
        connection.settimeout(5)
        try:
            connection.recv(65536)
            body = b"%d" % server.getsockname()[1]
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except OSError:
            pass  # whoever asked is gone


def churn(first, count):
    while True:
        for port in range(first, first + count):
            with listen(port) as server:
                if select.select([server], [], [], MOMENT)[0]:
                    answer(server)


def bound():
    """A port that answers once."""
    server = listen(0)
    port = server.getsockname()[1]

    def once():
        with server:
            answer(server)

    threading.Thread(target=once, daemon=True).start()
    return port


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"%d" % bound()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


control, first, count = map(int, sys.argv[1:])
threading.Thread(target=churn, args=(first, count), daemon=True).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", control), Handler)
print("listening", flush=True)
server.serve_forever()
