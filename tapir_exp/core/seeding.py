"""Seeds derived from names: the same in every process and on every machine, unlike Python's `hash`."""

from hashlib import sha256


def seed_digest(*parts: object, separator: str = "\0") -> bytes:
    """Return the SHA-256 of the parts as text, joined by `separator`.

    Args:
        *parts: What the draw depends on, such as a run's seed and a row id.
        separator: Text between the parts. The default, a null character, keeps ("ab", "c") and ("a", "bc") apart.
    """
    return sha256(separator.join(map(str, parts)).encode()).digest()


def derive_seed(*parts: object, separator: str = "\0", bits: int = 56) -> int:
    """Return a seed that depends on `parts` only.

    The separator and the width determine the seed, so a caller must never change them.

    Args:
        *parts: What the draw depends on.
        separator: Text between the parts.
        bits: Width of the seed, a multiple of 8 up to 256; the seed is the first `bits` bits of the digest.
    """
    return int.from_bytes(seed_digest(*parts, separator=separator)[: bits // 8])


def derive_uniform(*parts: object) -> float:
    """Return a number in (0, 1) that depends on `parts` only."""
    # The half keeps both ends out: a weighted draw takes powers of this number.
    return (derive_seed(*parts) + 0.5) / 2**56
