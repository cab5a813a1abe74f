#!/usr/bin/env python3
"""Known answers of a session's key chain, computed from docs/envelope-format.md, section 6, with hashlib and hmac alone.

The tests of creto-crypto-accel hold both backends against what this prints:

    python3 docs/examples/session_vectors.py > crypto-accel/vectors/session-chain.json
"""

import hashlib
import hmac
import json

SENDER, RECIPIENT, KEY_ID = b"\x11" * 16, b"\x22" * 16, b"\x33" * 16
WRAPPED_KEY = bytes((7 * i + 3) % 256 for i in range(1120))
SHARED_SECRET = bytes(range(32))
SESSION_MESSAGES_MAX = 4096


def hmac_sha256(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


def expand(prk, info, length):
    """RFC 5869, section 2.3."""
    okm, block, number = b"", b"", 1
    while len(okm) < length:
        block = hmac_sha256(prk, block + info + bytes([number]))
        okm, number = okm + block, number + 1
    return okm[:length]


def hkdf(ikm, info, length):
    """RFC 5869 with the empty salt, which is 32 zero bytes."""
    return expand(hmac_sha256(bytes(32), ikm), info, length)


def main():
    named = SENDER + RECIPIENT + KEY_ID + WRAPPED_KEY
    session_id = hashlib.sha256(b"creto/session-id/v1" + named).digest()[:16]
    info = b"creto/session/v1\0" + session_id + SENDER + RECIPIENT + KEY_ID
    chain = hkdf(SHARED_SECRET, info, 32)
    chains, message_keys = {0: chain.hex()}, {}
    for counter in range(SESSION_MESSAGES_MAX):
        okm = expand(chain, b"creto/session-step/v1", 64)
        chain, message_key = okm[:32], okm[32:]
        if counter in (0, 1, 2, 63, 64, 127, 1000, 4094, 4095):
            message_keys[counter] = message_key.hex()
        if counter + 1 in (1, 2, 128, 4095):
            chains[counter + 1] = chain.hex()
    print(json.dumps({
        "about": "made by docs/examples/session_vectors.py",
        "sender": SENDER.hex(), "recipient": RECIPIENT.hex(), "key_id": KEY_ID.hex(),
        "wrapped_key": WRAPPED_KEY.hex(), "shared_secret": SHARED_SECRET.hex(), "session_id": session_id.hex(),
        "chains": chains, "message_keys": message_keys,
    }, indent=2))


if __name__ == "__main__":
    main()
