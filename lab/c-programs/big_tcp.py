"""Sets how large IPv4 packets of a device may be before they are cut (gso_ipv4_max_size, gro_ipv4_max_size; Linux 6.3),
by rtnetlink: the `ip` of Debian 12 does not know them.

big_tcp.py DEVICE BYTES
"""

import os
import socket
import struct
import sys

RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR = 16, 1, 4, 2
IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE = 63, 64

device, size = sys.argv[1], int(sys.argv[2])
body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0)
for attribute in (IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE):
    body += struct.pack("=HHI", 8, attribute, size)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
head = struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
netlink.sendto(head + body, (0, 0))
_, kind, _, _, _, error = struct.unpack("=IHHIIi", netlink.recv(4096)[:20])
if kind != NLMSG_ERROR or error:
    raise SystemExit(f"{device}: {os.strerror(-error)}")
