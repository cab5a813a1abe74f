#!/usr/bin/env python3
"""A second implementation of the creto formats, written from docs/envelope-format.md and docs/protocol.md alone.

Reads the golden files, checks every rule of the pages, verifies both signatures of records, login and batch, follows
every path to the root, and opens every message, sealed and of a session. Needs Python 3.10 and `cryptography` 48 or newer.

    python3 docs/examples/verify_envelope.py [DIRECTORY]        (default: envelope/golden)
"""

import hashlib
import pathlib
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

BATCH_HEADER_BYTES = 3448
ENVELOPE_BYTES_MAX = 1_049_872
SESSION_MESSAGES_MAX = 4096


class Reject(Exception):
    """A rule is broken; the number is the reject code."""


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def require(holds, code):
    if not holds:
        raise Reject(code)


class Reader:
    """Takes fields off the front; a missing byte is the reject code `short`."""

    def __init__(self, data, short):
        self.data, self.short, self.at = data, short, 0

    def take(self, count):
        require(self.at + count <= len(self.data), self.short)
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind):
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def zeros(self, count, code):
        require(not any(self.take(count)), code)

    def end(self, code):
        require(self.at == len(self.data), code)


# envelope-format.md, section 2


def agent_id(trust_domain, name):
    return sha256(b"creto/agent-id/v1", trust_domain, b"\0", name)[:16]


def key_id(x25519, ml_kem_768):
    return sha256(b"creto/key-id/v1", x25519, ml_kem_768)[:16]


# Section 3: both signatures must hold.


def verify(ed25519_key, ml_dsa_65_key, statement, ed25519, ml_dsa_65, code):
    try:
        Ed25519PublicKey.from_public_bytes(ed25519_key).verify(ed25519, statement)
        MLDSA65PublicKey.from_public_bytes(ml_dsa_65_key).verify(ml_dsa_65, statement)
    except InvalidSignature:
        raise Reject(code) from None


def labelled(label, rest):
    return bytes([len(label)]) + label + rest


def parse_signed_key_record(data):
    outer = Reader(data, 104)
    record_bytes = outer.number("I")
    outer.zeros(4, 106)
    raw = outer.take(record_bytes)
    reader = Reader(raw, 104)
    record_format, algorithms, state, purpose = reader.take(4)
    require(record_format in (1, 2) and algorithms == 3 and state <= 2, 106)
    require(purpose == 0 if record_format == 1 else 1 <= purpose <= 3, 106)
    record = {"version": reader.number("I"), "agent": reader.take(16)}
    record["valid_from_ms"], record["valid_until_ms"] = reader.number("Q"), reader.number("Q")
    record["key_id"] = reader.take(16)
    for field, size in (("ed25519", 32), ("x25519", 32), ("ml_dsa_65", 1952), ("ml_kem_768", 1184)):
        record[field] = reader.take(size)
    name_bytes, trust_domain_bytes = reader.number("H"), reader.number("H")
    reader.zeros(4, 106)
    name = reader.take(name_bytes)
    require(name_bytes <= 128 and re.fullmatch(rb"[a-z0-9._-]+/[a-z0-9._-]+", name), 106)
    trust_domain = reader.take(trust_domain_bytes)
    require(re.fullmatch(rb"[a-z0-9._-]{1,255}", trust_domain), 106)
    record["purpose"], record["token_binding"] = purpose, reader.take(32) if purpose == 1 else None
    reader.end(104)
    require(record["version"] > 0 and record["agent"] == agent_id(trust_domain, name), 106)
    require(record["key_id"] == key_id(record["x25519"], record["ml_kem_768"]), 106)
    ed25519, ml_dsa_65 = outer.take(64), outer.take(3309)
    outer.end(104)
    statement = labelled(b"creto/key-record/v1", raw[:2] + b"\0" + raw[3:])
    verify(record["ed25519"], record["ml_dsa_65"], statement, ed25519, ml_dsa_65, 311)
    return record


# Section 4


