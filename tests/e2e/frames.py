"""Ethernet frames as a guest that means harm would send them, by past what its own kernel would let through."""

import socket
import struct

GUEST = "10.0.2.15"
GUEST6 = "fec0::5054:ff:fe00:1"
GATEWAY = "10.0.2.2"
GATEWAY6 = "fec0::2"
SYN = 2


def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def checksum(data):
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def transport(kind, source, to, port, data, own_port):
    """A SYN ("tcp"), or a datagram ("udp"), with its checksum."""
    if kind == "tcp":
        text = struct.pack(">HHIIBBHHH", own_port, port, 1, 0, 5 << 4, SYN, 65535, 0, 0)
        protocol, at = socket.IPPROTO_TCP, 16
    else:
        text = struct.pack(">HHHH", own_port, port, 8 + len(data), 0) + data
        protocol, at = socket.IPPROTO_UDP, 6
    pseudo = packed(source) + packed(to) + struct.pack(">II" if ":" in to else ">HH",
                                                       *((len(text), protocol) if ":" in to else (protocol, len(text))))
    return protocol, text[:at] + struct.pack(">H", checksum(pseudo + text)) + text[at + 2:]


def ipv4(source, to, protocol, payload, options=b"", fragment=0):
    length = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | length // 4, 0, length + len(payload), 7, fragment, 64, protocol, 0)
    head += packed(source) + packed(to) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source, to, protocol, payload, extension=b""):
    return (struct.pack(">IHBB", 6 << 28, len(extension) + len(payload), 0 if extension else protocol, 64) +
            packed(source) + packed(to) + extension + payload)


class Attacker:
    """Frames from a card whose MAC address is `mac`."""

    def __init__(self, mac):
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.own_port = 40000   # another one for each frame: a second SYN between the same two ends opens nothing

    def transport(self, kind, source, to, port):
        self.own_port += 1
        return transport(kind, source, to, port, b"canary", self.own_port)

    def frame(self, packet, to="52:55:0a:00:02:02", kind=None, tag=b""):   # libslirp's own address (its slirp.c)
        ether_type = kind or (0x86dd if packet[0] >> 4 == 6 else 0x0800)
        return (bytes.fromhex(to.replace(":", "")) + self.mac + tag + struct.pack(">H", ether_type) + packet).ljust(60, b"\0")

    def to_ipv4(self, kind, to, port):
        """Frames that all mean to reach `port` of the address `to`."""
        def packet(source=GUEST, **more):
            return ipv4(source, to, *self.transport(kind, source, to, port), **more)

        yield self.frame(packet())
        yield self.frame(packet(), to="ff:ff:ff:ff:ff:ff")
        yield self.frame(packet(), to="01:00:5e:00:00:01")
        yield self.frame(packet(), tag=bytes.fromhex("81000000"))
        yield self.frame(packet(), kind=0x86dd)
        yield self.frame(packet(options=b"\1\1\1\0"))
        # Loose source routing (RFC 791, 3.1), by the gateway.
        protocol, payload = self.transport(kind, GUEST, to, port)
        yield self.frame(ipv4(GUEST, GATEWAY, protocol, payload, options=b"\x83\7\4" + packed(to) + b"\0"))
        # In two fragments, the second one first.
        protocol, payload = self.transport(kind, GUEST, to, port)
        yield self.frame(ipv4(GUEST, to, protocol, payload[8:], fragment=1))
        yield self.frame(ipv4(GUEST, to, protocol, payload[:8], fragment=0x2000))
        for source in (GATEWAY, "10.0.2.3", "0.0.0.0", "127.0.0.1", to, "10.0.2.77"):
            yield self.frame(packet(source))

    def to_ipv6(self, kind, to, port):
        def packet(source=GUEST6, **more):
            return ipv6(source, to, *self.transport(kind, source, to, port), **more)

        yield self.frame(packet())
        yield self.frame(packet(), to="33:33:00:00:00:01")
        yield self.frame(packet(), tag=bytes.fromhex("81000000"))
        yield self.frame(packet(), kind=0x0800)
        # A hop-by-hop header of padding (RFC 8200, 4.2), then the transport's.
        following = socket.IPPROTO_TCP if kind == "tcp" else socket.IPPROTO_UDP
        yield self.frame(packet(extension=bytes([following, 0, 1, 4, 0, 0, 0, 0])))
        for source in (GATEWAY6, "fec0::3", "::", "::1", "fe80::2", to):
            yield self.frame(packet(source))

    def arp(self, sender):
        """RFC 826: `sender` is at our address, which asks for the gateway."""
        return self.frame(struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + self.mac + packed(sender) + bytes(6) +
                          packed(GATEWAY), to="ff:ff:ff:ff:ff:ff", kind=0x0806)

    def to(self, kind, address, port):
        return list(self.to_ipv6(kind, address, port) if ":" in address else self.to_ipv4(kind, address, port))


def as_hex(frames):
    return "".join(frame.hex() + "\n" for frame in frames)
