"""Large integers, UUIDs and addresses into column nodes. Owns nothing."""

from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset, strlen

from _native.buffer cimport buffer_bytes
from _native.node cimport WRONG_TYPE, Node, refuse
from _native.python_api cimport PyUnicode_AsUTF8AndSize, is_a

cdef extern from "arpa/inet.h":
    int inet_pton(int family, const char *text, void *out) noexcept
    int AF_INET, AF_INET6

cdef extern from *:
    """
    /* An int as little-endian bytes: 1 when it fits, 0 when not, -1 with an exception set. */
    static int penstock_long_bytes(PyObject *value, unsigned char *out, size_t width, int is_signed) {
    #if PY_VERSION_HEX >= 0x030D0000
        int flags = Py_ASNATIVEBYTES_LITTLE_ENDIAN;
        Py_ssize_t needed;
        if (!is_signed) {
            PyObject *zero = PyLong_FromLong(0);
            int negative = zero ? PyObject_RichCompareBool(value, zero, Py_LT) : -1;
            Py_XDECREF(zero);
            if (negative != 0) return negative < 0 ? -1 : 0;
            flags |= Py_ASNATIVEBYTES_UNSIGNED_BUFFER;
        }
        needed = PyLong_AsNativeBytes(value, out, (Py_ssize_t)width, flags);
        return needed < 0 ? -1 : needed <= (Py_ssize_t)width;
    #else
        if (_PyLong_AsByteArray((PyLongObject *)value, out, width, 1, is_signed) == 0) return 1;
        if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return -1;
        PyErr_Clear();
        return 0;
    #endif
    }
    """
    int penstock_long_bytes(PyObject *value, unsigned char *out, size_t width, bint signed) except -1

cdef uint8_t NOT_HEX = 0xff
cdef uint8_t[256] HEX


cdef void fill_hex() noexcept:
    cdef int value
    memset(HEX, NOT_HEX, 256)
    for value in range(10):
        HEX[48 + value] = <uint8_t>value
    for value in range(10, 16):
        HEX[87 + value] = HEX[55 + value] = <uint8_t>value


fill_hex()


cdef bint long_bytes(PyObject *value, uint8_t *out, size_t width, bint signed) except -1:
    """An int as `width` little-endian bytes; false when it does not fit."""
    return penstock_long_bytes(value, out, width, signed)


cdef int put_uuid(Node *node, object value) except -1:
    """uuid.UUID, or its text with or without dashes. Stored as two UInt64, the high half first."""
    cdef uint8_t number[16]
    cdef Py_ssize_t length
    cdef const char *text
    if PyUnicode_Check(value):
        try:
            text = PyUnicode_AsUTF8AndSize(<PyObject *>value, &length)
        except UnicodeEncodeError:
            return refuse(node, WRONG_TYPE, <PyObject *>value)
        if not parse_uuid(text, length, number):
            return refuse(node, WRONG_TYPE, <PyObject *>value)
    elif is_a(value, UUID):
        integer = value.int
        long_bytes(<PyObject *>integer, number, 16, False)
    else:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    return store_uuid(node, number)


cdef int store_uuid(Node *node, const uint8_t *number) except -1 nogil:
    """16 little-endian bytes, as two UInt64 with the high half first."""
    cdef uint8_t stored[16]
    memcpy(stored, number + 8, 8)
    memcpy(stored + 8, number, 8)
    return buffer_bytes(&node.data, stored, 16)


cdef bint parse_uuid(const char *text, Py_ssize_t length, uint8_t *number) noexcept nogil:
    """36 characters with dashes or 32 without, into 16 little-endian bytes."""
    cdef const uint8_t *cursor = <const uint8_t *>text
    cdef uint8_t high, low
    cdef int index
    if length != 36 and length != 32:
        return False
    for index in range(16):
        if length == 36 and (index == 4 or index == 6 or index == 8 or index == 10):
            if cursor[0] != b"-":
                return False
            cursor += 1
        high, low = HEX[cursor[0]], HEX[cursor[1]]
        if high == NOT_HEX or low == NOT_HEX:
            return False
        number[15 - index] = <uint8_t>(high << 4 | low)
        cursor += 2
    return True


cdef int put_ipv4(Node *node, object value) except -1:
    """ipaddress.IPv4Address, or dotted text. Stored as a little-endian UInt32."""
    cdef uint8_t address[4]
    cdef uint8_t stored[4]
    if is_a(value, IPv4Address):
        packed = value.packed
        memcpy(address, PyBytes_AS_STRING(packed), 4)
    elif not parse_address(AF_INET, value, address):
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    stored[0], stored[1], stored[2], stored[3] = address[3], address[2], address[1], address[0]
    return buffer_bytes(&node.data, stored, 4)


cdef int put_ipv6(Node *node, object value) except -1:
    """ipaddress.IPv6Address or IPv4Address, or the text of one; IPv4 is stored as ::ffff:a.b.c.d."""
    cdef uint8_t address[16]
    memset(address, 0, 10)
    memset(address + 10, 0xff, 2)
    if is_a(value, IPv6Address):
        packed = value.packed
        memcpy(address, PyBytes_AS_STRING(packed), 16)
    elif is_a(value, IPv4Address):
        packed = value.packed
        memcpy(address + 12, PyBytes_AS_STRING(packed), 4)
    elif not parse_address(AF_INET, value, address + 12) and not parse_address(AF_INET6, value, address):
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    return buffer_bytes(&node.data, address, 16)


cdef bint parse_address(int family, object value, uint8_t *out) except -1:
    """Address text as inet_pton reads it; false for anything else."""
    cdef Py_ssize_t length
    cdef const char *text
    if not PyUnicode_Check(value):
        return False
    try:
        text = PyUnicode_AsUTF8AndSize(<PyObject *>value, &length)
    except UnicodeEncodeError:
        return False
    return <Py_ssize_t>strlen(text) == length and inet_pton(family, text, out) == 1
