"""Runs inside a sandbox: prints numbered lines without end, and keeps in a file how many there are.

    lines.py DIRECTORY NAME  DIRECTORY/NAME holds the number of the last line. While there is DIRECTORY/quiet nothing is
                             printed but answers to what is typed.
"""

import os
import sys
import threading
import time

#: Answers begin with it, lines never do.
HEARD = "heard"


def line(number):
    """What a line says: its number, and more or less behind it."""
    return f"{number:08}" + "." * (number * 7919 % 120)


def main():
    directory, name = sys.argv[1:]
    printed = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(printed, b"%08d\n" % 0, 0)
    number = 0
    say(f"{HEARD} nothing yet")
    threading.Thread(target=answer, daemon=True).start()
    while True:
        time.sleep(0.1)
        if not os.path.exists(f"{directory}/quiet"):
            lines = [line(number + 1 + more) for more in range(1 + number % 6)]
            number += len(lines)
            # Before they are printed: nobody can have read a line that is not counted.
            os.pwrite(printed, b"%08d\n" % number, 0)
            say("\n".join(lines))


def answer():
    for typed in sys.stdin:
        say(f"{HEARD} {typed.strip()}")


def say(text):
    # At once and in less than a page, so that two threads do not mix their lines.
    os.write(1, f"{text}\n".encode())


if __name__ == "__main__":
    main()