def parse_envelope(data):
    require(len(data) >= 160, 200)
    version, suite, kind, priority, flags, reserved0, wrapped, payload, _ttl = struct.unpack_from("<6BHII", data)
    sender, recipient, _channel, message_id, _correlation = (data[at : at + 16] for at in range(16, 96, 16))
    _timestamp, counter, key, session, nonce, reserved1 = struct.unpack_from("<QQ16s16s12sI", data, 96)
    require(version == 1, 202)
    require(suite in (1, 2), 203)
    require(1 <= kind <= 7, 204)
    require(priority <= 3, 205)
    require(flags <= 3 and (flags == 0 or kind != 5) and reserved0 == reserved1 == 0, 208)
    require(payload <= 1_048_592, 201)
    require((wrapped == 1120 or (suite == 2 and wrapped == 0)) and payload >= 16, 206)
    require(len(data) >= 160 + wrapped + payload, 200)
    require(len(data) <= 160 + wrapped + payload, 206)
    require(counter == 0 if suite == 1 else counter < SESSION_MESSAGES_MAX, 209 if suite == 1 else 212)
    require(nonce == bytes(4) + struct.pack("<Q", counter), 209)
    require(any(session) == (suite == 2), 208 if suite == 1 else 213)
    require(message_id[6] >> 4 == 7 and message_id[8] >> 6 == 2, 210)
    return {
        "header": data[:160], "sender": sender, "recipient": recipient, "message_id": message_id, "key_id": key,
        "nonce": nonce, "wrapped_key": data[160 : 160 + wrapped], "payload": data[160 + wrapped :],
        "suite": suite, "session_id": session, "counter": counter,
    }


# Section 5


class RecipientKey:
    def __init__(self, x_wing_seed):
        expanded = hashlib.shake_256(x_wing_seed).digest(96)
        self.ml_kem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
        self.x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
        self.x25519_public = self.x25519.public_key().public_bytes_raw()
        self.key_id = key_id(self.x25519_public, self.ml_kem.public_key().public_bytes_raw())

    def decapsulate(self, wrapped_key):
        """The shared secret. The library refuses an all-zero X25519 secret."""
        ct_m, ct_x = wrapped_key[:1088], wrapped_key[1088:]
        ss_m = self.ml_kem.decapsulate(ct_m)
        ss_x = self.x25519.exchange(X25519PublicKey.from_public_bytes(ct_x))
        return hashlib.sha3_256(ss_m + ss_x + ct_x + self.x25519_public + bytes.fromhex("5c2e2f2f5e5c")).digest()

    def open(self, envelope):
        """The plaintext, the shared secret and the message key."""
        require(envelope["suite"] == 1, 213)
        secret = self.decapsulate(envelope["wrapped_key"])
        info = b"creto/sealed/v1\0" + envelope["header"]
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        plaintext = AESGCM(key).decrypt(envelope["nonce"], envelope["payload"], envelope["header"])
        return plaintext, secret, key


# Section 6


class Session:
    """The recipient's end. It keeps what it skipped; erasing is left to those who write for more than an example."""

    def __init__(self, recipient, opener):
        peers = opener["sender"] + opener["recipient"] + opener["key_id"]
        self.id = sha256(b"creto/session-id/v1", peers, opener["wrapped_key"])[:16]
        require(self.id == opener["session_id"], 213)
        info = b"creto/session/v1\0" + self.id + peers
        secret = recipient.decapsulate(opener["wrapped_key"])
        self.chain = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
        self.keys = []

    def open(self, envelope):
        require(envelope["suite"] == 2 and envelope["session_id"] == self.id, 213)
        while len(self.keys) <= envelope["counter"]:
            okm = HKDFExpand(algorithm=SHA256(), length=64, info=b"creto/session-step/v1").derive(self.chain)
            self.chain, key = okm[:32], okm[32:]
            self.keys.append(key)
        key = self.keys[envelope["counter"]]
        return AESGCM(key).decrypt(envelope["nonce"], envelope["payload"], envelope["header"]), key


# Section 7


