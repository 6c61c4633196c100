"""The host of a network case: namespaces of its own, which need no rights, with services that note who comes.

What is in it runs by HostNetwork.within. Its addresses are those of its loopback, and two that stand for its LAN.
"""

import hashlib
import http.server
import json
import os
import random
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time

LAN = "192.0.2.1"
LAN6 = "2001:db8::1"
LOOPBACK = "127.0.0.1"
LOOPBACK6 = "::1"
ADDRESSES = [LOOPBACK, LAN, LOOPBACK6, LAN6]
WEB = 8080    # TCP on all of them: of_the_host at /answer, N bytes at /bytes/N, the digest of what is posted
ECHO = 9000   # UDP on all of them: the same back
FLOOD = 9001  # UDP on LAN: counted
DNS = 53      # UDP on LAN, which /etc/resolv.conf names: 192.0.2.7, whatever the question
NAME_IS = "192.0.2.7"
OF_THE_HOST = "of-the-host"


def content(size):
    """What /bytes/SIZE says."""
    return random.Random(size).randbytes(size)


def digest(data):
    return hashlib.md5(data).hexdigest()


class HostNetwork:
    """Used in a with statement. `folder` is for its files; in it, "service" is a Unix socket that serves as WEB does."""

    def __init__(self, folder):
        self.folder = folder
        # Root needs no user namespace; and in the rig it could have none, for a process in a chroot may not make one.
        own = os.geteuid() != 0
        self.process = subprocess.Popen(
            ["unshare", "--net", "--mount", *(["--user", "--map-root-user"] if own else []), sys.executable, "-B",
             __file__, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.within = ["nsenter", "--target", str(self.process.pid), "--net", "--mount",
                       "--root", "--wd", *(["--user", "--preserve-credentials"] if own else [])]
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("no namespace for the network case")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def flood(self):
        """Of the datagrams to FLOOD: their bytes, and the seconds between the first and the last one."""
        return self._ask("flood")

    def seen(self):
        """All that has come so far: a list of (kind, address of the host), of kinds "tcp", "udp", "dns", "unix"."""
        return [tuple(entry) for entry in self._ask("seen")]


SEEN = []


class Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/bytes/"):
            self.answer(content(int(self.path.rpartition("/")[2])))
        else:
            self.answer(OF_THE_HOST.encode())

    def do_POST(self):
        self.answer(digest(self.rfile.read(int(self.headers["Content-Length"]))).encode())

    def answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address, port):
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.note = ("tcp", address)
        super().__init__((address, port), Web)

    def get_request(self):
        SEEN.append(self.note)   # a connection is enough
        return super().get_request()


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def get_request(self):
        SEEN.append(("unix", ""))
        return super().get_request()[0], ("unix", 0)


class Datagrams(socketserver.UDPServer):
    def __init__(self, kind, address, port, answer):
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.max_packet_size = 65536
        self.note = (kind, address)
        self.answer = answer
        super().__init__((address, port), None)

    def finish_request(self, request, client_address):
        SEEN.append(self.note)
        self.socket.sendto(self.answer(request[0]), client_address)


class Flood:
    """Where guests send as much as they can."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((LAN, FLOOD))
        self.bytes = 0
        self.first = self.last = 0

    def serve_forever(self):
        while True:
            size = len(self.socket.recv(65536))
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.bytes += size


def dns_answer(question):
    """RFC 1035, 4.1: an address for those who ask for one, and for others the news that there is no such record."""
    end = question.index(b"\0", 12) + 5
    is_a = struct.unpack(">H", question[end - 4:end - 2])[0] == 1
    head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, 1 if is_a else 0, 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(NAME_IS)
    return head + question[12:end] + (record if is_a else b"")


def main(folder):
    for command in ("ip link set lo up", f"ip addr add {LAN}/32 dev lo", f"ip addr add {LAN6}/128 dev lo nodad"):
        subprocess.run(command.split(), check=True)
    with open("/proc/sys/net/ipv4/ping_group_range", "w") as file:
        file.write("0 0")   # who is in it lets everybody ping
    resolv_conf = os.path.join(folder, "resolv.conf")
    with open(resolv_conf, "w") as file:
        file.write(f"nameserver {LAN}\n")
    subprocess.run(["mount", "--bind", resolv_conf, os.path.realpath("/etc/resolv.conf")], check=True)

    flood = Flood()
    servers = [flood, UnixServer(os.path.join(folder, "service"), Web), Datagrams("dns", LAN, DNS, dns_answer)]
    for address in ADDRESSES:
        servers += [TcpServer(address, WEB), Datagrams("udp", address, ECHO, lambda data: data)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        answer = (flood.bytes, flood.last - flood.first) if line == "flood\n" else SEEN
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
