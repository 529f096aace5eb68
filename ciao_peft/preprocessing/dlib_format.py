"""Reads the numbers in dlib's files: nothing is executed, and nothing is made larger than the bytes that are there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import AdapterFileError, shortened

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DlibReader"]


class DlibReader:
    """Takes one value after another from the content of a file that dlib's `serialize` wrote.

    A whole number is one byte (its low four bits say how many bytes follow, its top bit the sign) and those bytes,
    the lowest first. A real number is two whole ones, a mantissa and an exponent of 2.

    Args:
        content: All bytes of the file.
        name: The file, for messages.

    Attributes:
        place: How many bytes have been taken.

    Example:
        >>> reader = DlibReader(bytes([0x01, 5, 0x82, 0x00, 0x01, 0x01, 3, 0x81, 2]), "numbers.dat")
        >>> reader.integer(), reader.integer(), reader.real()  # 3 * 2 ** -2
        (5, -256, 0.75)
    """

    place: int

    def __init__(self, content: bytes, name: str):
        self._content, self._name, self.place = content, name, 0

    def fail(self, what: str) -> AdapterFileError:
        """The error that says what is wrong, in which file and where.

        Args:
            what: Goes on after "'FILE' ".

        Example:
            >>> str(DlibReader(b"", "numbers.dat").fail("is empty"))
            "'numbers.dat' is empty (at byte 0). Take the file from its package again."
        """
        return AdapterFileError(
            f"'{self._name}' {what} (at byte {self.place:,}). Take the file from its package again."
        )

    def take(self, count: int) -> bytes:
        """The next bytes.

        Args:
            count: How many, from 0 up.

        Raises:
            AdapterFileError: the file ends before.

        Example:
            >>> DlibReader(b"abc", "numbers.dat").take(2)
            b'ab'
        """
        end = self.place + count
        if not 0 <= count <= len(self._content) - self.place:
            raise self.fail("is cut off, or no file of dlib's of this kind")
        taken, self.place = self._content[self.place : end], end
        return taken

    def integer(self) -> int:
        """The next whole number, of at most 8 bytes.

        Raises:
            AdapterFileError: there is none.

        Example:
            >>> DlibReader(bytes([0x02, 1, 1]), "numbers.dat").integer()
            257
        """
        (head,) = self.take(1)
        size = head & 0x0F
        if head & 0x70 or size > 8:
            raise self.fail("has no whole number where one must be")
        value = int.from_bytes(self.take(size), "little")
        return -value if head & 0x80 else value

    def real(self) -> float:
        """The next real number, in single precision and finite.

        Raises:
            AdapterFileError: there is none.

        Example:
            >>> DlibReader(bytes([0x01, 1, 0x01, 3]), "numbers.dat").real()
            8.0
        """
        mantissa, exponent = self.integer(), self.integer()
        # dlib writes exponents of 32,000 and more for what is no number.
        if abs(mantissa) >= 2**53 or abs(exponent) > 400:
            raise self.fail("has no finite number where one must be")
        return math.ldexp(mantissa, exponent)

    def count(self, most: int, what: str) -> int:
        """The next whole number, which says how many things follow.

        Args:
            most: How many there may be.
            what: Their name in the plural, for the message.

        Raises:
            AdapterFileError: it is negative or too large.

        Example:
            >>> DlibReader(bytes([0x01, 15]), "numbers.dat").count(500, "trees")
            15
        """
        number = self.integer()
        if not 0 <= number <= most:
            raise self.fail(f"says that it holds {number:,} {what}; there can be {most:,} at most")
        return number

    def expect(self, number: int, what: str) -> None:
        """Takes a whole number that must be this one.

        Args:
            number: What it must be.
            what: What it stands for, for the message.

        Raises:
            AdapterFileError: it is another one.

        Example:
            >>> DlibReader(bytes([0x01, 1]), "numbers.dat").expect(1, "version")
        """
        if (found := self.integer()) != number:
            raise self.fail(f"has {found} as {what}, must have {number}")

    def text(self, longest: int) -> str:
        """The next text.

        Args:
            longest: How many bytes it may have.

        Raises:
            AdapterFileError: it is longer, or no text.

        Example:
            >>> DlibReader(bytes([0x01, 5]) + b"con_4", "numbers.dat").text(32)
            'con_4'
        """
        taken = self.take(self.count(longest, "letters of a name"))
        if not taken.isascii():
            raise self.fail(f"has {shortened(repr(taken))} where a name must be")
        return taken.decode("ascii")

    def tensor(self, size: int, what: str) -> np.ndarray:
        """The numbers of the next tensor: a version, four sides, and single-precision numbers as they lie in memory.

        Args:
            size: How many numbers it must have.
            what: What the tensor is, for the message.

        Returns:
            `(size,)`, float32.

        Raises:
            AdapterFileError: it has another size, the file ends before, or a number is not finite.

        Example:
            >>> content = bytes([0x01, 2, 0x01, 1, 0x01, 1, 0x01, 1, 0x01, 1, 0, 0, 128, 63])
            >>> DlibReader(content, "numbers.dat").tensor(1, "bias").tolist()
            [1.0]
        """
        import numpy as np

        self.expect(2, f"version of the tensor {what}")
        sides = [self.integer() for _ in range(4)]
        if min(sides) < 0 or math.prod(sides) != size:
            raise self.fail(f"has {what} of {' x '.join(map(str, sides))} numbers, must have {size:,}")
        values = np.frombuffer(self.take(4 * size), dtype="<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise self.fail(f"holds NaN or infinite values in {what}")
        return values

    def end(self) -> None:
        """Checks that all has been taken.

        Raises:
            AdapterFileError: something is left over.

        Example:
            >>> DlibReader(b"", "numbers.dat").end()
        """
        if self.place != len(self._content):
            raise self.fail(f"goes on for {len(self._content) - self.place:,} bytes where it must end")