def leaf_hash(salt, envelope):
    return sha256(b"\0", salt, envelope)


def node_hash(left, right):
    return sha256(b"\1", left, right)


def tree_root(level):
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [node_hash(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def root_from_path(leaf, index, size, path):
    require(index < size, 224)
    node, position, width, path = leaf, index, size, list(path)
    while width > 1:
        if position ^ 1 < width:
            require(path, 224)
            sibling = path.pop(0)
            node = node_hash(node, sibling) if position % 2 == 0 else node_hash(sibling, node)
        position, width = position // 2, (width + 1) // 2
    require(not path, 224)
    return node


# Sections 8 and 9


def parse_batch_header(data):
    reader = Reader(data[:BATCH_HEADER_BYTES], 225)
    raw = reader.take(BATCH_HEADER_BYTES)
    version, suite, flags, size, key_version, reserved, sender, signed_at, root, ed25519, ml_dsa_65, pad = (
        struct.unpack("<BBHIII16sQ32s64s3309s3s", raw)
    )
    require(version == 1, 222)
    require(suite == 1, 223)
    require(flags == reserved == 0 and not any(pad), 227)
    require(size >= 1, 220)
    require(size <= 1024, 221)
    statement = labelled(b"creto/batch/v1", struct.pack("<B16sII32sQ", suite, sender, key_version, size, root, signed_at))
    return {
        "size": size, "sender": sender, "key_record_version": key_version, "signed_at_ms": signed_at, "root": root,
        "statement": statement, "ed25519": ed25519, "ml_dsa_65": ml_dsa_65,
    }


def parse_batch(data):
    require(len(data) <= 2_097_152, 101)
    header = parse_batch_header(data)
    reader = Reader(data, 225)
    reader.take(BATCH_HEADER_BYTES)
    entries = []
    for _ in range(header["size"]):
        salt, envelope_bytes = reader.take(16), reader.number("I")
        reader.zeros(4, 227)
        require(envelope_bytes <= ENVELOPE_BYTES_MAX, 201)
        require(envelope_bytes >= 160, 200)
        entries.append((salt, reader.take(envelope_bytes)))
        reader.zeros(-envelope_bytes % 8, 227)
    reader.end(226)
    return header, entries


def verify_batch_header(header, record):
    require(header["sender"] == record["agent"], 304)
    require(header["key_record_version"] == record["version"], 306)
    require(record["valid_from_ms"] <= header["signed_at_ms"] < record["valid_until_ms"], 307)
    verify(
        record["ed25519"], record["ml_dsa_65"], header["statement"], header["ed25519"], header["ml_dsa_65"], 311
    )


# protocol.md, sections 4, 5, 7 and 8


def parse_frame(data, expect):
    body_bytes, frame_type, version, reserved = struct.unpack_from("<IBBH", data)
    require(version == 1, 102)
    require(reserved == 0, 106)
    require(frame_type == expect, 105)
    require(body_bytes == len(data) - 8, 104)
    return data[8:]


def parse_login(body):
    reader = Reader(body, 104)
    agent, version = reader.take(16), reader.number("I")
    reader.zeros(4, 106)
    ed25519, ml_dsa_65 = reader.take(64), reader.take(3309)
    reader.zeros(3, 106)
    reader.end(104)
    return agent, version, ed25519, ml_dsa_65


def login_statement(exporter, agent, version):
    return labelled(b"creto/login/v1", exporter + agent + struct.pack("<I", version))


def parse_deliver(body, last_header):
    reader = Reader(body, 104)
    count, flags = reader.number("I"), reader.number("I")
    require(flags <= 1, 106)
    require(count <= 1024, 221)
    header = parse_batch_header(reader.take(BATCH_HEADER_BYTES)) if flags else last_header
    messages = []
    for _ in range(count):
        message = {"sequence": reader.number("Q"), "leaf_index": reader.number("I")}
        path_length, message["attempt"] = reader.number("B"), reader.number("B")
        reader.zeros(2, 106)
        message["salt"], envelope_bytes = reader.take(16), reader.number("I")
        reader.zeros(4, 106)
        require(path_length <= 10, 104)
        require(160 <= envelope_bytes <= ENVELOPE_BYTES_MAX, 206)
        message["path"] = [reader.take(32) for _ in range(path_length)]
        message["envelope"] = reader.take(envelope_bytes)
        reader.zeros(-envelope_bytes % 8, 106)
        messages.append(message)
    reader.end(104)
    return header, messages


def main(directory):
    golden = lambda name: bytes.fromhex((directory / name).read_text())
    planner = parse_signed_key_record(golden("planner.key-record.hex"))
    executor = parse_signed_key_record(golden("executor.key-record.hex"))
    recipient = RecipientKey(bytes(range(0xA0, 0xC0)))
    require(recipient.key_id == executor["key_id"], 407)
    print(f"key records hold: planner {planner['agent'].hex()}, executor {executor['agent'].hex()}")

    enrolled = parse_signed_key_record(golden("planner-enrolled.key-record.hex"))
    token_hash = hashlib.sha256(b"\x5a" * 32).digest()
    binding = hashlib.sha256(b"creto/enrol-token/v1" + token_hash + planner["agent"]).digest()
    require((enrolled["purpose"], enrolled["token_binding"]) == (1, binding), 106)
    emergency = parse_signed_key_record(golden("planner-emergency.key-record.hex"))
    require((emergency["version"], emergency["purpose"]) == (2, 3), 106)
    print("records for a token and for a rotation hold")

    agent, version, ed25519, ml_dsa_65 = parse_login(parse_frame(golden("login.hex"), 0x10))
    statement = login_statement(b"\xee" * 32, agent, version)
    require(agent == planner["agent"], 302)
    verify(planner["ed25519"], planner["ml_dsa_65"], statement, ed25519, ml_dsa_65, 301)
    print("login holds")

    body = parse_frame(golden("signed-batch.hex"), 0x20)
    header, entries = parse_batch(body[8:])
    verify_batch_header(header, planner)
    require(tree_root([leaf_hash(*entry) for entry in entries]) == header["root"], 224)
    print(f"batch {int.from_bytes(body[:8], 'little')} holds: {len(entries)} messages under {header['root'].hex()}")
    for index, (_, raw) in enumerate(entries):
        require(raw == golden(f"envelope-{index}.hex"), 200)
        show(index, raw, header, executor, recipient)

    for stream in (["deliver-first.hex", "deliver-next.hex"], ["deliver-again.hex"]):
        header = None
        for name in stream:
            header, messages = parse_deliver(parse_frame(golden(name), 0x33), header)
            verify_batch_header(header, planner)
            for message in messages:
                leaf = leaf_hash(message["salt"], message["envelope"])
                root = root_from_path(leaf, message["leaf_index"], header["size"], message["path"])
                require(root == header["root"], 224)
                print(f"{name}: sequence {message['sequence']}, attempt {message['attempt']}, path holds")
                show(message["leaf_index"], message["envelope"], header, executor, recipient)

    envelopes = [parse_envelope(golden(f"session-envelope-{index}.hex")) for index in range(3)]
    session = Session(recipient, envelopes[0])
    print(f"session {session.id.hex()}")
    for envelope in (envelopes[2], envelopes[0], envelopes[1]):
        require(envelope["sender"] == planner["agent"] and envelope["recipient"] == executor["agent"], 304)
        plaintext, key = session.open(envelope)
        print(f"  counter {envelope['counter']}, key {key.hex()[:16]}...: {plaintext.decode()!r}")


def show(index, raw, header, executor, recipient):
    envelope = parse_envelope(raw)
    require(envelope["sender"] == header["sender"] and envelope["recipient"] == executor["agent"], 304)
    require(envelope["key_id"] == recipient.key_id, 407)
    plaintext, secret, key = recipient.open(envelope)
    print(f"  message {index}, secret {secret.hex()[:16]}..., key {key.hex()[:16]}...: {plaintext.decode()!r}")


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else here.parent.parent / "envelope" / "golden")
