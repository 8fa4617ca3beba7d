"""Whole numbers as bytes, few for small ones, and what reads them."""

from nextpixel.errors import InputError

LONGEST_NUMBER = 10  # bytes


def leb128(number: int) -> bytes:
    """A whole number in groups of 7 bits, lowest first, each but the last with its high bit set.

    Example:
        >>> leb128(300).hex()
        'ac02'
    """
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


class Reader:
    """Takes bytes and LEB128 numbers from a string of bytes, one after the other.

    Example:
        >>> reader = Reader(bytes.fromhex("ac0205"))
        >>> reader.number(), reader.bytes(1), reader.finished
        (300, b'\\x05', True)
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    @property
    def finished(self) -> bool:
        return self.at == len(self.data)

    def bytes(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            InputError: there are not so many.
        """
        if self.at + count > len(self.data):
            raise InputError("it is cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        """The next number.

        Raises:
            InputError: it is cut off or longer than 10 bytes.
        """
        found = 0
        for k in range(LONGEST_NUMBER):
            byte = self.bytes(1)[0]
            found |= (byte & 127) << 7 * k
            if byte < 128:
                return found
        raise InputError("a number is too long")
