"""Functions of libraries that other packages have loaded, found at run time."""

cdef void *loaded(str extension_path) except NULL
cdef int find_symbol(void *handle, const char *symbol, void **slot, str advice) except -1
