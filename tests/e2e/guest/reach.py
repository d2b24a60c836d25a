"""Runs inside a sandbox: which of the given `address:port` accept a TCP connection. Prints them as a JSON list."""

import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor


def reachable(target):
    address, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((address.strip("[]"), int(port)), timeout=float(sys.argv[1])):
            return True
    except OSError:
        return False


targets = sys.argv[2:]
with ThreadPoolExecutor(64) as pool:
    answers = list(pool.map(reachable, targets))
print(json.dumps([target for target, answer in zip(targets, answers) if answer]))
