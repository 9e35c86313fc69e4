"""SEAL objects to residue arrays and back, through SEAL's own serialisation.

SEAL saves and loads by path only, so bytes pass through an anonymous memory file. It always
compresses what it saves and also loads uncompressed objects, whose layout is: a 16-byte header
(magic, header size, version 4.x, compression 0, total size), then for a plaintext parms id (32
bytes), coefficient count, scale, and a nested array; for a ciphertext parms id, NTT flag, size,
N, primes, scale, correction factor, and a nested array.
"""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
import tenseal.sealapi as seal
import zstandard

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.scalars import Residues

_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC = 0xA15E
_HEADER_BYTES = 16


class SealContext:
    """SEAL's objects for one parameter set, and the memory file that carries bytes."""

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
        literal.set_poly_modulus_degree(parameters.poly_degree)
        literal.set_coeff_modulus([seal.Modulus(p) for p in parameters.all_primes])
        self.context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
        assert self.context.parameters_set()
        self.evaluator = seal.Evaluator(self.context)
        self._file = os.memfd_create("seal", os.MFD_CLOEXEC)
        self._path = f"/proc/self/fd/{self._file}"
        # Set by every dump to what this SEAL writes.
        self.version: tuple[int, int] = (4, 0)
        plain = seal.Plaintext()
        seal.CKKSEncoder(self.context).encode(1.0, 2.0**20, plain)
        self._parms_id = self.dump(plain)[:32]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def dump(self, obj: Any) -> bytes:
        """The uncompressed body of a SEAL object, header left out."""
        os.ftruncate(self._file, 0)
        obj.save(self._path)
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        _, _, major, minor, _, _, _ = _HEADER.unpack(data[:_HEADER_BYTES])
        self.version = (major, minor)
        return zstandard.ZstdDecompressor().decompressobj().decompress(data[_HEADER_BYTES:])

    def load(self, obj: Any, body: bytes) -> Any:
        """Fill `obj` from an uncompressed body that this process built."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self.header(len(body)) + body, 0)
        obj.load(self.context, self._path)
        return obj

    def header(self, body_bytes: int) -> bytes:
        """Header of an uncompressed object."""
        major, minor = self.version
        size = _HEADER_BYTES + body_bytes
        return _HEADER.pack(_MAGIC, _HEADER_BYTES, major, minor, 0, 0, size)

    def to_ciphertext(self, residues: Residues, scale: float = 1.0) -> Any:
        """NTT residues (polynomials, primes, N) as a SEAL ciphertext."""
        return self.load(seal.Ciphertext(), self.ciphertext_body(residues, self._parms_id, scale))

    def ciphertext_body(self, residues: Residues, parms_id: bytes, scale: float) -> bytes:
        """Body of a ciphertext at the level of `parms_id`."""
        size, primes, n = residues.shape
        fields = struct.pack("<BQQQdQ", 1, size, n, primes, scale, 1)
        return parms_id + fields + self._array(residues)

    def from_ciphertext(self, ciphertext: Any) -> Residues:
        """Residues (2, primes, N) of a two-polynomial SEAL ciphertext."""
        p = self.parameters
        shape = (2, len(p.primes), p.poly_degree)
        count = 2 * len(p.primes) * p.poly_degree
        return np.frombuffer(self.dump(ciphertext)[-8 * count :], np.uint64).reshape(shape).copy()

    def from_plaintext(self, plaintext: Any) -> Residues:
        """Residues (primes, N) of a SEAL plaintext."""
        p = self.parameters
        count = len(p.primes) * p.poly_degree
        body = self.dump(plaintext)[-8 * count :]
        return np.frombuffer(body, np.uint64).reshape(len(p.primes), p.poly_degree).copy()

    def to_switching_keys(self, keys: Any, entries: dict[int, Residues], size: int) -> Any:
        """Fill SEAL's GaloisKeys or RelinKeys: index to (digits, 2, primes + 1, N)."""
        public = seal.PublicKey()
        seal.KeyGenerator(self.context).create_public_key(public)
        parms_id = self.dump(public)[:32]
        parts = [parms_id, struct.pack("<Q", size)]
        for index in range(size):
            digits = entries.get(index)
            parts.append(struct.pack("<Q", 0 if digits is None else len(digits)))
            for residues in digits if digits is not None else ():
                body = self.ciphertext_body(residues, parms_id, 1.0)
                parts += [self.header(len(body)), body]
        return self.load(keys, b"".join(parts))

    def _array(self, residues: Residues) -> bytes:
        data = np.ascontiguousarray(residues).tobytes()
        return self.header(8 + len(data)) + struct.pack("<Q", residues.size) + data
