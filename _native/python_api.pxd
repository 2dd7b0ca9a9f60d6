"""CPython calls that take borrowed pointers, so that the hot path counts no references."""

from cpython.object cimport PyObject

cdef extern from "Python.h":
    bint PyLong_CheckExact(PyObject *value) noexcept
    bint PyFloat_CheckExact(PyObject *value) noexcept
    double PyFloat_AS_DOUBLE(PyObject *value) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(PyObject *value, Py_ssize_t *length) except NULL
