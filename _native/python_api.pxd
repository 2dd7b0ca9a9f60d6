"""CPython calls that take borrowed pointers, so that the hot path counts no references."""

from cpython.object cimport PyObject

cdef extern from *:
    """
    /* Whether value is an instance of type by its bases alone; type.__instancecheck__ is not asked. */
    #define PENSTOCK_IS_A(value, type) PyObject_TypeCheck(value, (PyTypeObject *)(type))
    """
    bint is_a "PENSTOCK_IS_A"(object value, object type) noexcept

cdef extern from "Python.h":
    bint PyLong_CheckExact(PyObject *value) noexcept
    bint PyFloat_CheckExact(PyObject *value) noexcept
    double PyFloat_AS_DOUBLE(PyObject *value) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) except? -1
    bint PyUnicode_CheckExact(PyObject *value) noexcept
    const char *PyUnicode_AsUTF8AndSize(PyObject *value, Py_ssize_t *length) except NULL
    # NULL with an exception set, which the caller must clear; no check is made after the call
    const char *utf8_or_null "PyUnicode_AsUTF8AndSize"(PyObject *value, Py_ssize_t *length) noexcept
    void PyErr_Clear() noexcept
    PyObject *Py_True
    PyObject *Py_False
