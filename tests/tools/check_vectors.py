#!/usr/bin/env python3
"""Checks proto/vectors/records.json and keyring.json from SPEC.md alone: standard library only, Ed25519 after RFC 8032, nothing of the C code.

usage: check_vectors.py [FOLDER]      (default proto/vectors)
"""
import base64
import hashlib
import json
import os
import sys

P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
HOP = ("sbdest", "sbhopseq", "sbhopkid", "sbhopsig")


def add(a, b):
    e = (a[1] - a[0]) * (b[1] - b[0]) % P
    f = (a[1] + a[0]) * (b[1] + b[0]) % P
    g = 2 * a[3] * b[3] * D % P
    h = 2 * a[2] * b[2] % P
    return (f - e) * (h - g) % P, (h + g) * (f + e) % P, (h - g) * (h + g) % P, (f - e) * (f + e) % P


def multiply(s, a):
    r = (0, 1, 1, 0)
    while s:
        if s & 1:
            r = add(r, a)
        a = add(a, a)
        s >>= 1
    return r


def point(b):
    y = int.from_bytes(b, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - x2) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


BASE = point(bytes([0x58]) + bytes([0x66]) * 31)


def verify(pk, message, sig):
    a, r, s = point(pk), point(sig[:32]), int.from_bytes(sig[32:], "little")
    if len(sig) != 64 or a is None or r is None or s >= Q:
        return False
    h = int.from_bytes(hashlib.sha512(sig[:32] + pk + message).digest(), "little") % Q
    left, right = multiply(s, BASE), add(r, multiply(h, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


def ns(s):
    b = s.encode()
    return b"%d:%s," % (len(b), b)


def pae(kind, body):
    return b"DSSEv1 %d %s %d " % (len(kind), kind.encode(), len(body)) + body


def body_of(attributes, value):
    signed = sorted((n.encode(), v) for n, v in attributes.items() if n != "sbsig" and n not in HOP)
    out = ns("stagebridge.event.v1") + ns(str(len(signed)))
    for n, v in signed:
        out += ns(n.decode()) + ns(v)
    return out + ns("data") + ns(hashlib.sha256(value).hexdigest())


def payload_of(envelope, root):
    """The payload of a keyring envelope, or None when the root did not sign it."""
    e = json.loads(envelope)
    payload, sig = (base64.b64decode(x.replace("-", "+").replace("_", "/")) for x in (e["payload"], e["signatures"][0]["sig"]))
    kind = "application/vnd.stagebridge.keyring.v1"
    return json.loads(payload) if e["payloadType"] == kind and verify(root, pae(kind, payload), sig) else None


def check_records(file):
    rows = {k["kid"]: k for k in payload_of(file["keyring"], bytes.fromhex(file["root_pk"]))["keys"]}
    for kid, k in rows.items():
        assert hashlib.sha256(bytes.fromhex(k["sign"])).hexdigest()[:16] == kid, kid
    checked = 0
    for v in file["vectors"]:
        a = dict(v["attributes"])
        if v["expect"] not in ("OK", "ESIG") or a["sbkid"] not in rows:
            continue
        body = body_of(a, base64.b64decode(v["value"]))
        digest = hashlib.sha256(body).hexdigest()
        holds = verify(bytes.fromhex(rows[a["sbkid"]]["sign"]), pae("application/vnd.stagebridge.event.v1", body), base64.b64decode(a["sbsig"]))
        if "sbhopsig" in a:
            hop = ns("stagebridge.hop.v1") + ns(a["sbdest"]) + ns(a["sbhopseq"]) + ns(a["sbhopkid"]) + ns(digest) + ns(a["sbsig"])
            pk = bytes.fromhex(rows[a["sbhopkid"]]["sign"])
            holds = holds and verify(pk, pae("application/vnd.stagebridge.hop.v1", hop), base64.b64decode(a["sbhopsig"]))
        assert holds == (v["expect"] == "OK"), v["name"]
        assert not holds or digest == v["digest"], v["name"]
        checked += 1
    return checked


def check_keyrings(file):
    root = bytes.fromhex(file["root_pk"])
    for v in file["vectors"]:
        signed = payload_of(v["envelope"], root) is not None
        assert signed == (v["expect"] != "ESIG" and v["name"] != "another payload type"), v["name"]
    return len(file["vectors"])


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "proto/vectors"
    for name, check in (("records", check_records), ("keyring", check_keyrings)):
        with open(os.path.join(folder, name + ".json"), encoding="utf-8") as f:
            print(f"{name}: {check(json.load(f))} signatures as expected")


if __name__ == "__main__":
    main()
