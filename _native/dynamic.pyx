"""Finds functions of libraries that the extension modules of other packages have loaded. Loads nothing itself.

dlsym on the handle of an extension searches it and then the libraries it was linked with, so that the very same library
is found wherever the wheel, the distribution or the linker put it.
"""

cdef extern from "<dlfcn.h>" nogil:
    void *dlopen(const char *path, int mode)
    void *dlsym(void *handle, const char *symbol)
    const char *dlerror()
    int RTLD_LAZY
    int RTLD_NOLOAD


cdef void *loaded(str extension_path) except NULL:
    """The handle of an extension module that is imported already; ImportError when it is not."""
    cdef bytes path = extension_path.encode()
    cdef void *handle = dlopen(path, RTLD_LAZY | RTLD_NOLOAD)
    cdef const char *reason
    if handle == NULL:
        reason = dlerror()
        raise ImportError(f"{extension_path} is not loaded: {b'' if reason == NULL else reason!r}")
    return handle


cdef int find_symbol(void *handle, const char *symbol, void **slot, str advice) except -1:
    """Puts the address of `symbol` into `slot`. ImportError with the `advice` when there is none."""
    slot[0] = dlsym(handle, symbol)
    if slot[0] == NULL:
        raise ImportError(f"the library does not export {symbol.decode()}, which penstock needs. {advice}")
    return 0
