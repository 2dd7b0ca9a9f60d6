"""Decimal text and numbers into Decimal columns. Owns nothing; works in integers throughout, never in binary floats.

A Decimal, an int or a str must fit exactly: digits after the column's scale are refused unless they are zeros. A float
is its shortest decimal text, rounded half to even at the scale, because what stands behind it was never exact.
"""

import re
from decimal import Decimal

cimport cython
from cpython.float cimport PyFloat_Check
from cpython.long cimport PyLong_Check
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check

from _native.buffer cimport buffer_bytes
from _native.node cimport OUT_OF_RANGE, WRONG_TYPE, Node, refuse
from _native.python_api cimport PyUnicode_AsUTF8AndSize, is_a

cdef enum:
    ZERO = 48           # the character 0

cdef int EXPONENT_MAX = 100_000
cdef int WIDE_DIGITS_MAX = 1000


@cython.overflowcheck(False)
cdef bint parse_number(const char *text, Py_ssize_t length, Number *number) noexcept nogil:
    """`[+-] digits [. digits] [e [+-] digits]` with a digit before the exponent; false for any other text."""
    cdef Py_ssize_t position = 0
    cdef bint point = False
    cdef bint any_digit = False
    cdef char c
    number.digits = 0
    number.count = number.exponent = 0
    number.negative = length > 0 and text[0] == b"-"
    if length and (text[0] == b"-" or text[0] == b"+"):
        position = 1
    while position < length:
        c = text[position]
        if b"0" <= c <= b"9":
            any_digit = True
            number.exponent -= point
            number.count += number.count > 0 or c != b"0"
            if number.count <= DIGITS_MAX:
                number.digits = number.digits * 10 + (c - ZERO)
        elif c == b"." and not point:
            point = True
        else:
            break
        position += 1
    if not any_digit:
        return False
    return position == length or parse_exponent(text + position, length - position, number)


cdef bint parse_exponent(const char *text, Py_ssize_t length, Number *number) noexcept nogil:
    cdef Py_ssize_t position = 1
    cdef bint negative = False
    cdef int exponent = 0
    if text[0] != b"e" and text[0] != b"E":
        return False
    if length > 1 and (text[1] == b"-" or text[1] == b"+"):
        negative = text[1] == b"-"
        position = 2
    if position == length:
        return False
    while position < length:
        if not b"0" <= text[position] <= b"9":
            return False
        if exponent < EXPONENT_MAX:
            exponent = exponent * 10 + (text[position] - ZERO)
        position += 1
    number.exponent += -exponent if negative else exponent
    return True


@cython.overflowcheck(False)
cdef uint128 power_of_ten(int exponent) noexcept nogil:
    """10^exponent for 0 to 38."""
    cdef uint128 power = 1
    cdef uint128 base = 10
    while exponent:
        if exponent & 1:
            power *= base
        base *= base
        exponent >>= 1
    return power


cdef int put_decimal(Node *node, object value) except -1:
    """Decimal, int, float, str."""
    cdef Py_ssize_t length
    cdef const char *text
    cdef Number number
    cdef bint rounding = PyFloat_Check(value)
    cdef bint is_text = PyUnicode_Check(value)
    cdef object held = value
    if PyLong_Check(value) and not isinstance(value, bool):
        if value.bit_length() > 256:
            return refuse(node, OUT_OF_RANGE, <PyObject *>value)
        held = str(int(value))
    elif rounding:
        held = repr(float(value))
    elif is_a(value, Decimal):
        held = str(value)
    elif not is_text:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    try:
        text = PyUnicode_AsUTF8AndSize(<PyObject *>held, &length)
    except UnicodeEncodeError:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if length > EXPONENT_MAX or not parse_number(text, length, &number):
        return refuse(node, WRONG_TYPE if is_text else OUT_OF_RANGE, <PyObject *>value)
    if number.count > DIGITS_MAX or node.precision > DIGITS_MAX:
        return put_wide(node, held, rounding, value)
    return put_number(node, &number, rounding, value)


cdef int put_number(Node *node, Number *number, bint rounding, object value) except -1:
    cdef uint128 scaled
    if not scale_number(node, number, rounding, &scaled):
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    return buffer_bytes(&node.data, &scaled, node.width)


@cython.overflowcheck(False)
cdef bint scale_number(const Node *node, const Number *number, bint rounding, uint128 *stored) noexcept nogil:
    """Brings the digits to the column's scale; false when they do not fit. At most 38 digits, before and after."""
    cdef int shift = number.exponent + node.scale
    cdef uint128 scaled = 0
    cdef uint128 divisor, rest
    if number.count:
        if shift >= 0:
            if number.count + shift > node.precision:
                return False
            scaled = number.digits * power_of_ten(shift)
        else:
            rest = number.digits
            divisor = 0
            if -shift <= DIGITS_MAX:
                divisor = power_of_ten(-shift)
                scaled = number.digits // divisor
                rest = number.digits % divisor
            if rest and not rounding:
                return False
            if divisor and (rest > divisor - rest or (rest == divisor - rest and scaled & 1)):
                scaled += 1
        if scaled >= power_of_ten(node.precision):
            return False
    stored[0] = -scaled if number.negative else scaled
    return True


cdef int put_wide(Node *node, str text, bint rounding, object value) except -1:
    """The same in Python integers, for more than 38 digits."""
    scaled = scale_wide(text, node.precision, node.scale, rounding)
    if scaled is None:
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    stored = scaled.to_bytes(node.width, "little", signed=True)
    return buffer_bytes(&node.data, <const char *><bytes>stored, node.width)


PARTS = re.compile(r"([+-]?)(\d*)\.?(\d*)(?:[eE]([+-]?)(\d+))?\Z", re.ASCII)


def scale_wide(text, precision, scale, rounding):
    """The number in `text` times 10^scale, or None when that is no integer of `precision` digits."""
    sign, whole, fraction, exponent_sign, exponent = PARTS.match(text).groups()
    exponent = int((exponent or "").lstrip("0")[:7] or "0")
    shift = (-exponent if exponent_sign == "-" else exponent) - len(fraction) + scale
    digits = (whole + fraction).lstrip("0")
    shift += len(digits) - len(digits.rstrip("0"))
    digits = digits.rstrip("0")
    if not digits:
        return 0
    if len(digits) > WIDE_DIGITS_MAX or len(digits) + shift > precision:
        return None
    if shift >= 0:
        scaled, rest, divisor = int(digits) * 10**shift, 0, 2
    elif -shift > len(digits):
        scaled, rest, divisor = 0, 1, 3
    else:
        divisor = 10**-shift
        scaled, rest = divmod(int(digits), divisor)
    if rest and not rounding:
        return None
    if rest * 2 > divisor or (rest * 2 == divisor and scaled & 1):
        scaled += 1
    if scaled >= 10**precision:
        return None
    return -scaled if sign == "-" else scaled
