"""Runs inside a sandbox: listens where it is told, and tells what it does on standard output.

    ports.py ADDRESS...      listens on these addresses and port numbers, `127.0.0.1:3000`, one after the other: moves to the
                             next when it is asked for /next, and says `listening` each time. IPv6 without IPv4.
"""

import socket
import sys
import time


def listen(place):
    host, port = place.rsplit(":", 1)
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind(address)
    server.listen(64)
    return server


def head_of(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(4096)
        if not piece:
            return b""
        head += piece
    return head


def main():
    for place in sys.argv[1:]:
        server = listen(place)
        bound = time.monotonic()
        print("listening", place, flush=True)
        moved = False
        while not moved:
            connection, _ = server.accept()
            after = time.monotonic() - bound
            with connection:
                head = head_of(connection)
                moved = b" /next " in head.split(b"\r\n", 1)[0]
                body = b"%s %.6f" % (place.encode(), after)
                if moved:
                    # Before the answer: who has read it finds the port closed, or bound by the next.
                    server.close()
                if head:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    print("closed", flush=True)
    time.sleep(3600)


main()
